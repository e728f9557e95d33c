"""Check the option `full:auto`, which measures as many tokens of each rollout as a time limit allows.

`target_plan` finds this number of tokens, the planned number, on the first batch of each model. The number is written
to the model's facts, so a run that is continued uses it again. The planned number 12 has the same effect as `full:12`:
the same tokens are measured. This module imports no torch.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import ESTIMATORS, SignalSpec

AUTO = "auto"
DEFAULT_SECONDS = 600.0
# The key of the planned numbers in the facts about a model.
PLANNED = "planned_targets"


def auto_names(estimators: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the estimators that a user gave as NAME:auto.

    The run plans how many tokens of each rollout they measure.

    >>> auto_names(["own", "full:auto", "oracle:3"])
    ('full',)
    """
    parts = (text.partition(":") for text in estimators)
    return tuple(name for name, _, count in parts if count == AUTO)


def check_auto(estimators: Sequence[str], seconds: float | None) -> None:
    """Check the estimators that a user gave as NAME:auto, and their time limit in seconds.

    Raises:
        InvalidInputError: the limit is not a positive number, or it is given and no estimator uses it; or an estimator
            NAME:auto measures all tokens at once, so that fewer tokens would save no time.
    """
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidInputError(f"auto_seconds must be a positive number of seconds; got {seconds}.")
    names = auto_names(estimators)
    if seconds is not None and not names:
        raise InvalidInputError(
            f"auto_seconds is the time limit of an estimator NAME:auto; got only {', '.join(estimators)}. Name "
            "full:auto, or leave auto_seconds out."
        )
    for name in names:
        ESTIMATORS.check(name)
        if ESTIMATORS[name].one_backward:
            raise InvalidInputError(
                f"estimator '{name}:auto': {name!r} measures all tokens with one backward pass, so fewer tokens would "
                f"save no time. Use {name!r}."
            )


def planned(specs: Sequence[SignalSpec], numbers: Mapping[str, int]) -> tuple[SignalSpec, ...]:
    """Return the specs of the estimators, with the planned numbers of tokens per rollout filled in.

    Args:
        specs: one spec for each estimator of a run.
        numbers: a mapping from the name of an estimator to its planned number. The specs of other estimators stay as
            they are.
    """
    return tuple(
        dataclasses.replace(spec, targets_per_rollout=numbers[spec.estimator]) if spec.estimator in numbers else spec
        for spec in specs
    )


def planned_of(facts: Mapping[str, Any], spec: SignalSpec) -> int | None:
    """Return how many tokens of each rollout an estimator measured; None means all.

    For an estimator that a user gave as NAME:auto, this is the planned number.

    Args:
        facts: the facts about the model that was measured, with the planned numbers; see `model_facts`.
        spec: the spec of the estimator, as the options of the run give it.
    """
    number: int | None = facts.get(PLANNED, {}).get(spec.estimator, spec.targets_per_rollout)
    return number
