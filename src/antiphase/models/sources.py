"""Find the source of a model: a hub id, a directory, a GGUF file, or a base model with an adapter."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError
from antiphase.models.adapters import check_adapter
from antiphase.models.demo import DEMO, demo_model_path
from antiphase.models.gguf import check_gguf, gguf_revision, is_gguf
from antiphase.models.saved import base_of, has_config, has_tokenizer, is_adapter


@dataclass(frozen=True)
class Source:
    """The hub ids, directories and files from which a model is loaded.

    Args:
        place: the hub id or the directory of the model. If an adapter is loaded, this is the adapter's base model.
        tokenizer: the hub id or the directory of the tokenizer.
        gguf: the name of a GGUF file in the directory `place`, or None.
        adapter: the hub id or the directory of an adapter, or None.
    """

    place: str
    tokenizer: str
    gguf: str | None = None
    adapter: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that `from_pretrained` of transformers needs for a GGUF file; `{}` for other sources."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}

    def revision(self, name: str) -> str | None:
        """Return a text that identifies the weights of the demo model or of a GGUF file; None for other models.

        Args:
            name: the name that the user gave.
        """
        if self.gguf is not None:
            return gguf_revision(Path(self.place) / self.gguf)
        return Path(self.place).name if name == DEMO else None


def find_source(name: str, adapter: str | None = None) -> Source:
    """Return the source of a model, after quick checks of its files.

    Args:
        name: a hub id, a local directory, a GGUF file, or `demo`.
        adapter: a local directory or a hub id of an adapter, or None.

    Raises:
        ModelNotFoundError: a file is missing or damaged.
        MissingExtraError: a package that reads the files is not installed.
        UnsupportedModelError: the adapter does not change weights, but learns a prompt (virtual tokens).
        InvalidInputError: `name` is itself an adapter, and `adapter` names another one.
    """
    if adapter is not None:
        check_adapter(adapter)
    if is_gguf(name):
        path = Path(name)
        check_gguf(path)
        return Source(str(path.parent), str(path.parent), path.name, adapter)
    place = demo_model_path() if name == DEMO else name
    path = Path(place)
    if path.is_dir() and not has_config(path):
        raise ModelNotFoundError(f"the directory {place!r} has no config.json, so it is not a saved model.")
    if not is_adapter(path):
        return Source(place, place, adapter=adapter)
    if adapter is not None:
        raise InvalidInputError(
            f"{name!r} is itself an adapter, so no other adapter can be put on it. Name its base model, or merge the "
            "first adapter with its base."
        )
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "train", "loading an adapter")
    base = base_of(path)
    return Source(base, place if has_tokenizer(path) else base, adapter=place)
