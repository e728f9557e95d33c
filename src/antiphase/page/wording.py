"""Write the sentences of the page about the estimators and the measured numbers: definitions, verdicts and warnings.

A reading is the numbers of one model, measured with one estimator.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from antiphase.page.unit_correlations import headline_entry
from antiphase.statistics.resampling import MIN_PROMPTS

# What each estimator measures, and what it does not.
ESTIMATORS = {
    "own": "the term of the gradient at the token's own position, exact, over every chosen layer. It leaves out the "
    "gradient through earlier positions, so it ranks tokens differently from full",
    "oracle-own": "the own-position term by its definition, one backward pass per token; the same quantity as own",
    "last": "the full gradient of the last layer's projections, exact. It says nothing about the layers below",
    "full": "the full gradient of every chosen layer's projections, exact; often measured on a sample of tokens",
    "oracle": "the full gradient by its definition, one backward pass per token; the same quantity as full",
}
FEW_TOKENS, FEW_PROMPTS = 500, 8
# A control with at least this share of the signal's ρ explains it as well as the signal does.
NEAR = 0.8


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number as text with its sign, such as `+0.123`; `undefined` for None. The minus sign is a real −.

    >>> signed(-0.12345)
    '−0.123'
    """
    return "undefined" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def verdict(reading: Mapping[str, Any]) -> str:
    """Return the verdict on the ρ that the page shows first: the correlation over the headline unit.

    The verdict is `inverted`, `not inverted`, `undecided`, `no interval` or `undefined`, by the rules of `verdict_of`.
    With only two or three prompts, `undecided` replaces `inverted` and `not inverted`.

    Args:
        reading: the numbers of one model and estimator, in the form that `reading_of` returns.
    """
    said = verdict_of(headline_entry(reading))
    few = 1 < reading["num_prompts"] < MIN_PROMPTS
    return "undecided" if few and said in ("inverted", "not inverted") else said


def verdict_of(rho: Mapping[str, Any]) -> str:
    """Return the verdict on a correlation ρ, which depends on its interval.

    The verdict is `inverted` if the whole interval is below 0, `not inverted` if it is above 0, `undecided` if it
    contains 0, `no interval` if there is no interval, and `undefined` if there is no ρ.
    """
    if rho["value"] is None:
        return "undefined"
    if rho["low"] is None or rho["high"] is None:
        return "no interval"
    if rho["high"] < 0:
        return "inverted"
    return "not inverted" if rho["low"] > 0 else "undecided"


def few_prompts(num_prompts: int) -> str:
    """Return the warning that the intervals rest on few prompts (fewer than `FEW_PROMPTS`)."""
    return f"few prompts: {num_prompts}; an interval over fewer than {FEW_PROMPTS} is rough"


def warnings_of(reading: Mapping[str, Any], shuffled: np.ndarray | None = None) -> list[str]:
    """Return the reasons to trust the numbers of a model less, the most important one first.

    Args:
        reading: the numbers of one model and estimator, as in summary.json.
        shuffled: the ρ of each rollout after its strengths were permuted, `[rollout]`, if known.
    """
    found = []
    if reading.get("segment", "all") != "all":
        found.append(
            f"only the tokens of the {reading['segment']} are correlated in this table, and in ρ of each rollout. The "
            "charts below show all tokens and steps"
        )
    tokens, prompts = reading["num_tokens"], reading["num_prompts"]
    if tokens < FEW_TOKENS:
        found.append(f"few tokens: {tokens:,}, below {FEW_TOKENS}")
    if prompts < FEW_PROMPTS:
        found.append(few_prompts(prompts))
    units = reading.get("units") or {"token": reading}
    lacking = [
        f"{entry['num_undefined']:,} of {reading['num_rollouts']:,} by {name}"
        for name, entry in units.items()
        if entry["num_undefined"]
    ]
    if lacking:
        found.append(
            "rollouts without a ρ of their own (too few measured items, or a constant series): " + ", ".join(lacking)
        )
    if reading.get("headline") == "step":
        found += _of_steps(units["step"])
    value, control = reading["spearman"]["value"], reading["logprob_control"]["value"]
    if value is not None and control is not None and value * control > 0 and abs(control) >= NEAR * abs(value):
        found.append(
            f"the control, which follows entropy by construction, has the same sign and is nearly as strong as ρ over "
            f"tokens, or stronger ({signed(control, 2)}). So ρ over tokens may say no more than the control"
        )
    within = (reading.get("spearman_within") or {}).get("value")
    noise = math.nan if shuffled is None or np.isnan(shuffled).all() else float(np.nanmean(shuffled))
    if within is not None and not math.isnan(noise) and abs(noise) >= NEAR * abs(within):
        found.append(
            f"shuffled strengths give nearly as strong a ρ over tokens within rollouts ({signed(noise, 2)} against "
            f"{signed(within, 2)})"
        )
    if reading.get("targets_per_rollout"):
        few = reading["targets_per_rollout"]
        items = "1 random token of each rollout was" if few == 1 else f"{few} random tokens of each rollout were"
        found.append(f"only {items} measured")
    return found


def _of_steps(step: Mapping[str, Any]) -> list[str]:
    """Return a warning if the verdict on ρ over steps changes when their lengths and positions are held fixed.

    ρ is the correlation of entropy and strength. The list is empty if the verdict does not change.
    """
    both = (step.get("given") or {}).get("both")
    if both is None or verdict_of(both) == verdict_of(step):
        return []
    return [
        f"with the lengths and places of the steps held fixed, ρ over them is {verdict_of(both)}"
        + ("" if both["value"] is None else f" ({signed(both['value'], 2)})")
    ]
