"""The trajectory of a training run: a file with a JSON object on each line, written during training.

    OUT/trajectory.jsonl     {"kind": "step" | "eval" | "probe" | "alarm", "step": …, …}
    OUT/times.jsonl          {"kind": "time", "step": …, …}, how long the parts of each step took

`step` is the number of optimizer updates before the row was measured: at step 0 the policy is untrained. NaN and
infinity are written as null.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from antiphase.errors import InvalidInputError
from antiphase.training.out_folder import write_whole

FILE = "trajectory.jsonl"
TIMES = "times.jsonl"
Kind = Literal["step", "time", "eval", "probe", "alarm"]


def read_times(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's times.jsonl, in order; an empty list if there is no such file, as in older runs."""
    return read_trajectory(folder, TIMES) if (folder / TIMES).is_file() else []


def read_trajectory(folder: Path, file: str = FILE) -> list[dict[str, Any]]:
    """Return the rows of a run's trajectory, in order.

    A killed run may leave an unfinished last line, which is left out.

    Args:
        folder: the folder of the run.
        file: the name of the file in the folder.

    Raises:
        InvalidInputError: the folder has no such file, or a line before the last one is not JSON.
    """
    path = folder / file
    if not path.is_file():
        raise InvalidInputError(f"{str(folder)!r} holds no {file}. Is it the folder of a training run?")
    rows = []
    # Lines end at "\n" alone: str.splitlines would also split strings that hold U+2028.
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
    """Call `trajectory.begin`, unless another callback has called it for this training already.

    Several callbacks write to the same file, and each of them calls this function.
    """
    # All callbacks share the trainer's state, so it keeps what was begun.
    begun: set[str] = vars(state).setdefault("_antiphase_begun", set())
    if str(trajectory.path) not in begun:
        begun.add(str(trajectory.path))
        trajectory.begin(state.global_step)


class Trajectory:
    """The file of a run's trajectory, to which rows are added.

    Args:
        folder: the folder of the run.
        file: the name of the file in the folder; `times.jsonl` for the times of the run.
    """

    def __init__(self, folder: Path, file: str = FILE) -> None:
        self.folder = folder
        self.path = folder / file

    def begin(self, step: int) -> list[dict[str, Any]]:
        """Prepare the file for a training that begins at `step`, and return the rows that are kept.

        At step 0, an older trajectory is renamed to `trajectory-1.jsonl`. At a later step, the rows that were measured
        after the checkpoint are dropped, since they will be measured again.
        """
        if not self.path.is_file():
            return []
        if step == 0:
            number = 1
            while (aside := self.folder / f"{self.path.stem}-{number}.jsonl").exists():
                number += 1
            self.path.replace(aside)
            return []
        # At the checkpoint's own step, evaluations and probes were measured before the checkpoint was saved, and
        # batches, times and alarms after it.
        again = ("step", "time", "alarm")
        kept = [
            row
            for row in read_trajectory(self.folder, self.path.name)
            if row["step"] < step + (row["kind"] not in again)
        ]
        write_whole(self.path, "".join(_line(row) for row in kept))
        return kept

    def append(self, kind: Kind, step: int, values: Mapping[str, Any]) -> None:
        """Add a row at the end of the file.

        Args:
            kind: the kind of the row: `step`, `eval`, `probe` or `alarm`.
            step: number of optimizer steps before the row was measured.
            values: a mapping from names to the numbers of the row.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"kind": kind, "step": step, **values}))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(without_nan(row), allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return value
