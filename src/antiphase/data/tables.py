"""Read the rows of a JSONL, JSON or Parquet file. Each row knows its place in the file, for error messages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, first_line


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        place: where the row was read, such as `prompts.jsonl, line 3`, for error messages.
        values: a mapping from the name of each column to its value in this row.
    """

    place: str
    values: Mapping[str, Any]

    def first_of(self, columns: Sequence[str]) -> Any:
        """Go through `columns` in order, and return the first value that is not None; None if all are None."""
        return next((self.values[c] for c in columns if self.values.get(c) is not None), None)


def read_table(path: Path) -> list[TableRow]:
    """Read all rows of a file.

    Args:
        path: a `.jsonl` or `.ndjson` file with one JSON object on each line; a `.json` file of the same form, or with
            one list of objects; or a `.parquet` file.

    Raises:
        InvalidInputError: the file is missing, unreadable, empty, of an unknown kind, or malformed (the message gives
            the line number).
    """
    if not path.is_file():
        raise InvalidInputError(f"the file {str(path)!r} does not exist.")
    if path.suffix == ".parquet":
        rows = _read_parquet(path)
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        rows = _read_jsonl(path)
    else:
        raise InvalidInputError(f"{path}: expected a .jsonl or .parquet file; got {path.suffix or 'no suffix'!r}.")
    if not rows:
        raise InvalidInputError(f"{path} is empty; expected one row per prompt or rollout.")
    return rows


def _read_jsonl(path: Path) -> list[TableRow]:
    rows = []
    try:
        whole = _read_list(path) if path.suffix == ".json" else None
        if whole is not None:
            return whole
        # newline="\n" is given because other line breaks, such as U+2028, may occur inside a JSON string.
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{path.name}, line {number}"
                try:
                    values = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise InvalidInputError(f"{place}: not valid JSON ({error}).") from None
                if not isinstance(values, dict):
                    raise InvalidInputError(f"{place}: expected a JSON object; got {type(values).__name__}.")
                rows.append(TableRow(place, values))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}).") from None
    return rows


def _read_list(path: Path) -> list[TableRow] | None:
    """Return the rows of a file that holds one JSON list of objects; None if the file does not hold a list."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None  # The file has one object on each line, or the caller's reader reports the malformed line.
    if not isinstance(values, list):
        return None
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise InvalidInputError(f"{path.name}, item {number}: expected a JSON object; got {type(value).__name__}.")
    return [TableRow(f"{path.name}, item {number}", value) for number, value in enumerate(values)]


def _read_parquet(path: Path) -> list[TableRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path}: not a readable Parquet file ({first_line(error)}).") from None
    return [TableRow(f"{path.name}, row {i}", values) for i, values in enumerate(table.to_pylist())]
