"""Sample completions in batches, reproducibly: a seed fixes each batch, and the caller's RNG state is kept."""

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from antiphase.devices import says_out_of_memory, seeded
from antiphase.errors import NonFiniteError, OutOfMemoryError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.end_tokens import end_token_union
from antiphase.rollouts.sampling_spec import Finish, Sampling
from antiphase.signals.capture import evaluating
from antiphase.types import TokenBatch


def generate(
    loaded: LoadedModel,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    batch_number: int,
    *,
    end_ids: Sequence[int] = (),
    tick: Callable[[], None] = lambda: None,
) -> list[tuple[list[int], Finish]]:
    """One completion for each prompt: its ids up to and including the end token, and how it finished.

    Args:
        loaded: the model and its tokenizer.
        prompt_ids: one row for each wanted completion (repeat a prompt to sample it again).
        sampling: how the completions are drawn.
        batch_number: the number of this batch in the run, which is part of the seed.
        end_ids: tokens that end a completion besides the model's own end tokens.
        tick: is called after every generated position.

    Raises:
        OutOfMemoryError: the batch does not fit; lower the batch size or `max_new_tokens`.
        NonFiniteError: the model's probabilities contain NaN or infinity.
    """
    model = cast(Any, unwrap(loaded.model))
    ends = end_tokens(loaded, end_ids)
    # Left padding with an explicit mask: the padding id may well be the end token.
    batch = TokenBatch.from_ids(prompt_ids, [()] * len(prompt_ids), padding_side="left", device=loaded.device)
    config = sampling_config(sampling, ends)
    with (
        seeded(loaded.device, batch_seed(sampling, batch_number)),
        evaluating(model),
        _only_this_config(model, config),
        torch.inference_mode(),
    ):
        try:
            output = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                generation_config=config,
                stopping_criteria=_ticking(tick),
            )
        except RuntimeError as error:
            raise explained(error, len(prompt_ids), sampling) from error
    return [trim(row, ends) for row in output[:, batch.input_ids.shape[1] :].tolist()]


def _ticking(tick: Callable[[], None]) -> Any:
    """Stopping criteria that never stop, called once for each generated position."""
    from transformers import StoppingCriteriaList

    def never(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        tick()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([never])


@contextlib.contextmanager
def _only_this_config(model: Any, config: Any) -> Iterator[None]:
    # transformers takes what a config leaves open, penalties and min-p included, from the model's own config.
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before


def batch_seed(sampling: Sampling, batch_number: int) -> int:
    """A 32-bit hash of both numbers: torch's CPU generator reads no more bits of a seed."""
    return zlib.crc32(f"{sampling.seed}/{batch_number}".encode())


def sampling_config(sampling: Sampling, ends: Sequence[int]) -> Any:
    """The GenerationConfig of this sampling, without any of the checkpoint's defaults."""
    from transformers import GenerationConfig

    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        **(drawn if sampling.temperature > 0 else {"do_sample": False}),
    )


def end_tokens(loaded: LoadedModel, extra: Sequence[int] = ()) -> list[int]:
    """The tokens that end a loaded model's completions; see `end_token_union`."""
    return end_token_union(getattr(unwrap(loaded.model), "generation_config", None), loaded.tokenizer, extra)


def trim(ids: list[int], ends: Sequence[int]) -> tuple[list[int], Finish]:
    """(the ids up to and including the first end token, how the completion finished)."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1], "stop"
    return ids, "length"


def explained(error: RuntimeError, num_rollouts: int, sampling: Sampling) -> Exception:
    """An error that says what to do about a failed generation; the error itself if its cause is not known."""
    text = str(error)
    if says_out_of_memory(error):
        return OutOfMemoryError(
            f"out of memory while generating {num_rollouts} rollouts at a time. Lower --batch-size (now "
            f"{num_rollouts}) or --max-new-tokens (now {sampling.max_new_tokens})."
        )
    if "probability tensor contains" in text:
        return NonFiniteError("the model's probabilities contain NaN or infinity; try --dtype float32.")
    return error
