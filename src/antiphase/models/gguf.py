"""Check a GGUF file before it is loaded. The weights of such a file are dequantised while they are loaded."""

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from antiphase.errors import MissingExtraError, ModelNotFoundError

_SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


def is_gguf(name: str) -> bool:
    """Return whether the name of a model ends like the path of a GGUF file."""
    return name.lower().endswith(_SUFFIX)


def check_gguf(path: Path) -> None:
    """Raise an error if a GGUF file cannot be loaded.

    Raises:
        ModelNotFoundError: the file does not exist, is no GGUF file, is not complete, or is one of several parts of a
            model.
        MissingExtraError: a package that reads GGUF files (`gguf`, `accelerate`) is not installed.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {str(path)!r}.")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelNotFoundError(f"{str(path)!r} is no GGUF file: it does not begin with the letters GGUF.")
    part = _PART.search(path.name)
    if part is not None and int(part[1]) > 1:
        raise ModelNotFoundError(
            f"{str(path)!r} is one of {int(part[1])} files of a model. Join them first: llama-gguf-split --merge."
        )
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "demo", "reading a GGUF file")
    _check_complete(path)


def gguf_revision(path: Path) -> str:
    """Return a text that identifies a GGUF file: its name without ending, and the first 12 digits of its sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{path.stem}-{digest.hexdigest()[:12]}"


def gguf_options() -> dict[str, Any]:
    """Return the arguments of `from_pretrained` with which transformers dequantises the weights of a GGUF file.

    Without these arguments, newer versions of transformers may keep the weights quantised. The modules that hold such
    weights pass no gradient. Older versions of transformers always dequantise, so they need no argument; they have no
    class `GgufConfig`.
    """
    from transformers.utils import quantization_config

    config = getattr(quantization_config, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _check_complete(path: Path) -> None:
    """Raise ModelNotFoundError if the header of a GGUF file is damaged, or its tensors lie beyond its end."""
    from gguf import GGUFReader

    try:
        # The reader maps every tensor, which fails if the file ends before it.
        tensors = GGUFReader(path).tensors
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ModelNotFoundError(
            f"{str(path)!r} is damaged or not complete, so it cannot be read as a GGUF file. Download it again."
        ) from error
    if not tensors:
        raise ModelNotFoundError(f"{str(path)!r} has no weights: it may be a file of a vocabulary alone.")
