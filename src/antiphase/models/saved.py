"""Find out from its files what a directory of a saved model holds, without loading anything.

A saved model has `config.json` and weights in safetensors. A saved adapter (LoRA and its family) has
`adapter_config.json` and `adapter_model.safetensors`, and names its base model. Trainers save one or the other.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, ModelNotFoundError
from antiphase.models.demo import DEMO

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
# The step is the last number after one of these words: checkpoint-200, step_1000, stage1-step1000-tokens5B.
_NUMBER = re.compile(r"(?:checkpoint|step|iter|stage)[-_]?(\d+)", re.IGNORECASE)


def is_adapter(path: Path) -> bool:
    """Whether the directory holds an adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def has_config(path: Path) -> bool:
    """Whether the directory holds the configuration of a model or of an adapter."""
    return is_adapter(path) or (path / CONFIG).is_file()


def has_weights(path: Path) -> bool:
    """Whether the directory holds weights in safetensors."""
    return (path / ADAPTER_WEIGHTS).is_file() if is_adapter(path) else any(path.glob("*.safetensors"))


def has_tokenizer(path: Path) -> bool:
    """Whether the directory holds a tokenizer."""
    return any((path / name).is_file() for name in _TOKENIZERS)


def base_of(path: Path) -> str:
    """The base model that an adapter names: a hub id or a directory.

    Raises:
        InvalidInputError: the configuration cannot be read.
        ModelNotFoundError: the configuration names no base model, or the directory that it names does not exist.
    """
    base = _read(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelNotFoundError(f"the adapter {str(path)!r} names no base model (base_model_name_or_path).")
    if (Path(base).is_absolute() or base.startswith(".")) and not Path(base).is_dir():
        raise ModelNotFoundError(
            f"the adapter {str(path)!r} names the base model {base!r}, which is a folder that does not exist. Restore the "
            f"folder, or correct base_model_name_or_path in {ADAPTER_CONFIG} of the adapter."
        )
    return base


def check_saved(path: Path) -> None:
    """Refuse a directory from which no model can be loaded.

    Raises:
        ModelNotFoundError: the directory lacks a configuration, weights (or one of their parts), a tokenizer, or the
            base model of its adapter.
    """
    if not has_config(path):
        raise ModelNotFoundError(
            f"the directory {str(path)!r} has neither {CONFIG} nor {ADAPTER_CONFIG}, so it is not a saved model."
        )
    if not has_weights(path):
        wanted = ADAPTER_WEIGHTS if is_adapter(path) else "*.safetensors"
        raise ModelNotFoundError(
            f"{str(path)!r} has no weights ({wanted}). Is it still being written, or a checkpoint of sharded weights "
            "that must be gathered first?"
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
            f"{str(path)!r} has no tokenizer. Save it with the model (a trainer does, given processing_class), or "
            "copy its files there."
        )


def saved_digest(name: str) -> str | None:
    """A checksum of both ends of every weight file in a local directory; None if the name is no local directory."""
    if name == DEMO or not Path(name).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(name).glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1 << 16)
            file.seek(max(0, size - (1 << 16)))
            digest.update(f"{path.name} {size}".encode() + head + file.read())
    return digest.hexdigest()


def step_in(name: str) -> int | None:
    """The step in the name of a directory or a revision; None if it has none.

    >>> step_in("checkpoint-200"), step_in("stage1-step1000-tokens5B"), step_in("main")
    (200, 1000, None)
    """
    found = _NUMBER.findall(name)
    return int(found[-1]) if found else None


def saved_step(path: Path) -> int | None:
    """The step at which a directory was saved, from its name or its `trainer_state.json`; None if it is unknown."""
    named = step_in(path.resolve().name)
    return trainer_step(path) if named is None else named


def trainer_step(path: Path, key: str = "global_step") -> int | None:
    """A number of steps in the `trainer_state.json` of a directory; None if there is none."""
    return _integer(path / "trainer_state.json", key)


def summary_step(path: Path) -> int | None:
    """The number of steps of a finished `antiphase train`; None if this is not the folder of one."""
    return _integer(path / "summary.json", "num_steps")


def _integer(path: Path, key: str) -> int | None:
    if not path.is_file():
        return None
    value = _read(path).get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object.")
    return value
