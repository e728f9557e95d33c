"""Draw the curves of a training run: accuracy, inversion and entropy by step, held-out accuracy, and alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antiphase.errors import InvalidInputError
from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
_PANELS = (
    ("task/accuracy", "accuracy", BLUE),
    ("inversion/mean", "inversion ι", ORANGE),
    ("rollout/entropy", "entropy (nats)", INK),
)
# Dynamic sampling chooses the batch by its rewards. This is the accuracy of the batch before groups are replaced.
_INSTEAD = {"task/accuracy": "sampling/accuracy"}
_SMOOTH = 5


def trajectory_curves(trajectory: Rows) -> Figure:
    """Draw accuracy, inversion and entropy over the optimizer steps, in one panel each.

    A thin line shows every batch, and a thick line the running mean over 5 steps. A dashed vertical line is an alarm.
    If the training replaced groups of rollouts that teach nothing (dynamic sampling), the accuracy is that of the
    batches before the replacement. The panel of accuracy also shows accuracy on held-out problems: pass@1 with its
    interval (95 %), and the greedy accuracy. If the run has an `InversionCallback`, the panel of inversion also shows
    the ι that the callback measured on its probe set, with its interval.

    Args:
        trajectory: the rows of `trajectory.jsonl`.

    Raises:
        InvalidInputError: the trajectory has no step.
    """
    steps = [row for row in trajectory if row["kind"] == "step"]
    if not steps:
        raise InvalidInputError("the trajectory has no step; train first.")
    reach = min(row["step"] for row in trajectory), max(row["step"] for row in trajectory)
    margin = 0.05 * (reach[1] - reach[0]) or 0.5
    with canvas(7.2, 2.4) as (_, figure):
        axes = figure.subplots(1, len(_PANELS))
        for axis, (name, label, colour) in zip(axes, _PANELS, strict=True):
            key = _INSTEAD[name] if any(_INSTEAD.get(name) in row for row in steps) else name
            x = [row["step"] for row in steps]
            y = [math.nan if row.get(key) is None else float(row[key]) for row in steps]
            for values, width, size, alpha in ((y, 0.6, 1.5, 0.35), (_running_mean(y), 1.6, 3.5, 1.0)):
                axis.plot(x, values, "o-", color=colour, linewidth=width, markersize=size, alpha=alpha, mew=0,
                          markevery=_alone(values))  # fmt: skip
            axis.set(title=label if key == name else f"{label}, first sample", xlabel="optimizer step")
            # All panels show the same range of steps, even if a panel has few values.
            axis.set_xlim(reach[0] - margin, reach[1] + margin)
            axis.locator_params(axis="x", integer=True, min_n_ticks=1)
            for row in trajectory:
                if row["kind"] == "alarm":
                    axis.axvline(row["step"], color=GREY, linewidth=0.8, linestyle="--")
        axes[0].set_ylim(-0.02, 1.02)
        _held_out(axes[0], [row for row in trajectory if row["kind"] == "eval" and "heldout/pass@1" in row])
        axes[1].axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        _probed(axes[1], [row for row in trajectory if row["kind"] == "probe" and "probe/spearman" in row])
    return figure


def _probed(axis: Any, probes: Rows) -> None:
    """Draw the inversion ι that was measured on the probe set during the training.

    The rows hold ρ = −ι, so the low end of the interval of ρ becomes the high end of that of ι.
    """
    if probes:
        # A row that names no unit is old, and its ρ is over tokens.
        unit = probes[-1].get("probe/unit", "token")
        keys = ("probe/spearman", "probe/spearman_high", "probe/spearman_low")
        _dots(axis, probes, keys, f"probe set, by {unit}", sign=-1)
        axis.legend(loc="best")


def _held_out(axis: Any, evals: Rows) -> None:
    """Draw the accuracy on held-out problems: of samples, with its interval, and of greedy completions."""
    if evals:
        _dots(axis, evals, ("heldout/pass@1", "heldout/pass@1_low", "heldout/pass@1_high"), "held out, sampled")
        x, y = [row["step"] for row in evals], [row["heldout/greedy"] for row in evals]
        axis.plot(x, y, "D", markersize=3.5, color=GREY, label="held out, greedy")
        axis.legend(loc="lower right")


def _dots(axis: Any, rows: Rows, keys: Sequence[str], label: str, sign: int = 1) -> None:
    """Draw a dot with an interval for each row.

    Args:
        axis: the axes to draw on.
        rows: the rows to draw. A row is a mapping with `step` and the numbers that `keys` names.
        keys: the names of the numbers that, multiplied by `sign`, are the value, the low end and the high end.
        label: the label in the legend.
        sign: 1 or −1.
    """
    y, low, high = (np.array([math.nan if row.get(key) is None else sign * row[key] for row in rows]) for key in keys)
    axis.errorbar(
        [row["step"] for row in rows], y, yerr=[y - low, high - y], fmt="o", markersize=3.5, color=INK,
        linewidth=0.9, label=label,
    )  # fmt: skip


def _alone(values: Sequence[float]) -> list[int]:
    """Return the indices of the finite values that have no finite neighbour.

    No line can join them to other values, so each needs a dot.
    """
    known = [False, *map(math.isfinite, values), False]
    return [place for place in range(len(values)) if known[place + 1] and not (known[place] or known[place + 2])]


def _running_mean(values: Sequence[float]) -> list[float]:
    """Return, for each index, the mean of the finite values among the last 5; NaN if there is none."""
    means = []
    for place in range(len(values)):
        near = [v for v in values[max(0, place - _SMOOTH + 1) : place + 1] if math.isfinite(v)]
        means.append(sum(near) / len(near) if near else math.nan)
    return means
