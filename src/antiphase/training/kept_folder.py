"""The folder with the rollouts that a training kept. Each Parquet file holds the kept rollouts of one batch.

    OUT/kept_rollouts/step-000040.parquet     a row for each rollout, with lists that have a value for each token

A file is written when its batch is complete, so a killed run loses at most the file that it was about to write. Each
file appears under its name only when it is complete. docs/files.md explains the columns. This module imports no torch.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from antiphase.errors import InvalidInputError

FOLDER = "kept_rollouts"
_NAME = re.compile(r"step-(\d+)\.parquet")
# A file that a killed training was writing; see `KeptFolder.write`.
_WORK = re.compile(r"\.step-\d+\.parquet\.\d+\.tmp")
_SIGNALS = ("entropy", "logprob", "strength")

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        *((name, pa.string()) for name in ("prompt_id", "rollout_id", "estimator", "unit", "prompt", "completion")),
        ("finish", pa.string()),
        *((name, pa.int32()) for name in ("num_tokens", "num_thought_tokens")),
        *((name, pa.float64()) for name in ("inversion", "correlation")),
        *((f"correlation_{name}", pa.float64()) for name in ("token", "type", "step", "given_length")),
        *((name, pa.float64()) for name in ("task_reward", "weight", "reward", "advantage")),
        ("rewards", pa.map_(pa.string(), pa.float64())),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        *((name, pa.list_(pa.float32())) for name in _SIGNALS),
        ("step_start", pa.list_(pa.int32())),
        *((f"step_{name}", pa.list_(pa.float32())) for name in ("entropy", "strength")),
    ]
)


class KeptFolder:
    """The folder of a run's kept rollouts, to which files are added.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / FOLDER

    def begin(self, step: int, *, writing: bool = False) -> None:
        """Prepare the folder for a training that begins at `step`.

        At step 0, an older folder is renamed to `kept_rollouts-1`. At a later step, the files of the batches that were
        sampled after the checkpoint are removed, since these batches will be sampled again. Files of other names and
        subfolders stay.

        Args:
            step: number of optimizer steps that are done.
            writing: whether the training will keep rollouts. If so, the folder is made.

        Raises:
            InvalidInputError: the folder cannot be prepared, or no file can be written in it.
        """
        try:
            self._clear(step)
            if writing:
                self.path.mkdir(parents=True, exist_ok=True)
                # Only a try shows whether files can be written.
                with tempfile.TemporaryFile(dir=self.path):
                    pass
        except OSError as error:
            raise InvalidInputError(
                f"{self.path} cannot be prepared for kept rollouts ({error}). Remove or rename what is there, free "
                "space, or set keep_rollouts to 0."
            ) from error

    def _clear(self, step: int) -> None:
        if not self.path.is_dir():
            return
        if step == 0:
            number = 1
            while (aside := self.path.with_name(f"{FOLDER}-{number}")).exists():
                number += 1
            self.path.replace(aside)
            return
        for file in self.path.iterdir():
            found = _NAME.fullmatch(file.name)
            again = int(found[1]) >= step if found else _WORK.fullmatch(file.name) is not None
            if again and not file.is_dir():
                file.unlink()

    def write(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the kept rollouts of the batch that was sampled before an optimizer step.

        Args:
            step: number of optimizer steps before the batch was sampled.
            rows: a mapping for each rollout, with the columns of `SCHEMA`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"step-{step:06d}.parquet"
        work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        # Signals are mostly distinct, so a dictionary of them would only take space.
        words = ["step", "prompt_id", "rollout_id", "estimator", "unit", "prompt", "finish", "tokens.list.element"]
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), work, compression="zstd", use_dictionary=words)
        work.replace(path)


def read_kept(run: Path, notes: list[str] | None = None) -> pd.DataFrame | None:
    """Return the kept rollouts of a run in the order of their steps; None if the run kept none.

    Args:
        run: the folder of the run.
        notes: if this list is given, a file that is damaged or has other columns is left out, and a sentence about it
            is added to the list.

    Raises:
        InvalidInputError: a file is damaged or has other columns, and `notes` is None.
    """
    files = sorted(file for file in (run / FOLDER).glob("step-*.parquet") if _NAME.fullmatch(file.name))
    tables = []
    for file in files:
        try:
            tables.append(_table_of(file))
        except FileNotFoundError:
            continue  # A resumed run removes files while its page is made.
        except InvalidInputError as error:
            if notes is None:
                raise
            notes.append(f"A file of kept rollouts is left out: {error}")
    return pa.concat_tables(tables).to_pandas() if tables else None


def _table_of(file: Path) -> Any:
    """Return the table of one file of kept rollouts; see `read_kept`."""
    try:
        table = pq.read_table(file)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"{file} cannot be read ({error}). Remove it to see the others.") from error
    if not table.schema.equals(SCHEMA):
        lacking = ", ".join(name for name in SCHEMA.names if name not in table.schema.names) or "none"
        raise InvalidInputError(f"{file} does not have the columns of a file of kept rollouts. Missing: {lacking}.")
    return table
