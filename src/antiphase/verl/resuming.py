"""Refuse to continue a training of verl with other options of the inversion.

The options are kept beside verl's checkpoints. Nothing here imports verl.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import InversionSpec

# The file of the options, in the folder of verl's checkpoints.
FILE = "inversion.json"
# verl's file that names the newest checkpoint of the folder.
_NEWEST = "latest_checkpointed_iteration.txt"


def check_resumed(trainer: Mapping[str, Any], spec: InversionSpec) -> None:
    """Check that a training that continues has the options of the inversion with which it began.

    A folder of checkpoints without stored options is accepted: its training may have begun without the inversion.

    Args:
        trainer: the section `trainer` of verl's configuration.
        spec: the options of the inversion that the training has now.

    Raises:
        InvalidInputError: the checkpoints were made with other options. The message names them.
    """
    folder = _resumed_folder(trainer)
    if folder is None or not (folder / FILE).is_file():
        return
    before, now = json.loads((folder / FILE).read_text(encoding="utf-8")), _options(spec)
    # A later version of antiphase may have further options. A training that began without them had their defaults.
    before = {**_options(InversionSpec(alarm="off")), **before}
    differing = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in now if before[name] != now[name]]
    if differing:
        raise InvalidInputError(
            f"{str(folder)!r} holds checkpoints that were made with other options of the inversion: "
            f"{'; '.join(differing)}. Undo these changes, or choose another trainer.default_local_dir."
        )


def store_options(trainer: Mapping[str, Any], spec: InversionSpec) -> None:
    """Write the options of the inversion to the folder of verl's checkpoints.

    Args:
        trainer: the section `trainer` of verl's configuration.
        spec: the options of the inversion.
    """
    folder = Path(trainer["default_local_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(_options(spec), indent=2) + "\n", encoding="utf-8")


def _resumed_folder(trainer: Mapping[str, Any]) -> Path | None:
    """Return the folder whose checkpoint verl will load; None if it will begin anew."""
    mode = trainer.get("resume_mode")
    if mode == "resume_path":
        return Path(str(trainer["resume_from_path"]).rstrip("/")).parent
    folder = Path(trainer["default_local_dir"])
    return folder if mode == "auto" and (folder / _NEWEST).is_file() else None


def _options(spec: InversionSpec) -> dict[str, Any]:
    """Return the options in the form that they have in a JSON file, where tuples are lists."""
    options = asdict(spec)
    found = json.loads(json.dumps(options, default=str))
    return {option.name: found[option.name] for option in fields(spec)}
