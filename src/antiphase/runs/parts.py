"""Name, find and join the parts of an unfinished run. A part is the file of one table of one batch.

The rollouts file of a batch is written last. So a batch is finished if its rollouts file exists. If a run was stopped
in the middle of a batch, the batch is run again, and its other files are written anew.
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
    """Return the folder with the parts of one model."""
    return root / "parts" / f"model-{model:03d}"


def part_path(root: Path, model: int, batch: int, kind: Kind) -> Path:
    """Return the file of one table of one batch."""
    return model_folder(root, model) / f"batch-{batch:06d}.{kind}.parquet"


def kept_path(root: Path, model: int, batch: int) -> Path:
    """Return the file in which a server engine keeps the finished rollouts of one batch."""
    return model_folder(root, model) / f"batch-{batch:06d}.kept.jsonl"


def kept_paths(root: Path, model: int) -> list[Path]:
    """Return the files of kept rollouts of one model, in the order of the batches."""
    return sorted(model_folder(root, model).glob("batch-*.kept.jsonl"))


def whole_parts(root: Path, kind: Kind) -> list[Path]:
    """Return the files of one table from all finished batches, ordered by model and batch."""
    batches = sorted((root / "parts").glob("model-*/batch-*.rollouts.parquet"))
    files = [done.with_name(done.name.replace(".rollouts.", f".{kind}.")) for done in batches]
    return [file for file in files if file.is_file()]


def joined_schema(parts: Sequence[Path]) -> pa.Schema:
    """Return a schema with every column that at least one of the files (parts) has."""
    return pa.unify_schemas([pq.read_schema(part) for part in parts])


def joined_tables(parts: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the tables in some files (parts), one after the other.

    If a file lacks a column of the schema, the values in this column are null.
    """
    for part in parts:
        table = pq.read_table(part)
        for field in schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        yield table.select(schema.names).cast(schema)
