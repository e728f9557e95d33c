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


def is_done(folder: Path, name: str) -> bool:
    """Whether a cell of this name is done, packed or not."""
    if (folder / "cells" / f"{name}.json").is_file():
        return True
    return any(record["cell"] == name for record in _packed(folder))


def load_cells(folder: Path, study: Study) -> list[DoneCell]:
    """The study's cells that are done, in its order."""
    records = done_cells(folder, study)
    groups = {name: rows for frame in _packed_rows(folder) for name, rows in frame.groupby("cell", sort=False)}
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
    packed = {cell.record["cell"] for cell in cells}
    # What another study, or an earlier form of this one, has packed here stays.
    others = [record for record in _packed(folder) if record["cell"] not in packed]
    frames = [frame[frame.cell.isin({record["cell"] for record in others})] for frame in _packed_rows(folder)]
    for cell in cells:
        frame = cell.rollouts.copy()
        frame.insert(0, "cell", cell.record["cell"])
        frames.append(frame)
    rows = pd.concat(frames, ignore_index=True)
    for name in ("cell", "task", "problem_id", "estimator", "answer", "outcome", "finish"):
        rows[name] = rows[name].astype("category")
    work = folder / f".{ROWS}.tmp"
    rows.to_parquet(work, index=False, compression="zstd")
    records_now = [*others, *(cell.record for cell in cells)]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records_now)
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


def _packed_rows(folder: Path) -> list[pd.DataFrame]:
    """The packed rows, if there are any."""
    if not (folder / ROWS).is_file():
        return []
    frame = pd.read_parquet(folder / ROWS)
    return [frame.astype(dict.fromkeys(frame.select_dtypes("category").columns, "str"))]


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
