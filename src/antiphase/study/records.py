"""Reads the records of a study's done cells from their JSON files, without pandas. `store` reads their rollouts."""

import json
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.study.definition import Study

RECORDS = "cells.jsonl"


def done_cells(folder: Path, study: Study) -> dict[str, dict[str, Any]]:
    """The records of the study's cells that are done, by name.

    Raises:
        InvalidInputError: a cell was run with other options than the study now gives it, or a file is damaged.
    """
    records = {record["cell"]: record for record in packed_records(folder)}
    for path in sorted((folder / "cells").glob("*.json")):
        record = _read(path, path.read_text(encoding="utf-8"))
        records[record["cell"]] = record
    found = {}
    for cell in study.cells:
        if cell.name not in records:
            continue
        record = records[cell.name]
        if record["digest"] != cell.digest():
            raise InvalidInputError(
                f"{str(folder)!r} holds a run of other options, so it cannot be continued: {study.path} now gives the "
                f"cell {cell.name} other ones. Choose another --out, or remove the cell's files."
            )
        found[cell.name] = record
    return found


def is_done(folder: Path, name: str) -> bool:
    """Whether a cell of this name is done, with files of its own or packed."""
    if (folder / "cells" / f"{name}.json").is_file():
        return True
    return any(record["cell"] == name for record in packed_records(folder))


def packed_records(folder: Path) -> list[dict[str, Any]]:
    """The records that are packed into one file, which may also hold those of other studies."""
    path = folder / RECORDS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_read(path, line) for line in lines if line.strip()]


def _read(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or "digest" not in value or "cell" not in value:
            raise ValueError("no record of a cell")
    except ValueError as error:
        raise InvalidInputError(f"{path} cannot be read ({error}). Remove it to run its cell again.") from None
    return value
