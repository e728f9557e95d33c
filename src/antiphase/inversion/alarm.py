"""The collapse alarm: inversion rises while task accuracy falls (docs/training.md, guard-rails).

With all intrinsic rewards studied so far, training goes well at first and collapses later. The alarm looks for the
moment at which inversion and accuracy part.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

AlarmAction = Literal["warn", "stop", "drop", "off"]
ALARM_ACTIONS: tuple[AlarmAction, ...] = get_args(AlarmAction)
THRESHOLD = 2.5


def slope_t(values: Sequence[float]) -> float:
    """The t statistic of the least-squares slope of equally spaced values; 0 where it is undefined.

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
    # An exact line has no residual, and its slope is beyond doubt.
    return slope / max(math.sqrt(residual / spread), 1e-12)


def collapsing(inversion: Sequence[float], accuracy: Sequence[float], window: int) -> bool:
    """Whether, over the last `window` steps, ι rose and accuracy fell, each beyond 2.5 standard errors of its slope.

    The alarm is our own choice, since the paper has none. Both slopes must be significant, so noise raises it rarely:
    in 1 of 10,000 windows of independent noise.
    """
    if len(inversion) < window:
        return False
    return slope_t(inversion[-window:]) > THRESHOLD and slope_t(accuracy[-window:]) < -THRESHOLD
