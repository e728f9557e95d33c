"""The folder of a trajectory: which checkpoints it holds, and the run folder of each (see `series`)."""

import shutil
from collections.abc import Mapping
from typing import Any

from antiphase.runs.folder_kinds import SERIES
from antiphase.runs.run_folder import RunFolder

MEMBERS, TRAJECTORY = "checkpoints.json", "trajectory.json"


class SeriesFolder(RunFolder):
    """The folder of a trajectory."""

    KIND = SERIES

    def members(self) -> dict[str, Any]:
        """`checkpoints`, each with `folder, label, name, revision, step, weights`; `rollouts_of`, a folder or None."""
        if not (self.path / MEMBERS).is_file():
            return {"rollouts_of": None, "checkpoints": []}
        return self.read_json(MEMBERS)

    def run_of(self, member: Mapping[str, Any]) -> RunFolder:
        """The run folder of a checkpoint."""
        return RunFolder(self.path / "checkpoints" / str(member["folder"]))

    def discard_if_unused(self) -> None:
        """Take back a folder of ours in which nothing was finished."""
        runs = self.path / "checkpoints"
        if self.created_here and not any(runs.glob("*/*.json")):
            shutil.rmtree(runs, ignore_errors=True)
            (self.path / MEMBERS).unlink(missing_ok=True)
            super().discard_if_unused()
