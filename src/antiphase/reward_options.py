"""List the modes in which inversion can enter the reward, and compute the weight λ at a point of the training.

The module `reward` uses the modes. This module imports no torch, so that commands can check options quickly.
"""

import math
from typing import Literal, get_args

Combine = Literal["penalty", "sum", "centered", "gated", "only"]
Undefined = Literal["neutral", "zero", "worst"]
Tied = Literal["keep", "skip"]
Schedule = Literal["constant", "warmup", "linear", "cosine"]

COMBINES: tuple[Combine, ...] = get_args(Combine)
UNDEFINED: tuple[Undefined, ...] = get_args(Undefined)
TIED: tuple[Tied, ...] = get_args(Tied)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

DEFAULT_WARMUP = 0.1


def weight_at(progress: float, *, weight: float, schedule: Schedule, warmup: float) -> float:
    """Return the weight λ of the inversion score at a point of the training.

    First, λ rises linearly from 0 to `weight`. This takes the share `warmup` of the training. Then λ depends on the
    schedule and on a number p, which rises from 0 to 1 over the rest of the training:

    * `constant`: λ stays at `weight`.
    * `linear`: λ = weight·(1−p).
    * `cosine`: λ = weight·(1+cos πp)/2.
    * `warmup`: as `constant`, but if the argument `warmup` is 0, it is taken as 0.1.

    Args:
        progress: the share of the optimizer steps that are done, in [0, 1].
        weight: the largest value of λ.
        schedule: the name of the schedule.
        warmup: the share of the training over which λ rises, in [0, 1].

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
