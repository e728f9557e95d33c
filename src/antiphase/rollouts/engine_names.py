"""The names of the engines. Imports none of them."""

from typing import Literal, get_args

from antiphase.errors import InvalidInputError

EngineName = Literal["auto", "transformers", "vllm"]
ENGINES: tuple[str, ...] = get_args(EngineName)


def check_engine(name: str) -> None:
    """Raise InvalidInputError unless there is an engine of this name."""
    if name == "continuous":
        raise InvalidInputError(
            "the engine 'continuous' was removed, since it was no faster than 'transformers'. Use 'transformers', or "
            "'vllm' on a GPU."
        )
    if name not in ENGINES:
        raise InvalidInputError(f"the engine must be one of {', '.join(ENGINES)}; got {name!r}.")
