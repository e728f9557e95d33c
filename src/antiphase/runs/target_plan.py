"""Find how many tokens of each rollout an estimator can measure within a time limit, for `full:auto`.

The time for a rollout is taken as a + b n, where n is the number of measured tokens. To find a and b, one rollout is
measured with two numbers of tokens (on a CPU, 1 and 4). The time of another rollout is assumed to be proportional to
its length, since the time of a backward pass grows with the length.
"""

import dataclasses
import time
from collections.abc import Sequence

from antiphase.models.loading import LoadedModel
from antiphase.progress import Progress
from antiphase.runs.auto_targets import DEFAULT_SECONDS, auto_names
from antiphase.runs.items import Item
from antiphase.runs.measuring import measure_items
from antiphase.runs.run_config import RunConfig
from antiphase.runs.unit_spec import UnitSpec
from antiphase.signal_spec import SignalSpec

_FEW, _MORE = 1, 4
_MOST = 1_000_000


def plan(
    loaded: LoadedModel,
    items: Sequence[Item],
    num_rollouts: int,
    spec: SignalSpec,
    units: UnitSpec,
    seconds: float,
) -> int:
    """Return how many tokens of each rollout an estimator can measure in the given time, at least 1.

    Args:
        loaded: the model that is measured.
        items: rollouts of the run, of which at least one has a completion. The rollouts that are generated later are
            assumed to be as long as these.
        num_rollouts: the number of all rollouts of the run.
        spec: the estimator and the options of its measurement.
        units: the options that say what is correlated: tokens, types or steps, and of which part of a rollout.
        seconds: the time limit. The time that planning takes is a part of it.

    Cost: on a CPU, the measurement of 6 tokens of one rollout.
    """
    there = [item for item in items if item.completion_ids]
    lengths = [len(item.prompt_ids) + len(item.completion_ids or ()) for item in there]
    mean = sum(lengths) / len(lengths)
    # A GPU measures several tokens of a short rollout in the time of one, so more tokens are needed to see their cost.
    lanes = 1 if loaded.device.type == "cpu" else max(1, int(spec.token_budget // mean))
    few, more = _FEW * lanes, _MORE * lanes
    most = max(len(item.completion_ids or ()) for item in there)
    long = [place for place, item in enumerate(there) if len(item.completion_ids or ()) >= min(more, most)]
    tried = min(long, key=lambda place: abs(lengths[place] - mean))
    more = min(more, len(there[tried].completion_ids or ()))
    began = time.perf_counter()
    # The first measurement makes everything warm. Its time is not used.
    _, of_few, of_more = (
        _seconds(loaded, there[tried], dataclasses.replace(spec, targets_per_rollout=number), units)
        for number in (min(few, more), min(few, more), more)
    )
    left = seconds - (time.perf_counter() - began)
    rollouts = num_rollouts * mean / lengths[tried]
    return targets_within(left, of_few, of_more, rollouts=rollouts, numbers=(min(few, more), more))


def plans(loaded: LoadedModel, items: Sequence[Item], num_rollouts: int, config: RunConfig) -> dict[str, int]:
    """Return a mapping from each estimator that a user gave as NAME:auto to its number of tokens per rollout.

    This is the greatest number of tokens of each rollout that the estimator can measure within the time limit. `plan`
    explains the arguments.
    """
    seconds = DEFAULT_SECONDS if config.auto_seconds is None else config.auto_seconds
    return {
        spec.estimator: plan(loaded, items, num_rollouts, spec, config.units(), seconds)
        for spec in config.specs()
        if spec.estimator in auto_names(config.estimators)
    }


def targets_within(
    seconds: float, few: float, more: float, *, rollouts: float, numbers: tuple[int, int] = (_FEW, _MORE)
) -> int:
    """Return the greatest number n of tokens with (a + b n) · rollouts ≤ seconds, at least 1.

    a + b n is the time for one rollout of which n tokens are measured. a and b are computed from two measured times.

    Args:
        seconds: the time limit.
        few: the measured time of one rollout with the smaller number of tokens, a + b n.
        more: the measured time of one rollout with the greater number of tokens. If this time is hardly longer than
            `few`, the difference may be noise. Then the whole time is taken as the cost of the tokens (a = 0).
        rollouts: the number of rollouts.
        numbers: the smaller and the greater number of tokens.

    >>> targets_within(100.0, 2.0, 5.0, rollouts=10)
    9
    >>> targets_within(1.0, 2.0, 5.0, rollouts=10)
    1
    >>> targets_within(100.0, 2.0, 2.0, rollouts=10)
    20
    """
    smaller, greater = numbers
    each = (more - few) / (greater - smaller) if greater > smaller else 0.0
    if each * (greater - smaller) < more / 20:
        each = max(more / greater, 1e-6)
        return max(1, min(_MOST, int(seconds / rollouts / each)))
    fixed = max(0.0, few - smaller * each)
    return max(1, min(_MOST, int((seconds / rollouts - fixed) / each)))


def _seconds(loaded: LoadedModel, item: Item, spec: SignalSpec, units: UnitSpec) -> float:
    """Measure one rollout, and return how many seconds this took."""
    start = time.perf_counter()
    with Progress(1, shown=False) as bar:
        measure_items(loaded, [item], [spec], units, bar)
    return time.perf_counter() - start
