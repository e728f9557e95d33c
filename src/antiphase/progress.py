"""One progress bar with time left, shown for anything that takes over two seconds."""

import sys
from types import TracebackType

from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left"


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
        self.finished = 0.0
        self._stage_start = self._stage_units = 0.0
        # The bar goes to stderr; in a log (no terminal) a line every ten seconds is enough.
        self._bar = tqdm(
            total=total,
            disable=not shown,
            delay=2,
            bar_format=_FORMAT,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            leave=False,
        )

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
        self._bar.set_description_str(name, refresh=False)

    def advance(self, fraction: float) -> None:
        """Finish another fraction of the stage."""
        done = min(self.finished + fraction * self._stage_units, self._stage_start + self._stage_units)
        self._bar.update(done - self.finished)
        self.finished = done

    def end_stage(self) -> None:
        """Count the whole stage as finished, also if it took fewer steps than foreseen."""
        done = self._stage_start + self._stage_units
        self._bar.update(done - self.finished)
        self.finished, self._stage_start, self._stage_units = done, done, 0.0
