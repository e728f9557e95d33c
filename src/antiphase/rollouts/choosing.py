"""Make the engine of a given name."""

from collections.abc import Sequence

from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Generator
from antiphase.rollouts.engine_names import ENGINES, check_engine
from antiphase.rollouts.vllm_engine import VllmOptions


def make_generator(
    name: str, loaded: LoadedModel | None, *, end_ids: Sequence[int] = (), vllm: VllmOptions | None = None
) -> Generator:
    """Make the engine of this name.

    Args:
        name: `transformers`, `vllm`, `auto`, which selects transformers, or an engine that was added to `ENGINES`.
        loaded: the loaded model. It may be None for vLLM, which loads its own copy.
        end_ids: tokens that end a completion besides the model's own end tokens.
        vllm: what vLLM loads; the other engines ignore it.

    Raises:
        InvalidInputError: there is no such engine, it cannot use this model, or something that it needs is missing.
        MissingExtraError: vLLM is not installed.
    """
    check_engine(name)
    return ENGINES[name](loaded, end_ids=end_ids, vllm=vllm)
