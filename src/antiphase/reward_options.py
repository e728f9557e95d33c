"""The names of the modes in which a score enters the reward, and the weight λ over a training. Imports no torch.

`reward` combines the score with the task reward.
"""

import math
from typing import Literal, get_args

Combine = Literal["penalty", "sum", "centered", "gated", "only"]
Undefined = Literal["neutral", "zero", "worst"]
Schedule = Literal["constant", "warmup", "linear", "cosine"]

COMBINES: tuple[Combine, ...] = get_args(Combine)
UNDEFINED: tuple[Undefined, ...] = get_args(Undefined)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

DEFAULT_WARMUP = 0.1


def weight_at(progress: float, *, weight: float, schedule: Schedule, warmup: float) -> float:
    """The weight λ after a share of the training.

    λ first rises linearly over `warmup`. Then it is constant, linear λ(1−p), or cosine λ(1+cos πp)/2, where p is the
    share of the remaining training that is done. The schedule `warmup` is constant, and rises over a tenth of the
    training if no other warmup is given.

    Args:
        progress: optimizer steps done ÷ all steps, in [0, 1].
        weight: the greatest value of λ.
        schedule: the name of the schedule.
        warmup: the share of the training over which λ rises from 0.

    >>> [weight_at(p, weight=0.5, schedule="linear", warmup=0.2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    if schedule == "warmup" and warmup == 0:
        warmup = DEFAULT_WARMUP
    if progress < warmup:
        return weight * progress / warmup
    if schedule in ("constant", "warmup"):
        return weight
    rest = min((progress - warmup) / (1 - warmup), 1.0) if warmup < 1 else 1.0
    return weight * (1 - rest) if schedule == "linear" else weight * (1 + math.cos(math.pi * rest)) / 2
