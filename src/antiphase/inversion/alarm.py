"""Detect the collapse of a training: inversion rises while task accuracy falls (docs/training.md, guard-rails).

With every intrinsic reward studied so far, accuracy rises at first and collapses later, while the reward keeps rising.
The alarm looks for the step at which the two part.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

AlarmAction = Literal["warn", "stop", "drop", "off"]
ALARM_ACTIONS: tuple[AlarmAction, ...] = get_args(AlarmAction)
THRESHOLD = 2.5


def slope_t(values: Sequence[float]) -> float:
    """Compute the t statistic of the least-squares slope of equally spaced values. It is 0 with fewer than 4 values.

    >>> round(slope_t([0.0, 1.0, 1.0, 2.0]), 4)
    4.2426
    """
    y = [value for value in values if math.isfinite(value)]
    if len(y) < 4:
        return 0.0
    x = [place - (len(y) - 1) / 2 for place in range(len(y))]
    mean, spread = math.fsum(y) / len(y), math.fsum(a * a for a in x)
    y = [value - mean for value in y]
    slope = math.fsum(a * b for a, b in zip(x, y, strict=True)) / spread
    residual = math.fsum((b - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / (len(y) - 2)
    # The residual of an exact line is 0. The bound keeps its t statistic finite, and very large.
    return slope / max(math.sqrt(residual / spread), 1e-12)


def collapsing(inversion: Sequence[float], accuracy: Sequence[float], window: int) -> bool:
    """Return whether inversion rose and accuracy fell over the last `window` values.

    Each slope must be beyond 2.5 standard errors. Independent noise therefore raises the alarm in only 1 of 10,000
    windows. The paper has no alarm; this one is our own.
    """
    if len(inversion) < window:
        return False
    return slope_t(inversion[-window:]) > THRESHOLD and slope_t(accuracy[-window:]) < -THRESHOLD
