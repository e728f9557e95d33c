"""Decides which rollouts of a training are kept in files: from which steps, and from which groups of a batch.

The rule uses only the settings of a run, the seed and the number of the step. So every process can apply it alone, and
a resumed run keeps the same rollouts as one that was not interrupted. This module imports no torch and no TRL.
"""

import math
import random
from fractions import Fraction
from typing import Any

from antiphase.errors import InvalidInputError

# The most batches that are kept in a training, and the most tokens, if every completion has the greatest length.
MOST_BATCHES, MOST_TOKENS = 100, 1_000_000


def check_count(name: str, value: Any) -> None:
    """Raise InvalidInputError unless the value of the option `name` is a whole number that is 0 or positive."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInputError(f"{name} must be 0 or a positive whole number; got {value!r}.")


def check_keep(keep: Any) -> None:
    """Raise InvalidInputError unless `keep_rollouts` is a whole number that is 0 or positive."""
    check_count("keep_rollouts", keep)


def check_fits(keep: int, num_rollouts: int) -> None:
    """Raise InvalidInputError if `keep`, the number of rollouts to keep of a batch, is larger than the batch."""
    if keep > num_rollouts:
        raise InvalidInputError(
            f"keep_rollouts is {keep}, and a generation batch has {num_rollouts} rollouts. Lower keep_rollouts, or "
            "sample more rollouts at a time."
        )


def num_kept(keep: int, group_size: int) -> int:
    """Return how many rollouts of a batch are kept, which is at most `keep`.

    If `keep` is at least `group_size`, only whole groups are kept. Otherwise `keep` rollouts of one group are kept.

    >>> num_kept(10, 4), num_kept(3, 4)
    (8, 3)
    """
    return keep if keep < group_size else keep // group_size * group_size


def interval(max_steps: int, num_rollouts: int, longest: int | None) -> int:
    """Return the number of optimizer steps from one batch with kept rollouts to the next.

    It is the smallest number that respects two limits: at most `MOST_BATCHES` batches have kept rollouts, and all kept
    rollouts together have at most `MOST_TOKENS` tokens.

    Args:
        max_steps: number of optimizer steps of the training.
        num_rollouts: number of rollouts that are kept of a batch.
        longest: the greatest number of tokens of a completion; None if there is no limit.

    >>> interval(50, 8, 512), interval(1000, 8, 512), interval(1000, 8, 4096)
    (1, 10, 34)
    """
    batches = MOST_BATCHES if longest is None else min(MOST_BATCHES, MOST_TOKENS // max(1, num_rollouts * longest))
    return max(1, math.ceil(max_steps / max(1, batches)))


def is_kept(step: int, max_steps: int, every: int, span: Fraction | float) -> bool:
    """Return whether to keep rollouts of the batch that was sampled before optimizer step `step`.

    The steps are divided into sections of `every` steps. Rollouts of the first batch of each section are kept. So
    are rollouts of the last batch of the training. Batch k is sampled before step ⌊k · span⌋.

    Args:
        step: number of optimizer steps before the batch was sampled.
        max_steps: number of optimizer steps of the training.
        every: the number of steps of a section; see `interval`.
        span: number of optimizer steps that train on one batch; it may be a fraction, such as 1.5.

    >>> [step for step in range(0, 24, 2) if is_kept(step, 24, 5, 2)]
    [0, 6, 10, 16, 20, 22]
    >>> [step for step in (0, 1, 3, 4, 6, 7, 9, 10) if is_kept(step, 12, 5, 1.5)]
    [0, 6, 10]
    """
    reach = max(Fraction(1), Fraction(span).limit_denominator(1_000_000))
    place = math.ceil(step / reach)
    if math.floor(place * reach) == step:
        before, after = math.floor((place - 1) * reach), math.floor((place + 1) * reach)
    else:
        # A resumed training samples a batch at once, also where no batch would have begun.
        before, after = step - math.floor(reach), math.floor(step + reach)
    return step % every < step - before or after >= max_steps


def kept_places(num_rollouts: int, group_size: int, keep: int, seed: int, step: int) -> list[int]:
    """Return which rollouts of a batch are kept, as ascending indices.

    If `keep` is at least `group_size`, whole groups are drawn. Otherwise one group is drawn, and its first rollouts
    are kept. The draw depends on the seed and the step alone. It does not change the state of other random generators.

    Args:
        num_rollouts: number of rollouts of the batch, of all processes together.
        group_size: number of rollouts of a prompt; they stand next to one another.
        keep: number of rollouts to keep.
        seed: the seed of the training.
        step: number of optimizer steps before the batch was sampled.
    """
    groups = range(num_rollouts // group_size)
    drawn = random.Random(f"kept rollouts {seed} {step}").sample(groups, min(max(1, keep // group_size), len(groups)))
    each = min(keep, group_size)
    return [group * group_size + place for group in sorted(drawn) for place in range(each)]
