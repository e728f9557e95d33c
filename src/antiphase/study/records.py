"""Read the records (the JSON part) of a study's finished cells, without pandas.

A cell is one model, setting, method and seed. The module `store` reads the rollouts of the cells.
"""

import json
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.study.grid import Study

RECORDS = "cells.jsonl"


def done_cells(folder: Path, study: Study) -> dict[str, dict[str, Any]]:
    """Return the records of the study's cells that are done, by the name of the cell, in the order of the study.

    A cell is one model, setting, method and seed. Its record has its options and its results.

    Raises:
        InvalidInputError: a stored cell was run with options that differ from those in the study, or a file is
            damaged.
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
                f"{str(folder)!r} holds a run of other options, so it cannot be continued: the options of the cell "
                f"{cell.name} in {study.path} have changed. Choose another --out, or remove the cell's files."
            )
        found[cell.name] = record
    return found


def is_done(folder: Path, name: str) -> bool:
    """Return whether the cell of this name is done: whether its record is a file, or a line of the packed file."""
    if (folder / "cells" / f"{name}.json").is_file():
        return True
    return any(record["cell"] == name for record in packed_records(folder))


def packed_records(folder: Path) -> list[dict[str, Any]]:
    """Return all records of the packed file `cells.jsonl`, which may also hold cells of other studies."""
    path = folder / RECORDS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_read(path, line) for line in lines if line.strip()]


def _read(path: Path, text: str) -> dict[str, Any]:
    """Parse `text`, the record of one cell. `path` is its file, which an error message names."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or "digest" not in value or "cell" not in value:
            raise ValueError("no record of a cell")
    except ValueError as error:
        raise InvalidInputError(f"{path} cannot be read ({error}). Remove it to run its cell again.") from None
    return value
