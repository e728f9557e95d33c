"""Which engine completes, by its name."""

from collections.abc import Sequence

from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Generator
from antiphase.rollouts.engine_names import check_engine
from antiphase.rollouts.vllm_engine import VllmGenerator, VllmOptions


def make_generator(
    name: str, loaded: LoadedModel | None, *, end_ids: Sequence[int] = (), vllm: VllmOptions | None = None
) -> Generator:
    """The engine of this name.

    Args:
        name: `transformers`, `vllm`, or `auto`, which is transformers.
        loaded: the model; only vLLM, which loads its own copy, does without.
        end_ids: tokens that end a completion besides the model's own end tokens.
        vllm: what vLLM loads; no other engine uses it.

    Raises:
        InvalidInputError: unknown name, a model that the engine cannot take, or what it needs is not given.
        MissingExtraError: vLLM is absent.
    """
    check_engine(name)
    if name == "vllm":
        if vllm is None:
            raise InvalidInputError("the engine 'vllm' loads its own weights: give its VllmOptions.")
        return VllmGenerator(vllm, end_ids)
    if loaded is None:
        raise InvalidInputError(f"the engine {name!r} completes with a loaded model; got none.")
    # transformers takes seconds to import.
    from antiphase.rollouts.transformers_engine import TransformersGenerator

    return TransformersGenerator(loaded, end_ids)
