"""Read the folder of a probe of checkpoints: the list of checkpoints, and the run folder of each (see `series`)."""

import shutil
from collections.abc import Mapping
from typing import Any

from antiphase.runs.folder_kinds import SERIES
from antiphase.runs.run_folder import RunFolder

MEMBERS, TRAJECTORY = "checkpoints.json", "trajectory.json"


class SeriesFolder(RunFolder):
    """The folder of a probe of checkpoints, which holds the list of checkpoints and a run folder for each."""

    KIND = SERIES

    def members(self) -> dict[str, Any]:
        """Read checkpoints.json, the list of checkpoints.

        Returns:
            A mapping. `checkpoints` is a list of entries with `folder`, `label`, `name`, `revision`, `step` and
            `weights`. `rollouts_of` is the folder of one checkpoint if all checkpoints are measured on its rollouts,
            else None. After the first measurement there is also `moment`, the time that chat templates read.
        """
        if not (self.path / MEMBERS).is_file():
            return {"rollouts_of": None, "checkpoints": []}
        return self.read_json(MEMBERS)

    def run_of(self, member: Mapping[str, Any]) -> RunFolder:
        """Return the run folder of a checkpoint, which is given by its entry in checkpoints.json."""
        return RunFolder(self.path / "checkpoints" / str(member["folder"]))

    def discard_if_unused(self) -> None:
        """Remove the folder if this run made it and measured no checkpoint."""
        runs = self.path / "checkpoints"
        if self.created_here and not any(runs.glob("*/*.json")):
            shutil.rmtree(runs, ignore_errors=True)
            (self.path / MEMBERS).unlink(missing_ok=True)
            super().discard_if_unused()
