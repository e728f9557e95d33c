"""What was found on one claim, and how a number becomes a verdict."""

import math
from typing import NamedTuple

from emergence_findings import Value

from antiphase.runs.table_text import signed

FOR, AGAINST, MIXED = "for", "against", "mixed"
SMALLER, UNDECIDED, NOT_RUN = "smaller than the paper's", "not enough data", "not run yet"
# All verdicts, as a table lists them; `mixed` is for the links of the chain alone.
VERDICTS = (FOR, AGAINST, MIXED, SMALLER, UNDECIDED, NOT_RUN)
# The end of a verdict on one seed.
ONE_SEED = " (one seed)"


class Finding(NamedTuple):
    """What was found on one claim at one scale.

    Args:
        claim: the claim.
        paper: the paper's number.
        scale: the model and the number of seeds and texts or problems.
        what: what our number is.
        value, low, high: our number and its 95 % interval; NaN if it was not measured.
        detectable: the smallest true value that the data tell from 0 in 80 % of cases; NaN if unknown.
        unit: `ρ` or `points`.
        verdict: what our number says about the claim.
        mind: what would change our mind.
    """

    claim: str
    paper: str
    scale: str
    what: str
    value: float
    low: float
    high: float
    detectable: float
    unit: str
    verdict: str
    mind: str

    @property
    def text(self) -> str:
        """Our number with its interval; a dash if there is none."""
        if math.isnan(self.value):
            return "—"
        if self.unit == "points":
            ends = "" if math.isnan(self.low) else f" [{points(self.low)}, {points(self.high)}]"
            return f"{points(self.value)}{ends} points"
        return f"{signed(self.value)}" + (
            "" if math.isnan(self.low) else f" [{signed(self.low)}, {signed(self.high)}]"
        )

    @property
    def power(self) -> str:
        """`detectable` as text; a dash if it is unknown."""
        if math.isnan(self.detectable):
            return "—"
        return f"{100 * self.detectable:.1f} points" if self.unit == "points" else f"{self.detectable:.2f}"


def points(value: float) -> str:
    """Return a share as points with a sign, such as `+2.4`."""
    return f"{100 * value:+.1f}".replace("-", "−")


def judged(value: Value, sign: int, size: float | None = None) -> str:
    """Return what a value says about a claim that it has a sign.

    Args:
        value: the value with its interval.
        sign: +1 or −1, the sign that the claim says.
        size: the paper's value; None if the paper gives none.

    Returns:
        `for` if the interval lies on the claimed side of 0, and `against` if it lies on the other one. If it contains
        0, it is `smaller than the paper's` if it does not contain the paper's value, and `not enough data` if it does.
        Where one seed was run, the verdict says so.
    """
    if value.num_seeds == 0 or math.isnan(value.value):
        return NOT_RUN
    if math.isnan(value.low):
        return UNDECIDED
    if sign * (value.low if sign > 0 else value.high) > 0:
        verdict = FOR
    elif sign * (value.high if sign > 0 else value.low) < 0:
        verdict = AGAINST
    elif size is not None and not value.low <= size <= value.high:
        verdict = SMALLER
    else:
        verdict = UNDECIDED
    return verdict if value.num_seeds > 1 else f"{verdict}{ONE_SEED}"


def counted(num: int, what: str) -> str:
    """Return a number with its noun, such as `2 seeds`."""
    return f"{num} {what}{'' if num == 1 else 's'}"
