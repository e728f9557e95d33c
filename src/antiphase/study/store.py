"""Read and pack the files of a study's finished cells.

A cell is one model, setting, method and seed. While a study runs, every finished cell has two files. Once
all cells are done, they are packed into two files with the same content.

OUT/cells/CELL.json, CELL.parquet     the record and the rollouts of one cell
OUT/cells.jsonl, rollouts.parquet     the records and the rollouts of all cells; rollouts have a column `cell`
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from antiphase.study.grid import Study
from antiphase.study.records import RECORDS, done_cells, packed_records

ROWS = "rollouts.parquet"


@dataclass(frozen=True)
class DoneCell:
    """A finished cell (one model, setting, method and seed) of a study.

    Args:
        record: the content of its JSON file: options and results.
        rollouts: a table with one row for each evaluated rollout and estimator.
    """

    record: dict[str, Any]
    rollouts: pd.DataFrame


def load_cells(folder: Path, study: Study) -> list[DoneCell]:
    """Read the study's cells (one model, setting, method and seed each) that are done, in the order of the study."""
    records = done_cells(folder, study)
    groups = {name: rows for frame in _packed_rows(folder) for name, rows in frame.groupby("cell", sort=False)}
    cells = []
    for name, record in records.items():
        path = folder / "cells" / f"{name}.parquet"
        rows = pd.read_parquet(path) if path.is_file() else groups[name].drop(columns="cell")
        cells.append(DoneCell(record, rows.reset_index(drop=True)))
    return cells


def pack(folder: Path, study: Study) -> None:
    """Join the files of all cells into `cells.jsonl` and `rollouts.parquet`, and remove the files of single cells."""
    if not (folder / "cells").is_dir():
        return
    cells = load_cells(folder, study)
    packed = {cell.record["cell"] for cell in cells}
    # The packed files may hold cells of another version of this study. They are kept.
    others = [record for record in packed_records(folder) if record["cell"] not in packed]
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
    # The rollouts are replaced before the records, because a record marks its cell as done.
    work.replace(folder / ROWS)
    records.replace(folder / RECORDS)
    for cell in cells:
        for suffix in ("json", "parquet"):
            (folder / "cells" / f"{cell.record['cell']}.{suffix}").unlink(missing_ok=True)
    if not any((folder / "cells").iterdir()):  # The folder may hold cells of another version of the study.
        (folder / "cells").rmdir()


def _packed_rows(folder: Path) -> list[pd.DataFrame]:
    """Return the packed rollouts as a list of one table; an empty list if nothing is packed yet."""
    if not (folder / ROWS).is_file():
        return []
    frame = pd.read_parquet(folder / ROWS)
    return [frame.astype(dict.fromkeys(frame.select_dtypes("category").columns, "str"))]
