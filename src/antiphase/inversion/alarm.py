"""Detect the collapse of a training from the metrics of its last batches (docs/training.md, guard-rails).

A reward that needs no right answers, such as inversion, can keep rising while accuracy falls. In the studies so far,
accuracy rose at first and collapsed later. The alarm looks for the step at which accuracy begins to fall. It also
looks for what a collapse does to completions: they become very short, run into the length limit, repeat themselves, or
become equal for all samples of a prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

AlarmAction = Literal["warn", "stop", "drop", "off"]
ALARM_ACTIONS: tuple[AlarmAction, ...] = get_args(AlarmAction)
THRESHOLD = 2.5
# A change is sharp if the mean of the last quarter of the window is this many times that of the first quarter, or if a
# share has risen by this much.
FACTOR = 3.0
REPETITION_RISE = 0.3
TRUNCATED_RISE = 0.5

INVERSION, ACCURACY, REWARD = "inversion/mean", "task/accuracy", "task/mean"
# Under dynamic sampling, the batch that is trained on was chosen by its rewards, so its accuracy says nothing. This is
# the accuracy of the batch before groups are replaced.
SAMPLED_ACCURACY = "sampling/accuracy"
LENGTH, TRUNCATED, REPETITION = "rollout/length", "rollout/truncated", "rollout/repetition"
DISTINCT = "rollout/distinct"
# The metrics that the alarm reads.
WATCHED = (INVERSION, ACCURACY, REWARD, LENGTH, TRUNCATED, REPETITION, DISTINCT)


@dataclass(frozen=True)
class Sign:
    """A sign of collapse.

    Args:
        name: the kind of the sign: `accuracy`, `shorter`, `longer`, `limit`, `repetition` or `equal`; see
            `collapse_signs`.
        text: a phrase for messages that says what was seen, with the numbers.
    """

    name: str
    text: str


def slope_t(values: Sequence[float]) -> float:
    """Compute the t statistic of the least-squares slope of equally spaced values. It is 0 with fewer than 4 values.

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
    # The residual of an exact line is 0. The bound keeps its t statistic finite, and very large.
    return slope / max(math.sqrt(residual / spread), 1e-12)


def collapsing(inversion: Sequence[float], accuracy: Sequence[float], window: int) -> bool:
    """Return whether inversion rose and accuracy fell over the last `window` values.

    Each slope must differ from 0 by more than 2.5 standard errors, so independent noise raises the alarm in only 1 of
    10,000 windows. The result is False if more than half of the last values of a series are NaN, or if a series is
    shorter than the window. The alarm is ours: the paper has none.
    """
    if not (_enough(inversion, window) and _enough(accuracy, window)):
        return False
    return slope_t(inversion[-window:]) > THRESHOLD and slope_t(accuracy[-window:]) < -THRESHOLD


def _enough(values: Sequence[float], window: int) -> bool:
    """Return whether there are at least `window` values, and at least half of the last `window` are finite."""
    return len(values) >= window and 2 * sum(map(math.isfinite, values[-window:])) >= window


@dataclass(frozen=True)
class _Trend:
    """How a metric changed over the last batches (the window).

    Args:
        name: the name of the metric.
        start: the mean over the first quarter of the window; NaN if more than half of the values are unknown.
        end: the mean over the last quarter; NaN in the same case.
        t: the t statistic of the slope over the window; 0 in the same case.
    """

    name: str
    start: float
    end: float
    t: float

    @classmethod
    def of(cls, name: str, history: Mapping[str, Sequence[float]], window: int) -> "_Trend":
        values = list(history.get(name, ()))[-window:]
        if not _enough(values, window):
            return cls(name, math.nan, math.nan, 0.0)
        quarter = max(2, window // 4)
        return cls(name, _mean(values[:quarter]), _mean(values[-quarter:]), slope_t(values))

    @property
    def known(self) -> bool:
        return math.isfinite(self.start) and math.isfinite(self.end)

    @property
    def rose(self) -> bool:
        return self.t > THRESHOLD

    @property
    def fell(self) -> bool:
        return self.t < -THRESHOLD

    def __str__(self) -> str:
        return f"{self.name} {self.start:.3g} → {self.end:.3g}"


def collapse_signs(history: Mapping[str, Sequence[float]], window: int) -> list[Sign]:
    """Return the signs of collapse over the last `window` batches.

    * `accuracy`: inversion rose while task accuracy fell; see `collapsing`.
    * `shorter`, `longer`: the mean length of the completions fell to a third, or rose threefold.
    * `limit`: the share of completions without an end token rose by 0.5.
    * `repetition`: the share of repeated 4-grams rose by 0.3.
    * `equal`: the share of distinct completions of a prompt fell to a third.

    A metric rises or falls if its slope over the window differs from 0 by more than 2.5 standard errors. The amounts
    in the list, such as "to a third", compare the mean of the last quarter of the window with that of the first
    quarter. For such a sign, both must hold: the metric rises or falls, and its mean changes by this amount.

    The signs other than `accuracy` have a further condition:

    * With a verifier, the accuracy must not rise. The sign `equal` is never returned, because right answers may be
      equal.
    * Without a verifier, the task reward must rise; or the inversion, if there is no task reward.

    The paper has no alarm; this one is our own. docs/training.md says how often noise raises it.

    >>> lengths = [150.0 * 0.85**step for step in range(20)]
    >>> rewards = [10.0 + step for step in range(20)]
    >>> [sign.text for sign in collapse_signs({"rollout/length": lengths, "task/mean": rewards}, 20)]
    ['completions became much shorter (rollout/length 111 → 9.72) while the reward rose (task/mean 12 → 27)']

    Args:
        history: the values of each metric in the last batches. A metric is unknown if it is missing, or NaN in more
            than half of the window. An unknown metric gives no sign. If the accuracy is unknown, the rule for a
            training without a verifier holds.
        window: number of batches that are looked at.
    """
    trends = {name: _Trend.of(name, history, window) for name in WATCHED}
    inversion, accuracy, reward = trends[INVERSION], trends[ACCURACY], trends[REWARD]
    found = []
    if collapsing(history.get(INVERSION, ()), history.get(ACCURACY, ()), window):
        found.append(Sign("accuracy", f"inversion rose while task accuracy fell ({inversion}, {accuracy})"))
    if accuracy.known:
        bad, why = not accuracy.rose, f"while task accuracy did not rise ({accuracy})"
    else:
        reward = reward if reward.known else inversion
        bad, why = reward.rose, f"while the reward rose ({reward})"
    if bad:
        found += [Sign(name, f"{text} {why}") for name, text in _sharp_changes(trends)]
    return [sign for sign in found if sign.name != "equal" or not accuracy.known]


def _sharp_changes(trends: Mapping[str, _Trend]) -> list[tuple[str, str]]:
    """Return (name, text) of each change that is large enough for a sign of collapse.

    `collapse_signs` lists the changes. It also checks the accuracy and the reward; this function does not.

    Args:
        trends: a mapping from the name of a metric to its change.
    """
    length, truncated, repetition = trends[LENGTH], trends[TRUNCATED], trends[REPETITION]
    distinct = trends[DISTINCT]
    # A comparison with NaN is false, so an unknown metric gives no sign.
    tests = [
        ("shorter", "completions became much shorter", length, length.fell and length.end <= length.start / FACTOR),
        ("longer", "completions became much longer", length, length.rose and length.end >= length.start * FACTOR),
        (
            "limit",
            "more completions ran into their length limit",
            truncated,
            truncated.rose and truncated.end - truncated.start >= TRUNCATED_RISE,
        ),
        (
            "repetition",
            "completions repeat themselves",
            repetition,
            repetition.rose and repetition.end - repetition.start >= REPETITION_RISE,
        ),
        (
            "equal",
            "the completions of a prompt became equal",
            distinct,
            distinct.fell and distinct.end <= distinct.start / FACTOR,
        ),
    ]
    return [(name, f"{text} ({trend})") for name, text, trend, seen in tests if seen]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values; NaN without any."""
    kept = [value for value in values if math.isfinite(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan
