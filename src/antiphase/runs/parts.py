"""The parts of a run: one file per batch and table, and how they are joined.

A batch counts once its rollouts file is there, since that file is renamed last. Other files that a cut batch left do
not count; they are written over when the batch is run again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

Kind = Literal["tokens", "rollouts", "steps", "alternatives"]
# The order in which the tables of a batch are written.
KINDS: tuple[Kind, ...] = ("tokens", "alternatives", "steps", "rollouts")


def model_folder(root: Path, model: int) -> Path:
    """The folder with the parts of one model."""
    return root / "parts" / f"model-{model:03d}"


def part_path(root: Path, model: int, batch: int, kind: Kind) -> Path:
    """The file of one batch and table."""
    return model_folder(root, model) / f"batch-{batch:06d}.{kind}.parquet"


def whole_parts(root: Path, kind: Kind) -> list[Path]:
    """The files of all finished batches, ordered by model and batch."""
    batches = sorted((root / "parts").glob("model-*/batch-*.rollouts.parquet"))
    files = [done.with_name(done.name.replace(".rollouts.", f".{kind}.")) for done in batches]
    return [file for file in files if file.is_file()]


def joined_schema(parts: Sequence[Path]) -> pa.Schema:
    """The columns of all parts."""
    return pa.unify_schemas([pq.read_schema(part) for part in parts])


def joined_tables(parts: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The parts one after the other. A column that a part lacks is null."""
    for part in parts:
        table = pq.read_table(part)
        for field in schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        yield table.select(schema.names).cast(schema)
