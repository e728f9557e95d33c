"""Samples completions with transformers, one padded batch at a time.

Each rollout has a seed of its own (see `draws`). The state of the caller's random generators is not changed.
`transformers_engine` calls this module.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from antiphase.devices import held_by_others, says_out_of_memory
from antiphase.errors import NonFiniteError, OutOfMemoryError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.draws import OwnDraws
from antiphase.rollouts.end_tokens import end_token_union
from antiphase.rollouts.sampling_spec import Finish, Sampling
from antiphase.signals.capture import evaluating
from antiphase.types import TokenBatch


def generate(
    loaded: LoadedModel,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    end_ids: Sequence[int] = (),
    tick: Callable[[], None] = lambda: None,
) -> list[tuple[list[int], Finish]]:
    """Generate one completion for each prompt.

    Args:
        loaded: the model and its tokenizer.
        prompt_ids: the token ids of the prompts. A prompt that is given several times gets several completions.
        sampling: the sampling options.
        seeds: the seed of each rollout; see `rollout_seeds`. With temperature 0, they are not used.
        end_ids: ids of tokens that end a completion, in addition to the model's own end tokens.
        tick: function that is called after every generated position.

    Returns:
        (token ids, finish) for each prompt. The token ids are those of the completion with its end token. The finish
        is `stop` if there is an end token, else `length`.

    Raises:
        OutOfMemoryError: the batch does not fit into memory; lower the batch size or `max_new_tokens`.
        NonFiniteError: the model's probabilities contain NaN or infinity.
    """
    model = cast(Any, unwrap(loaded.model))
    ends = end_tokens(loaded, end_ids)
    # The batch has an explicit attention mask, since the padding id may be the id of an end token.
    batch = TokenBatch.from_ids(prompt_ids, [()] * len(prompt_ids), padding_side="left", device=loaded.device)
    config = sampling_config(sampling, ends)
    draws = OwnDraws(seeds)
    with (
        evaluating(model),
        _only_this_config(model, config),
        torch.inference_mode(),
    ):
        try:
            output = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                generation_config=config,
                logits_processor=_processors(sampling, draws),
                stopping_criteria=_ticking(tick, draws),
                # By default, the processes of a sharded training wait for each other here after every token. But each
                # has the whole weights, and completes its own number of batches.
                synced_gpus=False,
            )
        except RuntimeError as error:
            raise explained(error, len(prompt_ids), sampling, loaded.device) from error
    if not draws.finite:
        raise NonFiniteError("the model's probabilities contain NaN or infinity; try --dtype float32.")
    return [trim(row, ends) for row in output[:, batch.input_ids.shape[1] :].tolist()]


def _processors(sampling: Sampling, draws: OwnDraws) -> Any:
    """Return the logits processors that apply the sampling options and draw the tokens; None for greedy decoding."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return LogitsProcessorList()
    nucleus = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature)), *nucleus, draws])


def _ticking(tick: Callable[[], None], draws: OwnDraws) -> Any:
    """Return stopping criteria that call `tick` after each position, and stop only if a probability is not finite."""
    from transformers import StoppingCriteriaList

    def stops(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        tick()
        return torch.full((len(input_ids),), not draws.finite, dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([stops])


@contextlib.contextmanager
def _only_this_config(model: Any, config: Any) -> Iterator[None]:
    """Use `config` instead of the model's own generation config inside the `with` block."""
    # transformers would take the values that `config` does not set, such as penalties, from the model's own config.
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before


def sampling_config(sampling: Sampling, ends: Sequence[int]) -> Any:
    """Return the `GenerationConfig` for these sampling options, without the checkpoint's defaults.

    The config always asks for greedy decoding. If tokens are sampled, `OwnDraws` draws them, and greedy decoding then
    takes the drawn tokens.

    Args:
        sampling: the sampling options.
        ends: ids of the tokens that end a completion.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        do_sample=False,
    )


def end_tokens(loaded: LoadedModel, extra: Sequence[int] = ()) -> list[int]:
    """Return the ids of all tokens that end the model's completions: its own end tokens, and those in `extra`."""
    return end_token_union(getattr(unwrap(loaded.model), "generation_config", None), loaded.tokenizer, extra)


def trim(ids: list[int], ends: Sequence[int]) -> tuple[list[int], Finish]:
    """Cut the ids of a completion after its first end token.

    Returns:
        The ids up to and including the first end token, and `stop`. If there is no end token: all ids, and `length`.
    """
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1], "stop"
    return ids, "length"


def explained(
    error: RuntimeError, num_rollouts: int, sampling: Sampling, device: torch.device | None = None
) -> Exception:
    """Return an error that explains a failed generation and says what to do; `error` itself if its cause is unknown.

    Args:
        error: the error that torch raised.
        num_rollouts: the number of prompts in the batch.
        sampling: the sampling options.
        device: the device of the model; None is the current GPU, if there is one.
    """
    if says_out_of_memory(error):
        return OutOfMemoryError(
            f"out of memory while generating {num_rollouts} rollouts at a time. Lower --batch-size (now "
            f"{num_rollouts}) or --max-new-tokens (now {sampling.max_new_tokens})." + held_by_others(device)
        )
    return error
