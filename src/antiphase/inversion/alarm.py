"""The collapse alarm: inversion rises while task accuracy falls (METHOD §4, guard-rails).

All intrinsic rewards studied so far rise first and collapse later; this looks for the moment when they part.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

AlarmAction = Literal["warn", "stop", "drop", "off"]
ALARM_ACTIONS: tuple[AlarmAction, ...] = get_args(AlarmAction)
THRESHOLD = 2.5


def slope_t(values: Sequence[float]) -> float:
    """T statistic of the least-squares slope of equally spaced values; 0 where it is undefined.

    >>> round(slope_t([0.0, 1.0, 1.0, 2.0]), 4)
    4.2426
    """
    y = torch.tensor([value for value in values if math.isfinite(value)], dtype=torch.float64)
    if len(y) < 4:
        return 0.0
    x = torch.arange(len(y), dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    slope: Tensor = (x * y).sum() / (x * x).sum()
    residual = (y - slope * x).square().sum() / (len(y) - 2)
    # An exact line has no residual: any slope is then beyond doubt.
    error = (residual / (x * x).sum()).sqrt().clamp_min(1e-12)
    return float(slope / error)


def collapsing(inversion: Sequence[float], accuracy: Sequence[float], window: int) -> bool:
    """Whether, over the last `window` steps, ι rose and accuracy fell, each beyond 2.5 standard errors of its slope.

    Our reading: METHOD §4 asks for an alarm and leaves its form open. Both slopes must be significant, so that noise
    rarely raises it: 1 in 10,000 windows of independent noise.
    """
    if len(inversion) < window:
        return False
    return slope_t(inversion[-window:]) > THRESHOLD and slope_t(accuracy[-window:]) < -THRESHOLD
