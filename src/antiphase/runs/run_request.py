"""A user's request for a run: its options, and which files it writes where. This module imports no torch."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.runs.folder_kinds import FolderKind, check_out
from antiphase.runs.folder_lock import check_unused
from antiphase.runs.launch import launch
from antiphase.runs.run_config import GIVEN_ROWS, RunConfig

# How the seeds of sampled rollouts are made: each is a hash of `--seed`, the prompt and the number of the rollout.
# Earlier versions made one seed for each batch, which would be number 1, and stored no number.
DRAWS = 2


@dataclass(frozen=True)
class Outputs:
    """Where a run writes, and what it writes in addition to its tables.

    Args:
        out: the folder to write to; None writes no files.
        resume: whether an interrupted run in `out` is continued.
        figures: whether figures are drawn.
        report: whether the interactive page is written.
    """

    out: Path | None
    resume: bool
    figures: bool
    report: bool

    @classmethod
    def of(cls, out: str | Path | None, *, resume: bool, figures: bool | None, report: bool) -> "Outputs":
        """Return what a run writes, and where, for the options that a user gave.

        Args:
            out: the folder to write to; None writes no files.
            resume: whether an interrupted run in `out` is continued.
            figures: whether figures are drawn; None draws them if there is a folder and matplotlib is installed.
            report: whether the interactive page is written.

        Raises:
            InvalidInputError: `resume` is set without a folder.
            MissingExtraError: `figures` is True, and matplotlib is not installed.
        """
        if resume and out is None:
            raise InvalidInputError("resume needs out, the folder of the interrupted run.")
        can_draw = importlib.util.find_spec("matplotlib") is not None
        if figures and not can_draw:
            raise MissingExtraError("matplotlib", "report", "drawing figures (which --no-figures switches off)")
        drawn = out is not None and (can_draw if figures is None else figures)
        return cls(None if out is None else Path(out), resume, drawn, report and out is not None)

    def check(self, kind: FolderKind, stored: Mapping[str, Any]) -> None:
        """Raise an error if the run can neither begin nor continue in the folder; see `check_out`.

        If a launcher started several processes, nothing is checked here. Process 0 checks the folder when the run
        begins. The other processes never check it, since process 0 may have made the folder before they look.

        Raises:
            InvalidInputError: `check_out` refuses the folder, or another process is writing to it.
        """
        if self.out is not None and not launch().several:
            check_unused(self.out)
            check_out(self.out, kind, stored, resume=self.resume)


class RunRequest(ABC):
    """The request of a user for a run. Everything that needs no model is already checked.

    Attributes:
        config: the options, a `RunConfig`.
        outputs: where the run writes.
    """

    config: Any
    outputs: Outputs

    @property
    @abstractmethod
    def stored(self) -> dict[str, Any]:
        """The values that config.json holds. They must be the same when the run is continued."""


def stored_draws(config: RunConfig, *, samples: bool = True) -> dict[str, int]:
    """Return the entry of config.json that says how the seeds of rollouts are made.

    The result is an empty mapping if no completions are sampled.

    Args:
        config: the options of the run.
        samples: whether the run asks for sampled completions, and not only for greedy ones.
    """
    return {"draws": DRAWS} if samples and config.rollouts is None and config.temperature > 0 else {}


def with_rollouts(options: Mapping[str, Any], rollouts: Any) -> tuple[dict[str, Any], Any]:
    """Add the option `rollouts`, which names the source of given rollouts, to the options.

    Args:
        options: the options of a run.
        rollouts: the path of a file, rows in memory, or None.

    Returns:
        The options, with `rollouts` as a text; and the rows if they are in memory, else None.
    """
    if isinstance(rollouts, str | Path):
        return {**options, "rollouts": str(rollouts)}, None
    if rollouts is None:
        return dict(options), None
    return {**options, "rollouts": GIVEN_ROWS}, rollouts
