"""Makes the engine that has a given name. The module `engine_names` knows the names."""

from collections.abc import Sequence

from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Generator
from antiphase.rollouts.engine_names import ENGINES, check_engine
from antiphase.rollouts.server_options import ServerOptions
from antiphase.rollouts.vllm_engine import VllmOptions


def make_generator(
    name: str,
    loaded: LoadedModel | None,
    *,
    end_ids: Sequence[int] = (),
    vllm: VllmOptions | None = None,
    server: ServerOptions | None = None,
) -> Generator:
    """Return a new engine that generates completions. The name chooses its kind.

    Args:
        name: `transformers`, `vllm`, `openai`, `auto` (which means transformers), or the name of an engine that was
            added to `ENGINES`.
        loaded: the loaded model. It may be None for vLLM, which loads its own copy.
        end_ids: ids of tokens that end a completion, in addition to the model's own end tokens.
        vllm: the options of vLLM; the other engines ignore them.
        server: the options of the engine `openai`, which asks a server. The other engines do not get them.

    Raises:
        InvalidInputError: the engine does not exist or cannot use this model, or the engine needs a model or options
            and they are None.
        MissingExtraError: vLLM is not installed.
        ServerError: the server of the engine `openai` cannot be reached.
    """
    check_engine(name)
    of_server = {} if server is None else {"server": server}
    return ENGINES[name](loaded, end_ids=end_ids, vllm=vllm, **of_server)
