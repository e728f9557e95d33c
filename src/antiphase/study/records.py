"""Read the records (the JSON part) of a study's finished cells, without pandas.

The module also names the locks that processes hold while they work in the folder of a study.

A cell is one model, setting, method and seed. The module `store` reads the rollouts of the cells.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.runs.folder_lock import locked
from antiphase.study.grid import Cell, Made, Study

RECORDS = "cells.jsonl"


def model_lock(made: Made, out: Path) -> Path:
    """Return the file whose lock a process holds while it makes the model. `out` is the study's folder."""
    return out / "models" / f"{made.name}.lock"


def cell_lock(cell: Cell, out: Path) -> Path:
    """Return the file whose lock a process holds while it runs the cell (one model, setting, method and seed).

    Args:
        cell: the cell.
        out: the study's folder.
    """
    return out / "work" / f"{cell.name}.lock"


@contextlib.contextmanager
def results_locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a study's results during the `with` block. If another process holds it, wait for that process.

    Several processes may run cells of one folder. They write the files of a finished cell, pack these files and make
    the tables only while they hold this lock. So no process packs files that another process is just writing.
    """
    with locked(folder / ".results.lock", f"the results in {str(folder)!r} are in use", wait=True):
        yield


def done_cells(folder: Path, study: Study) -> dict[str, dict[str, Any]]:
    """Return a mapping from the name of each cell that is done to its record, in the order of the study.

    A cell is one model, setting, method and seed. Its record has its options and its results.

    Raises:
        InvalidInputError: a stored cell was run with options that differ from those in the study, or a file is
            damaged.
    """
    records = _records(folder)
    found = {}
    for cell in study.cells:
        if cell.name not in records:
            continue
        record = records[cell.name]
        if record["digest"] != cell.digest():
            raise InvalidInputError(
                f"{str(folder)!r} holds a run that was made with other options, so it cannot be continued: the "
                f"options of the cell {cell.name} in {study.path} have changed. Choose another --out, or remove the "
                "cell's files."
            )
        found[cell.name] = record
    return found


def done_names(folder: Path) -> set[str]:
    """Return the names of all cells that are done in a folder, whatever study or options they belong to."""
    single = {path.stem for path in (folder / "cells").glob("*.json")}
    return single | {record["cell"] for record in packed_records(folder)}


def is_done(folder: Path, name: str) -> bool:
    """Return whether the cell of this name is done, which means that the folder contains its record."""
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


def weights_of_cells(folder: Path, made: str) -> dict[str, str]:
    """Return the digest of the weights of the made model for each done cell that began with it.

    Cells that an earlier version of antiphase stored have no digest. They are left out.

    Args:
        folder: the study's folder.
        made: the name of the made model.
    """
    models = {cell: record.get("made") or {} for cell, record in _records(folder).items()}
    return {
        cell: model["weights_sha256"]
        for cell, model in models.items()
        if model.get("name") == made and model.get("weights_sha256") is not None
    }


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return a mapping from the name of each cell that is done to its record, whatever study the cell belongs to."""
    # Single files first: another process may pack them now, and writes the packed file before it removes them.
    single = {}
    for path in sorted((folder / "cells").glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            record = _read(path, path.read_text(encoding="utf-8"))
            single[record["cell"]] = record
    return {record["cell"]: record for record in packed_records(folder)} | single


def _read(path: Path, text: str) -> dict[str, Any]:
    """Parse `text`, which is the record of one cell. `path` is the file of the record, for the error message."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or "digest" not in value or "cell" not in value:
            raise ValueError("no record of a cell")
    except ValueError as error:
        raise InvalidInputError(f"{path} cannot be read ({error}). Remove it to run its cell again.") from None
    return value
