"""A progress bar with the estimated time left. It appears if the work takes longer than two seconds."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed{left}"
# The time left is estimated only after this share of the work is done; before, the estimate would be too uncertain.
_LEAST_SHARE = 0.05


class Progress:
    """A progress bar over work that is done in stages.

    Work is counted in units, such as batches. Each stage has a name and a number of units. `advance` is called with
    the fraction of the stage that was just finished.

    Args:
        total: the number of units of all stages together.
        shown: whether the bar is written to stderr.
        elsewhere: a function that returns how many units other processes have finished; None if no other process
            shares the work.
        finished: a function that is called with the number of units that this process has finished; None calls
            nothing.

    >>> with Progress(2, shown=False) as bar:
    ...     bar.stage("measuring", units=2)
    ...     bar.advance(0.5)
    ...     bar.advance(0.5)
    ...     bar.finished
    2.0
    """

    def __init__(
        self,
        total: float,
        *,
        shown: bool,
        elsewhere: Callable[[], float] | None = None,
        finished: Callable[[float], None] | None = None,
    ) -> None:
        self._elsewhere, self._tell, self._known_elsewhere = elsewhere, finished, 0.0
        self.total, self.finished, self.skipped = float(total), 0.0, 0.0
        self._stage_start = self._stage_units = 0.0
        self._worked, self._stage_began = 0.0, time.monotonic()
        # The bar is written to stderr. If that is no terminal, a line every ten seconds is enough.
        self._bar = _Bar(
            total=total,
            disable=not shown,
            delay=2,
            bar_format=_FORMAT,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            leave=False,
        )
        self._bar.progress = self

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def stage(self, name: str, units: float) -> None:
        """Begin a stage. The stage before it then counts as finished.

        Args:
            name: the text in front of the bar.
            units: the number of units of the stage. It may be 0, for example while a model is loaded.
        """
        self.end_stage()
        self._stage_start, self._stage_units = self.finished, units
        self._stage_began = time.monotonic()
        self._bar.set_description_str(name, refresh=False)

    def skip(self, name: str, units: float) -> None:
        """Count a whole stage as finished, because an earlier run has done it.

        The stage does not affect the estimate of the time left. The arguments are those of `stage`.
        """
        self.stage(name, units)
        self.skipped += units
        self.end_stage()

    def advance(self, fraction: float) -> None:
        """Count one more part of the current stage as finished.

        Args:
            fraction: the size of the part, as a fraction of the stage between 0 and 1.
        """
        done = min(self.finished + fraction * self._stage_units, self._stage_start + self._stage_units)
        more, self.finished = done - self.finished, done
        self._update(more)

    def end_stage(self) -> None:
        """Count the whole current stage as finished, even if the calls of `advance` do not add up to 1."""
        done = self._stage_start + self._stage_units
        self._worked, self._stage_began = self._seconds(), time.monotonic()
        more = done - self.finished
        self.finished, self._stage_start, self._stage_units = done, done, 0.0
        self._update(more)

    def refresh(self) -> None:
        """Update the bar with what other processes have finished since the last update."""
        self._update(0.0)

    def _update(self, more: float) -> None:
        """Move the bar by `more` units of this process, and by the units that other processes have finished since."""
        before = self._known_elsewhere
        if self._elsewhere is not None:
            self._known_elsewhere = self._elsewhere()
        if self._tell is not None:
            self._tell(self.finished - self.skipped)
        self._bar.update(more + self._known_elsewhere - before)

    def left(self) -> float | None:
        """Return the estimated seconds left; None while too little is done for an estimate.

        The estimate assumes that a unit of the remaining work takes as long as the units of this run took so far.
        """
        done = self.finished + self._known_elsewhere - self.skipped
        all_of_it = self.total - self.skipped
        if all_of_it <= 0 or done < _LEAST_SHARE * all_of_it:
            return None
        return self._seconds() * (all_of_it - done) / done

    def _seconds(self) -> float:
        """Return the seconds that this run has spent in stages with more than 0 units.

        Loading a model, for example, counts for 0 units, so its time is left out.
        """
        return self._worked + (time.monotonic() - self._stage_began if self._stage_units else 0.0)


class _Bar(tqdm):  # type: ignore[type-arg]
    """A tqdm progress bar that shows the time left as `Progress.left` estimates it.

    tqdm's own estimate is not used. It would follow only the most recent pace, and count skipped stages as work of
    this run.
    """

    progress: Progress | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that the format string of the bar can contain: those of tqdm, and `left`, the time left."""
        left = None if self.progress is None else self.progress.left()
        shown = "" if left is None else f", {self.format_interval(left)} left"
        return {**super().format_dict, "left": shown}
