"""The names of the engines. Importing this module imports no engine."""

from collections.abc import Callable

from antiphase.errors import InvalidInputError
from antiphase.registry import Registry
from antiphase.rollouts.engine import Generator

# Each entry is a function that makes an engine. `make_generator` calls it as `make(loaded, end_ids=…, vllm=…)`. `auto`
# is a second name of transformers.
ENGINES: Registry[Callable[..., Generator]] = Registry(
    "engine",
    {
        "auto": "antiphase.rollouts.transformers_engine:make",
        "transformers": "antiphase.rollouts.transformers_engine:make",
        "vllm": "antiphase.rollouts.vllm_engine:make",
        "openai": "antiphase.rollouts.openai_engine:make",
    },
)


def check_engine(name: str) -> None:
    """Raise InvalidInputError if no engine has this name."""
    if name == "continuous":
        raise InvalidInputError(
            "the engine 'continuous' was removed, since it was no faster than 'transformers'. Use 'transformers', or "
            "'vllm' on a GPU."
        )
    ENGINES.check(name)
