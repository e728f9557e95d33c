"""The trajectory of a training run: one JSON object a line, written as it goes, continued on resume.

    OUT/trajectory.jsonl     {"kind": "step" | "eval" | "probe" | "alarm", "step": …, …}

`step` counts the optimizer updates done when the row was measured: row 0 is the untrained policy. NaN is null.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from antiphase.errors import InvalidInputError

FILE = "trajectory.jsonl"
Kind = Literal["step", "eval", "probe", "alarm"]


def read_trajectory(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, in order; an unfinished last line (a killed run) is left out.

    Raises:
        InvalidInputError: the folder has no trajectory, or a line before the last is broken.
    """
    path = folder / FILE
    if not path.is_file():
        raise InvalidInputError(f"{str(folder)!r} holds no {FILE}. Is it the folder of a training run?")
    rows = []
    # Split at newlines only: str.splitlines would also break at U+2028 inside strings.
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) - 1:
                break
            raise InvalidInputError(f"{path}, line {number + 1}: not JSON.") from None
        rows.append(row)
    return rows


def begin_once(trajectory: "Trajectory", state: Any) -> None:
    """`begin`, once in a training however many callbacks write to the file; the trainer's state remembers."""
    begun: set[str] = vars(state).setdefault("_antiphase_begun", set())
    if str(trajectory.path) not in begun:
        begun.add(str(trajectory.path))
        trajectory.begin(state.global_step)


class Trajectory:
    """Appends rows to a run's trajectory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE

    def begin(self, step: int) -> list[dict[str, Any]]:
        """Prepare for training from `step`; returns the rows that are kept.

        From 0, an older trajectory is moved aside (`trajectory-1.jsonl`). Else what was measured after the checkpoint
        is dropped, since it will be measured again.
        """
        if not self.path.is_file():
            return []
        if step == 0:
            number = 1
            while (aside := self.folder / f"trajectory-{number}.jsonl").exists():
                number += 1
            os.replace(self.path, aside)
            return []
        # Batches (and their alarms) of the checkpoint's own step come after it, evaluations and probes before.
        again = ("step", "alarm")
        kept = [row for row in read_trajectory(self.folder) if row["step"] < step + (row["kind"] not in again)]
        work = self.path.with_name(f".{FILE}.{os.getpid()}.tmp")
        work.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        os.replace(work, self.path)
        return kept

    def append(self, kind: Kind, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write one row, and return it."""
        row = {"kind": kind, "step": step, **values}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
        return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(without_nan(row), allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return value
