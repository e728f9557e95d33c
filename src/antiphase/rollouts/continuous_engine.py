"""Completions by transformers' continuous batching: rollouts share one paged cache, and each leaves when it ends.

Everything of a call is submitted at once, so the batch shrinks as rollouts end, where a padded batch waits for its
longest. The engine is made for one call and leaves the model's attention implementation, mode, generation config and
the random state as they were. Greedy completions are those of the plain generator, up to rounding.

What is drawn is fixed by the seed, the batch's number, the prompts and their order, as long as the machine, the
versions and the attention implementation stay, and the cache holds the whole call (if it does not, how much memory is
free decides when a rollout begins). It is another draw than the plain generator's of the same seed, and a rollout's
draw depends on the others of its call.

Deviation: an engine that gives other probabilities than the model itself is refused. Of transformers 5.23 it is known
that soft-capped attention (Gemma 2) is computed without the cap, and of 5.10 that windows are wrong; before the first
batch the log-probabilities of four tokens are compared, for what is not known.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import transformers

from antiphase.devices import seeded
from antiphase.errors import InvalidInputError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Completion, Generator
from antiphase.rollouts.sampling import Sampling, batch_seed, end_tokens, explained, sampling_config, trim
from antiphase.signals.capture import evaluating

_POLL_SECONDS = 1.0
_PAGE = 256  # tokens; transformers' own default
_MOST_BATCH_TOKENS = 8192  # of one forward pass; also transformers' default
_MOST_MASKED_TOKENS = 1024  # without flash attention there is a mask of this many rows, as wide as the cache
_SPARE = 1.25  # transformers admits no rollout while under 15 % of the cache is free
_HALVES = (torch.float16, torch.bfloat16)
# 5.10 gives other tokens than the plain generator, 5.23 the same; those between have not been tried.
_WINDOWS_SINCE = (5, 23)
_LAYER_TYPES = {"full_attention", "sliding_attention"}


class ContinuousGenerator(Generator):
    """Completes with the loaded model, all rollouts of a call in one paged cache.

    Args:
        loaded: model and tokenizer.
        end_ids: tokens that end a completion besides the model's own end tokens.

    Raises:
        InvalidInputError: the model cannot be served in this way.
    """

    name = "continuous"

    def __init__(self, loaded: LoadedModel, end_ids: Sequence[int] = ()) -> None:
        reason = why_not_continuous(loaded)
        if reason is not None:
            raise _refusal(loaded, reason)
        self._loaded, self._end_ids, self._checked = loaded, tuple(end_ids), False
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}

    def complete(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_number: int,
        *,
        tick: Callable[[float], None] = lambda _: None,
    ) -> list[Completion]:
        """See `Generator.complete`; `tick` is called when a rollout ends.

        Raises:
            InvalidInputError: an empty prompt, or a model that the engine cannot run or gets wrong.
            NonFiniteError: the model gives NaN probabilities.
            OutOfMemoryError: lower the batch size or `max_new_tokens`.
        """
        if not prompt_ids:
            return []
        for row, ids in enumerate(prompt_ids):
            if len(ids) == 0:
                raise InvalidInputError(f"prompt {row} has no tokens; a completion needs at least one before it.")
        if not self._checked:
            _check_agreement(self._loaded, max(prompt_ids, key=len))
            self._checked = True
        ends = end_tokens(self._loaded, self._end_ids)
        seed = batch_seed(sampling, batch_number)
        outputs = _serve(self._loaded, prompt_ids, sampling, ends, seed, tick)
        rows = [trim(list(output.generated_tokens), ends) for output in outputs]
        return [Completion(tuple(ids), finish) for ids, finish in rows]


def why_not_continuous(loaded: LoadedModel) -> str | None:
    """Why continuous batching cannot serve this model, or None if nothing is known against it."""
    model = cast(Any, unwrap(loaded.model))
    attention = str(model.config._attn_implementation)
    if attention not in ("sdpa", "eager", "paged|eager", "paged|sdpa") and "flash" not in attention:
        return f"its attention implementation is {attention!r}, and paged attention needs sdpa, eager or a flash one"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "its weights lie on several devices"
    if getattr(model, "_cached_continuous_batching_manager", None) is not None:
        return "it already has a continuous batching manager (destroy_cached_continuous_batching_manager ends it)"
    return _unpageable_layers(model.config.get_text_config())


def _unpageable_layers(config: Any) -> str | None:
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention is soft-capped, which paged attention leaves out"
    default = ["sliding_attention"] if getattr(config, "sliding_window", None) is not None else []
    types = getattr(config, "layer_types", None) or default
    if "sliding_attention" in types and _transformers_version() < _WINDOWS_SINCE:
        return "its attention has a window, and transformers is not known to page those rightly before 5.23"
    others = sorted(set(types) - _LAYER_TYPES)
    if others:
        return f"it has layers of type {', '.join(others)}, and only attention can be paged"
    return None


def _transformers_version() -> tuple[int, ...]:
    return tuple(int(part) for part in transformers.__version__.split(".")[:2])


def can_use_flash(loaded: LoadedModel) -> bool:
    """Whether flash attention is in use, or installed and fit for this model's class and dtype."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    model = cast(Any, unwrap(loaded.model))
    if "flash" in str(model.config._attn_implementation):
        return True
    supported = loaded.device.type == "cuda" and model.dtype in _HALVES and model._supports_flash_attn
    return bool(supported and (is_flash_attn_2_available() or is_flash_attn_3_available()))


def _serve(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    ends: Sequence[int],
    seed: int,
    tick: Callable[[float], None],
    *,
    logprobs: bool = False,
) -> list[Any]:
    """The GenerationOutput of each prompt, in order."""
    model = cast(Any, unwrap(loaded.model))
    with seeded(loaded.device, seed), evaluating(model), _attention_kept(model), _quiet():
        try:
            manager = _manager(loaded, prompts, sampling, ends, seed, logprobs)
            # All are queued before the thread starts, or their number in the first step would be a race.
            for row, ids in enumerate(prompts):
                manager.add_request(list(ids), request_id=str(row))
            return _collect(manager, len(prompts), tick)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise _explained(error, loaded, len(prompts), sampling) from error


def _manager(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    ends: Sequence[int],
    seed: int,
    logprobs: bool,
) -> Any:
    """An engine with its cache: for the whole call, or for as much of it at a time as the memory holds."""
    from transformers import ContinuousBatchingConfig

    model = cast(Any, unwrap(loaded.model))
    pages = sum(math.ceil((len(ids) + sampling.max_new_tokens) / _PAGE) for ids in prompts)
    flash = can_use_flash(loaded)
    most = _MOST_BATCH_TOKENS if flash else _MOST_MASKED_TOKENS
    known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
    options = {
        "max_batch_tokens": max(64, min(most, sum(map(len, prompts)))),
        "return_logprobs": logprobs,
        "seed": seed,
        "auto_switch_to_flash": flash,
    }
    options = {key: value for key, value in options.items() if key in known}
    for blocks in (math.ceil(_SPARE * pages) + 4, None):
        manager = model.init_continuous_batching(
            generation_config=sampling_config(sampling, ends),
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=blocks, **options),
        )
        try:
            manager.warmup()
        except MemoryError:
            if blocks is None:
                raise
        else:
            break
    return manager


def _collect(manager: Any, count: int, tick: Callable[[float], None]) -> list[Any]:
    done: dict[str, Any] = {}
    manager.start()
    try:
        while len(done) < count:
            result = manager.get_result(timeout=_POLL_SECONDS)
            if result is None and not manager.is_running():
                raise RuntimeError("the engine ended before its rollouts did")
            if result is not None and result.error is not None:
                raise RuntimeError(result.error)
            if result is not None and result.is_finished():
                done[result.request_id] = result
                tick(1 / count)
    finally:
        for row in range(count if len(done) < count else 0):
            manager.cancel_request(str(row))
        manager.stop(block=True)
    return [done[str(row)] for row in range(count)]


@torch.no_grad()
def _check_agreement(loaded: LoadedModel, prompt: Sequence[int]) -> None:
    """Refuse a model whose paged log-probabilities of four greedy tokens are not those of its own forward pass."""
    model = cast(Any, unwrap(loaded.model))
    greedy = Sampling(max_new_tokens=4, temperature=0)
    # The one-token neighbour shares the batch, so attention that leaks between rollouts shows.
    output = _serve(loaded, [prompt, prompt[:1]], greedy, (), 0, lambda _: None, logprobs=True)[0]
    ids = torch.tensor([[*prompt, *output.generated_tokens]], device=loaded.device)
    with evaluating(model):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    own = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
    difference = float((own.cpu() - torch.tensor(output.logprobs)).abs().max())
    most = 0.5 if model.dtype in _HALVES else 0.01
    if math.isfinite(float(own.sum())) and not difference <= most:
        raise _refusal(
            loaded, f"it gives log-probabilities that are off by {difference:.3g} (at most {most} expected)"
        )


@contextlib.contextmanager
def _attention_kept(model: Any) -> Iterator[None]:
    # transformers restores it too, but not after an error before the engine's thread has started.
    before = model.config._attn_implementation
    try:
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Errors are raised here, with advice; the engine's log would print their tracebacks as well."""
    log = logging.getLogger("ContinuousBatchingLogger")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _explained(error: Exception, loaded: LoadedModel, num_rollouts: int, sampling: Sampling) -> Exception:
    # The engine's thread hands its errors over as text, so their type is lost.
    text = str(error)
    same = torch.OutOfMemoryError(text) if isinstance(error, MemoryError) else RuntimeError(text)
    known = explained(same, num_rollouts, sampling)
    if known is not same:
        return known
    return _refusal(loaded, f"it failed ({text.splitlines()[0] if text else type(error).__name__})")


def _refusal(loaded: LoadedModel, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"continuous batching cannot complete with {loaded.name!r}: {reason}. Use the generator 'transformers'."
    )
