"""Which engine completes: by name, or what is fastest for the model and the machine."""

from collections.abc import Sequence
from typing import Literal, get_args

from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Generator
from antiphase.rollouts.vllm_engine import VllmGenerator, VllmOptions

EngineName = Literal["auto", "transformers", "continuous", "vllm"]
ENGINES: tuple[str, ...] = get_args(EngineName)
MOST_PLAIN_ROLLOUTS = 8


def make_generator(
    name: str,
    loaded: LoadedModel | None,
    *,
    num_rollouts: int = 1,
    end_ids: Sequence[int] = (),
    vllm: VllmOptions | None = None,
) -> Generator:
    """The engine of this name.

    Args:
        name: `transformers`, `continuous`, `vllm`, or `auto`: continuous on CUDA with flash attention and more than
            `MOST_PLAIN_ROLLOUTS` rollouts, otherwise transformers. Without flash attention the paged kind attends
            from each rollout to all others' positions under a mask.
        loaded: the model; only vLLM, which loads its own copy, does without.
        num_rollouts: that will be asked for in one call.
        end_ids: tokens that end a completion besides the model's own end tokens.
        vllm: what vLLM loads; no other engine uses it.

    Raises:
        InvalidInputError: unknown name, a model that the engine cannot take, or what it needs is not given.
        MissingExtraError: vLLM is absent.
    """
    if name not in ENGINES:
        raise InvalidInputError(f"the generator must be one of {', '.join(ENGINES)}; got {name!r}.")
    if name == "vllm":
        if vllm is None:
            raise InvalidInputError("the generator 'vllm' loads its own weights: give its VllmOptions.")
        return VllmGenerator(vllm, end_ids)
    if loaded is None:
        raise InvalidInputError(f"the generator {name!r} completes with a loaded model; got none.")
    # transformers takes seconds to import.
    from antiphase.rollouts.continuous_engine import ContinuousGenerator
    from antiphase.rollouts.transformers_engine import TransformersGenerator

    if name == "continuous" or (name == "auto" and _continuous_pays(loaded, num_rollouts)):
        return ContinuousGenerator(loaded, end_ids)
    return TransformersGenerator(loaded, end_ids)


def _continuous_pays(loaded: LoadedModel, num_rollouts: int) -> bool:
    from antiphase.rollouts.continuous_engine import can_use_flash, why_not_continuous

    if loaded.device.type != "cuda" or num_rollouts <= MOST_PLAIN_ROLLOUTS:
        return False
    return can_use_flash(loaded) and why_not_continuous(loaded) is None
