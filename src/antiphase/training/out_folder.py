"""Checks whether a training run may write to a folder, by the files in the folder.

This module imports no torch and no TRL, so that a wrong folder is refused at once.
"""

import os
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.runs.folder_kinds import FolderKind, check_out, is_free, read_json

FILE = "recipe.json"
TRAINING = FolderKind("antiphase-train", 1, "a training run")


def check_folder(folder: Path, *, resume: bool) -> bool:
    """Raise an error if a training run cannot be started, or continued, in a folder. Nothing is written.

    Args:
        folder: the folder.
        resume: whether the run in the folder is to be continued.

    Returns:
        whether the folder holds a run to continue; False if the folder is empty or does not exist.

    Raises:
        InvalidInputError: a new run is to start, and the folder is not empty. Or a run is to continue, and the folder
            holds no training run, or holds a finished run.
    """
    if is_free(folder):
        return False
    if not resume:
        check_out(folder, TRAINING, {}, resume=False)
    if (folder / "summary.json").is_file():
        raise InvalidInputError(f"the run in {str(folder)!r} is finished; there is nothing to resume.")
    read_settings(folder)
    return True


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears under its name only when it is complete, even if the process is killed."""
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    work.write_text(text, encoding="utf-8")
    work.replace(path)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the resolved options of the training run in a folder.

    Raises:
        InvalidInputError: the folder holds no training run, or its recipe.json cannot be read.
    """
    if not (folder / FILE).is_file():
        raise InvalidInputError(f"{str(folder)!r} is not the folder of {TRAINING.owner} (it has no {FILE}).")
    return read_json(folder / FILE)
