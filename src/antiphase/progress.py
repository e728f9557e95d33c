"""One progress bar with time left, shown for anything that takes over two seconds."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed{left}"
# With less of the work done, a time left says more about its first moments than about the rest.
_LEAST_SHARE = 0.05


class Progress:
    """A bar over `total` units of work; stages name what is being done and advance in fractions.

    >>> with Progress(2, shown=False) as bar:
    ...     bar.stage("measuring", units=2)
    ...     bar.advance(0.5)
    ...     bar.advance(0.5)
    ...     bar.finished
    2.0
    """

    def __init__(self, total: float, *, shown: bool) -> None:
        self.total, self.finished, self.skipped = float(total), 0.0, 0.0
        self._stage_start = self._stage_units = 0.0
        self._worked, self._stage_began = 0.0, time.monotonic()
        # The bar goes to stderr; in a log (no terminal) a line every ten seconds is enough.
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
        """Begin a stage worth so many units; the one before counts as finished."""
        self.end_stage()
        self._stage_start, self._stage_units = self.finished, units
        self._stage_began = time.monotonic()
        self._bar.set_description_str(name, refresh=False)

    def skip(self, name: str, units: float) -> None:
        """Count units as finished that were done before, so that they say nothing about the time left."""
        self.stage(name, units)
        self.skipped += units
        self.end_stage()

    def advance(self, fraction: float) -> None:
        """Finish another fraction of the stage."""
        done = min(self.finished + fraction * self._stage_units, self._stage_start + self._stage_units)
        more, self.finished = done - self.finished, done
        self._bar.update(more)

    def end_stage(self) -> None:
        """Count the whole stage as finished, also if it took fewer steps than foreseen."""
        done = self._stage_start + self._stage_units
        self._worked, self._stage_began = self._seconds(), time.monotonic()
        more = done - self.finished
        self.finished, self._stage_start, self._stage_units = done, done, 0.0
        self._bar.update(more)

    def left(self) -> float | None:
        """Seconds left, at the mean pace of the stages that are worth units; None while too little is done to tell."""
        done, all_of_it = self.finished - self.skipped, self.total - self.skipped
        if all_of_it <= 0 or done < _LEAST_SHARE * all_of_it:
            return None
        return self._seconds() * (all_of_it - done) / done

    def _seconds(self) -> float:
        """Time that was spent in stages worth units: loading a model is none."""
        return self._worked + (time.monotonic() - self._stage_began if self._stage_units else 0.0)


class _Bar(tqdm):  # type: ignore[type-arg]
    """tqdm with our time left: its own is of the last moments, and counts what an earlier sitting did as done now."""

    progress: Progress | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the format may name."""
        left = None if self.progress is None else self.progress.left()
        shown = "" if left is None else f", {self.format_interval(left)} left"
        return {**super().format_dict, "left": shown}
