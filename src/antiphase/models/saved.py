"""Find out what a directory of a saved model contains, without loading a model.

A saved model consists of `config.json` and weights in safetensors. A saved adapter (such as LoRA) consists of
`adapter_config.json`, which names its base model, and `adapter_model.safetensors`. A trainer saves one or the other.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, ModelNotFoundError
from antiphase.models.demo import DEMO
from antiphase.models.gguf import is_gguf

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
# The step in a name is the last number after one of these words: checkpoint-200, step_1000, stage1-step1000-tokens5B.
_NUMBER = re.compile(r"(?:checkpoint|step|iter|stage)[-_]?(\d+)", re.IGNORECASE)


def is_adapter(path: Path) -> bool:
    """Return whether the directory contains an adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def has_config(path: Path) -> bool:
    """Return whether the directory contains the configuration of a model or of an adapter."""
    return is_adapter(path) or (path / CONFIG).is_file()


def has_weights(path: Path) -> bool:
    """Return whether the directory contains weights in safetensors."""
    return (path / ADAPTER_WEIGHTS).is_file() if is_adapter(path) else any(path.glob("*.safetensors"))


def has_tokenizer(path: Path) -> bool:
    """Return whether the directory contains a tokenizer."""
    return any((path / name).is_file() for name in _TOKENIZERS)


def base_of(path: Path) -> str:
    """Return the base model that a saved adapter names: a hub id or a directory.

    Raises:
        InvalidInputError: the adapter's configuration cannot be read.
        ModelNotFoundError: the configuration names no base model, or a directory that does not exist.
    """
    base = _read(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelNotFoundError(f"the adapter {str(path)!r} names no base model (base_model_name_or_path).")
    if (Path(base).is_absolute() or base.startswith(".")) and not Path(base).is_dir():
        raise ModelNotFoundError(
            f"the adapter {str(path)!r} names the base model {base!r}, which is a folder that does not exist. Restore "
            f"the folder, or correct base_model_name_or_path in {ADAPTER_CONFIG} of the adapter."
        )
    return base


def check_saved(path: Path) -> None:
    """Raise an error if no model can be loaded from a directory.

    Raises:
        ModelNotFoundError: the directory has no configuration, no tokenizer or no weights; one of several weight files
            is missing; or the base model of an adapter does not exist.
        InvalidInputError: a file of the directory is not valid JSON.
    """
    if not has_config(path):
        raise ModelNotFoundError(
            f"the directory {str(path)!r} has neither {CONFIG} nor {ADAPTER_CONFIG}, so it is not a saved model."
        )
    if not has_weights(path):
        wanted = ADAPTER_WEIGHTS if is_adapter(path) else "*.safetensors"
        raise ModelNotFoundError(
            f"{str(path)!r} has no weights ({wanted}). Perhaps it is still being written, or its weights are sharded "
            "and must be gathered first."
        )
    index = path / INDEX
    if index.is_file() and not is_adapter(path):
        files = _read(index).get("weight_map")
        parts = sorted(set(map(str, files.values()))) if isinstance(files, dict) else []
        missing = next((name for name in parts if not (path / name).is_file()), None)
        if missing is not None:
            raise ModelNotFoundError(f"{str(path)!r} lacks {missing}, which its {INDEX} names.")
    if is_adapter(path):
        base_of(path)
    elif not has_tokenizer(path):
        raise ModelNotFoundError(
            f"{str(path)!r} has no tokenizer. Save the tokenizer with the model (a trainer does this if it gets "
            "processing_class), or copy the tokenizer's files into the directory."
        )


def saved_digest(name: str) -> str | None:
    """Return a checksum of the weight files of a local directory, or of a GGUF file; None for any other name.

    Only the first and the last 64 KiB of each file are read, so the function is fast for large models too.
    """
    place = Path(name)
    if name == DEMO or not (place.is_dir() or (is_gguf(name) and place.is_file())):
        return None
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1 << 16)
            file.seek(max(0, size - (1 << 16)))
            digest.update(f"{path.name} {size}".encode() + head + file.read())
    return digest.hexdigest()


def step_in(name: str) -> int | None:
    """Return the training step that the name of a directory or a revision contains; None if it contains none.

    >>> step_in("checkpoint-200"), step_in("stage1-step1000-tokens5B"), step_in("main")
    (200, 1000, None)
    """
    found = _NUMBER.findall(name)
    return int(found[-1]) if found else None


def saved_step(path: Path) -> int | None:
    """Return the training step at which a directory was saved; None if it is unknown.

    The step is read from the name of the directory, or else from its `trainer_state.json`.
    """
    named = step_in(path.resolve().name)
    return trainer_step(path) if named is None else named


def trainer_step(path: Path, key: str = "global_step") -> int | None:
    """Return a number of training steps from the file `trainer_state.json` of a directory.

    Return None if the file or the number is missing.

    Args:
        path: the directory of a checkpoint.
        key: the entry to read, such as `global_step` or `max_steps`.
    """
    return _integer(path / "trainer_state.json", key)


def summary_step(path: Path) -> int | None:
    """Return the number of training steps of a finished `antiphase train`, from its output folder.

    Return None for other folders.
    """
    return _integer(path / "summary.json", "num_steps")


def _integer(path: Path, key: str) -> int | None:
    """Return the whole number ≥ 0 that a JSON file holds under a key; None if the file or the number is missing."""
    if not path.is_file():
        return None
    value = _read(path).get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InvalidInputError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object.")
    return value
