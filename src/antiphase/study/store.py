"""The done cells of a study on disk: one by one while it runs, packed into two files once all are done.

OUT/cells/CELL.json, CELL.parquet
OUT/cells.jsonl, rollouts.parquet     packed: the same, with a column `cell`
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.study.definition import Study

RECORDS, ROWS = "cells.jsonl", "rollouts.parquet"


@dataclass(frozen=True)
class DoneCell:
    """A cell that was run.

    Args:
        record: what is known of it, results included.
        rollouts: a row for each evaluated rollout and estimator.
    """

    record: dict[str, Any]
    rollouts: pd.DataFrame


def done_cells(folder: Path, study: Study) -> dict[str, dict[str, Any]]:
    """The records of the study's cells that are done, by name.

    Raises:
        InvalidInputError: a cell was run with other settings than the study now has, or a file is damaged.
    """
    records = {record["cell"]: record for record in _packed(folder)}
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
                f"{str(folder)!r}: the cell {cell.name} was run with other settings than {study.path} now gives it. "
                "Choose another --out, or remove the cell's files."
            )
        found[cell.name] = record
    return found


def load_cells(folder: Path, study: Study) -> list[DoneCell]:
    """The study's cells that are done, in its order."""
    records = done_cells(folder, study)
    packed = pd.read_parquet(folder / ROWS) if (folder / ROWS).is_file() else None
    if packed is not None:
        packed = packed.astype(dict.fromkeys(packed.select_dtypes("category").columns, "str"))
    groups = {} if packed is None else dict(list(packed.groupby("cell", sort=False)))
    cells = []
    for name, record in records.items():
        path = folder / "cells" / f"{name}.parquet"
        rows = pd.read_parquet(path) if path.is_file() else groups[name].drop(columns="cell")
        cells.append(DoneCell(record, rows.reset_index(drop=True)))
    return cells


def pack(folder: Path, study: Study) -> None:
    """Join the cells into two files and drop the single ones."""
    if not (folder / "cells").is_dir():
        return
    cells = load_cells(folder, study)
    frames = []
    for cell in cells:
        frame = cell.rollouts.copy()
        frame.insert(0, "cell", cell.record["cell"])
        frames.append(frame)
    rows = pd.concat(frames, ignore_index=True)
    for name in ("cell", "task", "problem_id", "estimator", "answer", "outcome", "finish"):
        rows[name] = rows[name].astype("category")
    work = folder / f".{ROWS}.tmp"
    rows.to_parquet(work, index=False, compression="zstd")
    lines = "".join(json.dumps(cell.record, ensure_ascii=False) + "\n" for cell in cells)
    records = folder / f".{RECORDS}.tmp"
    records.write_text(lines, encoding="utf-8")
    # Rows first: records without rows would be cells without numbers.
    work.replace(folder / ROWS)
    records.replace(folder / RECORDS)
    for cell in cells:
        for suffix in ("json", "parquet"):
            (folder / "cells" / f"{cell.record['cell']}.{suffix}").unlink(missing_ok=True)
    if not any((folder / "cells").iterdir()):  # another study's cells stay
        (folder / "cells").rmdir()


def _packed(folder: Path) -> list[dict[str, Any]]:
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
