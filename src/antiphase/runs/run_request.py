"""Where a run writes, and whether it draws figures and a page. Imports no torch."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.runs.folder_kinds import FolderKind, check_out
from antiphase.runs.run_config import GIVEN_ROWS


@dataclass(frozen=True)
class Outputs:
    """Where a run writes, and what it writes besides its tables.

    Args:
        out: folder to write to; None keeps nothing on disk.
        resume: continue the run in `out`.
        figures: draw figures.
        report: write the interactive page.
    """

    out: Path | None
    resume: bool
    figures: bool
    report: bool

    @classmethod
    def of(cls, out: str | Path | None, *, resume: bool, figures: bool | None, report: bool) -> "Outputs":
        """The outputs that a user asks for. By default figures are drawn if there is a folder and matplotlib.

        Raises:
            InvalidInputError: `resume` is asked for without a folder.
            MissingExtraError: figures are asked for, and matplotlib is not installed.
        """
        if resume and out is None:
            raise InvalidInputError("resume needs out, the folder of the interrupted run.")
        can_draw = importlib.util.find_spec("matplotlib") is not None
        if figures and not can_draw:
            raise MissingExtraError("matplotlib", "report", "drawing figures (--no-figures does without)")
        drawn = out is not None and (can_draw if figures is None else figures)
        return cls(None if out is None else Path(out), resume, drawn, report and out is not None)

    def check(self, kind: FolderKind, stored: Mapping[str, Any]) -> None:
        """Refuse the folder if the run cannot be begun or continued there; see `check_out`."""
        if self.out is not None:
            check_out(self.out, kind, stored, resume=self.resume)


class RunRequest(ABC):
    """What a user asks for, checked as far as that is possible without a model.

    Attributes:
        config: the options, a `RunConfig`.
        outputs: where the run writes.
    """

    config: Any
    outputs: Outputs

    @property
    @abstractmethod
    def stored(self) -> dict[str, Any]:
        """What config.json holds. It is compared on resume."""


def with_rollouts(options: Mapping[str, Any], rollouts: Any) -> tuple[dict[str, Any], Any]:
    """The options, which say where given rollouts come from; and the rollouts that are in memory, or None."""
    if isinstance(rollouts, str | Path):
        return {**options, "rollouts": str(rollouts)}, None
    if rollouts is None:
        return dict(options), None
    return {**options, "rollouts": GIVEN_ROWS}, rollouts
