"""Find how many tokens of each rollout an estimator can measure within a time limit, for `full:auto`.

The time for a rollout is taken as a + b n, where n is the number of measured tokens. Both numbers are measured on one
rollout, with 1 and with 4 tokens. The others are assumed to cost as much for each position, since the time of a
backward pass grows with the length of the rollout.
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
    """Return the number of tokens per rollout that can be measured in the given time, at least 1.

    Args:
        loaded: the model that is measured.
        items: rollouts of the run, of which at least one has a completion. The rollouts that are generated later are
            assumed to be as long as these.
        num_rollouts: the number of all rollouts of the run.
        spec: the options of the measurement.
        units: the options that say what is correlated.
        seconds: the time limit. The time that planning takes is a part of it.

    Cost: the measurement of 5 tokens of one rollout.
    """
    there = [item for item in items if item.completion_ids]
    lengths = [len(item.prompt_ids) + len(item.completion_ids or ()) for item in there]
    mean = sum(lengths) / len(lengths)
    tried = min(range(len(there)), key=lambda place: abs(lengths[place] - mean))
    began = time.perf_counter()
    few, more = (
        _seconds(loaded, there[tried], dataclasses.replace(spec, targets_per_rollout=number), units)
        for number in (_FEW, _MORE)
    )
    left = seconds - (time.perf_counter() - began)
    return targets_within(left, few, more, rollouts=num_rollouts * mean / lengths[tried])


def plans(loaded: LoadedModel, items: Sequence[Item], num_rollouts: int, config: RunConfig) -> dict[str, int]:
    """Return the number of tokens per rollout of each estimator NAME:auto of a run. `plan` explains the arguments."""
    seconds = DEFAULT_SECONDS if config.auto_seconds is None else config.auto_seconds
    return {
        spec.estimator: plan(loaded, items, num_rollouts, spec, config.units(), seconds)
        for spec in config.specs()
        if spec.estimator in auto_names(config.estimators)
    }


def targets_within(seconds: float, few: float, more: float, *, rollouts: float) -> int:
    """Return the greatest number n of tokens with (a + b n) · rollouts ≤ seconds, at least 1.

    Args:
        seconds: the time limit.
        few: the measured time of one rollout with 1 token, a + b.
        more: the measured time with 4 tokens, a + 4 b. If it is hardly longer, b is taken as 1 % of it.
        rollouts: the number of rollouts.

    >>> targets_within(100.0, 2.0, 5.0, rollouts=10)
    9
    >>> targets_within(1.0, 2.0, 5.0, rollouts=10)
    1
    """
    each = max((more - few) / (_MORE - _FEW), more / 100, 1e-6)
    fixed = max(0.0, few - _FEW * each)
    return max(1, min(_MOST, int((seconds / rollouts - fixed) / each)))


def _seconds(loaded: LoadedModel, item: Item, spec: SignalSpec, units: UnitSpec) -> float:
    """Return the time on the clock for measuring one rollout."""
    start = time.perf_counter()
    with Progress(1, shown=False) as bar:
        measure_items(loaded, [item], [spec], units, bar)
    return time.perf_counter() - start
