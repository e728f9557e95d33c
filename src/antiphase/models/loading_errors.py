"""Replace the errors that transformers raises while it loads a model, and hide what it prints."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from antiphase.devices import says_out_of_memory
from antiphase.errors import (
    AntiphaseError,
    InvalidInputError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedModelError,
    first_line,
)
from antiphase.models.demo import DEMO, HOW_TO_GET


@contextlib.contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Inside a `with` block that loads a model, replace the errors of transformers by errors of antiphase.

    `name` is the name of the model in the messages.
    """
    try:
        yield
    except AntiphaseError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not says_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory while loading {name!r}. Choose a narrower --dtype (bfloat16), another --device, or a "
            "smaller model."
        ) from error
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        first = first_line(error)
        if isinstance(error, ValueError) and "device_map" in str(error):
            raise InvalidInputError(f"the device map does not fit the model {name!r} ({first})") from error
        if isinstance(error, ValueError) and "Unrecognized configuration class" in str(error):
            raise UnsupportedModelError(f"{name!r} is not a causal language model: {first}") from error
        if name == DEMO:
            raise ModelNotFoundError(f"the demo model could not be found. {HOW_TO_GET}") from error
        if not Path(name).exists():
            raise ModelNotFoundError(
                f"could not load {name!r}: there is no folder of that name here, and loading it from the "
                f"hub failed ({first})"
            ) from error
        what = "directory" if Path(name).is_dir() else "file"
        raise ModelNotFoundError(f"could not load the local {what} {name!r} ({first})") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what transformers and accelerate print while a model is loaded inside the `with` block.

    Progress bars of downloads stay visible. The other progress bars are hidden if stderr is no terminal.
    """
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    if not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    hf_logging.set_verbosity(logging.ERROR)
    # This logger says that offloaded weights are on the device `meta`.
    placing = logging.getLogger("accelerate.big_modeling")
    before = placing.level
    placing.setLevel(logging.ERROR)
    try:
        yield
    finally:
        placing.setLevel(before)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
