"""Whether a training may write to a folder, told from its files before anything is imported that trains."""

import json
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError

FILE = "recipe.json"


def check_folder(folder: Path, *, resume: bool) -> bool:
    """Refuse a folder that a run cannot be begun, or continued, in. Nothing is written.

    Returns:
        whether something is there.

    Raises:
        InvalidInputError: it holds something; or, to be continued, no unfinished training run.
    """
    held = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if held and not resume:
        raise InvalidInputError(
            f"{str(folder)!r} exists and is not an empty folder. Choose another output_dir, or continue that run with "
            "--resume."
        )
    if held:
        if (folder / "summary.json").is_file():
            raise InvalidInputError(f"the run in {str(folder)!r} is finished; there is nothing to resume.")
        read_settings(folder)
    return held


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
        InvalidInputError: there is none.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InvalidInputError(f"{str(folder)!r} is not the folder of a training run (no readable {FILE}).") from None
    return settings
