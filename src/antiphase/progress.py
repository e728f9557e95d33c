"""One progress bar with time left, shown for anything that takes over two seconds."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed{left}"
# If less than this share is done, the time left would be estimated from too little.
_LEAST_SHARE = 0.05


class Progress:
    """A bar over `total` units of work. Each stage has a name, is worth some units, and advances in fractions.

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
        """Begin a stage that is worth so many units; the stage before counts as finished."""
        self.end_stage()
        self._stage_start, self._stage_units = self.finished, units
        self._stage_began = time.monotonic()
        self._bar.set_description_str(name, refresh=False)

    def skip(self, name: str, units: float) -> None:
        """Count units that an earlier run did as finished; they do not affect the estimate of the time left."""
        self.stage(name, units)
        self.skipped += units
        self.end_stage()

    def advance(self, fraction: float) -> None:
        """Finish another fraction of the stage."""
        done = min(self.finished + fraction * self._stage_units, self._stage_start + self._stage_units)
        more, self.finished = done - self.finished, done
        self._bar.update(more)

    def end_stage(self) -> None:
        """Count the whole stage as finished, even if it took fewer steps than expected."""
        done = self._stage_start + self._stage_units
        self._worked, self._stage_began = self._seconds(), time.monotonic()
        more = done - self.finished
        self.finished, self._stage_start, self._stage_units = done, done, 0.0
        self._bar.update(more)

    def left(self) -> float | None:
        """The seconds left, at the mean pace of the stages worth units; None while too little is done."""
        done, all_of_it = self.finished - self.skipped, self.total - self.skipped
        if all_of_it <= 0 or done < _LEAST_SHARE * all_of_it:
            return None
        return self._seconds() * (all_of_it - done) / done

    def _seconds(self) -> float:
        """The seconds spent in stages worth units, which excludes loading a model."""
        return self._worked + (time.monotonic() - self._stage_began if self._stage_units else 0.0)


class _Bar(tqdm):  # type: ignore[type-arg]
    """tqdm with our own time left: tqdm uses only the last moments, and counts skipped units as work done now."""

    progress: Progress | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that the bar's format can name."""
        left = None if self.progress is None else self.progress.left()
        shown = "" if left is None else f", {self.format_interval(left)} left"
        return {**super().format_dict, "left": shown}
