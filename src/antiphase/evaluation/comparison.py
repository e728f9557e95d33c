"""Compare models or methods: their values and differences, with intervals over problems and seeds.

Differences are paired by problem. The smallest difference that the comparison can detect is computed too. The rank
correlation of inversion with accuracy, over all models or methods, says whether "stronger inversion goes with better
reasoning" holds here. The same correlation is computed for every control (a simpler number of a rollout, such as its
length), to see whether it predicts accuracy as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from antiphase.errors import InvalidInputError
from antiphase.evaluation.entrants import HEADLINE, Entrant, SeedRun, check_comparable, shared_problems
from antiphase.evaluation.entries import Options
from antiphase.evaluation.rivals import ACROSS
from antiphase.runs.rivals import LATER, SCORES
from antiphase.runs.units import headline_entry, spearman_column
from antiphase.statistics.association import rank_association
from antiphase.statistics.estimate import mean_interval, number_or_none, share_interval
from antiphase.statistics.paired import paired_difference

# With fewer clusters (entrants with their seeds), an interval from resampling them would say nothing.
MIN_CLUSTERS = 5
_SHARES = ("accuracy", "greedy", "pass", "maj", "three")


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, as plain values that can be written as JSON.

    Args:
        tasks: the results of each task. `entrants` has an entry for each entrant (a model, or a method with its
            seeds): name, number of seeds, values, and differences from the reference. `reference` is the name of the
            entrant with which the others are compared. `across` is the rank correlation of ι (the inversion, −ρ) and
            of each control with accuracy, over the runs of all entrants; it is empty if there are fewer than 4 runs.
        points: the accuracy, ι and the controls, for each entrant, task and seed. `ACROSS` lists the controls.
        options: the options of the comparison.
        benchmarks: a mapping from a name to a table of accuracies on several tasks, with averages (see `benchmark`). A
            study (a grid of trainings) has a table for each model and setting. `compare` makes at most one table; its
            name is the empty text.
    """

    tasks: dict[str, Any]
    points: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a dictionary of values that JSON can hold."""
        return dict(vars(self))


def compare_entrants(entrants: Sequence[Entrant], options: Options) -> Comparison:
    """Compare entrants (models or methods with their seeds) on every task that at least two of them share.

    Raises:
        InvalidInputError: there are fewer than two entrants, the reference is unknown, no task is shared, or the
            evaluations cannot be compared (see `check_comparable`).
    """
    names = list(dict.fromkeys(entrant.name for entrant in entrants))
    if len(names) < 2:
        raise InvalidInputError(
            f"a comparison needs at least two models or methods; got {', '.join(names) or 'none'}. Give another model "
            "or method. Seeds of one method are given as NAME=RUN,RUN."
        )
    if options.reference is not None and options.reference not in names:
        raise InvalidInputError(
            f"the reference {options.reference!r} is none of the compared models or methods: {', '.join(names)}."
        )
    by_task: dict[str, list[Entrant]] = {}
    for entrant in entrants:
        by_task.setdefault(entrant.task, []).append(entrant)
    tasks = {task: compare_task(own, options) for task, own in by_task.items() if len(own) > 1}
    if not tasks:
        raise InvalidInputError(
            f"the models or methods share no task: {'; '.join(f'{e.name}: {e.task}' for e in entrants)}. "
            "Evaluate them on the same tasks."
        )
    points = [point_of(entrant, run) for entrant in entrants for run in entrant.runs]
    return Comparison(tasks, points, dict(vars(options)))


def compare_task(entrants: Sequence[Entrant], options: Options) -> dict[str, Any]:
    """Compute the values of entrants (models or methods) on one task, and their differences from the reference.

    Raises:
        InvalidInputError: the evaluations cannot be compared (see `check_comparable`), or share no problem.
    """
    if not options.allow_mismatch:
        check_comparable(entrants)
    problems = shared_problems(entrants)
    if not problems:
        raise InvalidInputError(
            f"the models or methods share no problem of {entrants[0].task!r}. Evaluate them on the same problems."
        )
    reference = next((e for e in entrants if e.name == (options.reference or entrants[0].name)), None)
    if reference is None:
        raise InvalidInputError(
            f"the reference {options.reference!r} was not evaluated on {entrants[0].task!r}. Evaluate it there, or "
            "choose another --reference."
        )
    points = [point_of(entrant, run) for entrant in entrants for run in entrant.runs]
    # Seeds of one entrant resemble each other. So if there are several, the entrants are the clusters.
    clusters = [point["entrant"] for point in points] if len(points) > len(entrants) else None
    return {
        "reference": reference.name,
        "num_problems": len(problems),
        "entrants": [_row(entrant, reference, problems, options) for entrant in entrants],
        "across": associations(points, clusters, options),
    }


def _metrics(entrant: Entrant) -> list[str]:
    """Return the names of the metrics that every seed of an entrant has."""
    found = ["accuracy"]
    if any(run.rollouts.greedy.any() for run in entrant.runs):
        found.append("greedy")
    for prefix in ("pass", "maj"):
        k = max(entrant.ks(prefix), default=0)
        if k > 1:
            found.append(f"{prefix}@{k}")
    found.append("length")
    if all("signals" in run.result for run in entrant.runs):
        found += ["entropy", "inversion"]
    return found


def _row(entrant: Entrant, reference: Entrant, problems: Sequence[str], options: Options) -> dict[str, Any]:
    """Return an entrant's value of every metric on one task, and its differences from the reference."""
    values, differences = {}, {}
    for metric in _metrics(entrant):
        matrix = entrant.matrix(metric, problems)
        values[metric] = crossed_interval(matrix, metric, options)
        if entrant.name != reference.name and metric in _metrics(reference):
            left, right = (side.matrix(metric, problems) for side in sides_of(entrant, reference, options))
            differences[metric] = difference_of(left, right, metric, options)
    return {
        "name": entrant.name,
        "num_seeds": len(entrant.runs),
        "unit": entrant.runs[0].unit,
        "values": values,
        "differences": differences,
        "spearman": number_or_none(entrant.mean_signal(HEADLINE)),
        "logprob_control": number_or_none(entrant.mean_signal("logprob_control")),
        "auroc": _mean_auroc(entrant),
    }


def sides_of(entrant: Entrant, reference: Entrant, options: Options) -> tuple[Entrant, Entrant]:
    """Return the entrant and the reference, each with only the runs that are compared.

    If seeds are paired, each of the two keeps only the seeds that both have, in the same order. If a seed occurs
    twice, runs are paired by their order instead. If seeds are not paired, both are returned unchanged.

    Raises:
        InvalidInputError: seeds are paired, but the two share no seed; or runs are paired by their order, but the two
            have different numbers of runs.
    """
    if not options.paired_seeds:
        return entrant, reference
    own, other = ({run.seed: run for run in side.runs} for side in (entrant, reference))
    by_place = any(seed.startswith("#") for seed in (*own, *other))
    if by_place and len(own) != len(other):
        raise InvalidInputError(
            f"{entrant.name!r} and {reference.name!r} have different numbers of runs ({len(own)} and {len(other)}). "
            "Several of these runs have the same sampling seed, so runs can only be paired by their order, which "
            "needs equal numbers of runs. Evaluate with different seeds, or leave out --paired-seeds."
        )
    shared = [seed for seed in own if seed in other]
    if not shared:
        raise InvalidInputError(
            f"{entrant.name!r} (seeds {', '.join(own)}) and {reference.name!r} (seeds {', '.join(other)}) share no "
            "seed, so seeds cannot be paired. Leave out --paired-seeds."
        )
    return (
        replace(entrant, runs=tuple(own[seed] for seed in shared)),
        replace(reference, runs=tuple(other[seed] for seed in shared)),
    )


def _mean_auroc(entrant: Entrant) -> float | None:
    """Return the mean over seeds of the AUROC of the inversion ι; None if no seed has one.

    The AUROC says how well ι tells right from wrong rollouts.
    """
    areas = [run.result.get("inside", {}).get("auroc", {}).get("inversion") for run in entrant.runs]
    values = [area["value"] for area in areas if area is not None and area["value"] is not None]
    return float(np.mean(values)) if values else None


def is_share(metric: str) -> bool:
    """Return whether a metric is a share, that is, a number in [0, 1]."""
    return metric.partition("@")[0] in _SHARES


def crossed_interval(matrix: np.ndarray, metric: str, options: Options) -> dict[str, Any]:
    """Return the mean of a metric over seeds and problems, with its interval.

    The interval says how far the mean could move with other seeds and other problems. If there is one seed, the
    interval is about other problems only. If the metric is a share, such as an accuracy, the interval lies in [0, 1].

    Args:
        matrix: the values of the metric, `[seed, problem]`.
        metric: the name of the metric.
        options: only `num_resamples` and `seed` are used.
    """
    if len(matrix) == 1:
        estimate = share_interval(matrix[0]) if is_share(metric) else mean_interval(matrix[0], seed=options.seed)
        return estimate.to_dict()
    found = paired_difference(
        matrix, np.zeros_like(matrix), paired_seeds=True, num_resamples=options.num_resamples, seed=options.seed
    )
    low, high = (max(0.0, found.low), min(1.0, found.high)) if is_share(metric) else (found.low, found.high)
    ends = {"value": found.difference, "low": low, "high": high}
    return {key: number_or_none(value) for key, value in ends.items()} | {"num_problems": found.num_problems}


def difference_of(left: np.ndarray, right: np.ndarray, metric: str, options: Options) -> dict[str, Any]:
    """Return the mean difference `left` minus `right`, in the form of `PairedDifference.to_dict`.

    Args:
        left, right: the values of the metric for the two models or methods, on the same problems, `[seed, problem]`.
        metric: the name of the metric. Only a metric that is a share (a number in [0, 1]) gets a verdict.
        options: the options of the comparison.
    """
    found = paired_difference(
        left,
        right,
        paired_seeds=options.paired_seeds,
        smallest=options.smallest,
        num_resamples=options.num_resamples,
        seed=options.seed,
    ).to_dict()
    if not is_share(metric):
        found["verdict"] = None  # A verdict depends on `smallest`, which is a difference between shares.
    return found


def point_of(entrant: Entrant, run: SeedRun) -> dict[str, Any]:
    """Return the accuracy of one evaluated seed, its inversion ι, and the controls of ι that `ACROSS` lists.

    Undefined numbers are None.
    """
    rows = run.rows
    signals = run.result.get("signals", {})

    def mean(column: str, sign: int = 1) -> float | None:
        value = rows[column].astype("float64").mean()
        return None if math.isnan(value) else sign * float(value)

    def minus(entry: Mapping[str, Any] | None) -> float | None:
        return None if entry is None or entry["value"] is None else -entry["value"]

    return {
        "entrant": entrant.name,
        "task": entrant.task,
        "seed": run.seed,
        "accuracy": float(entrant_accuracy(run)),
        "inversion": minus(headline_entry(signals)),
        "inversion_within": mean(spearman_column(rows, run.unit), -1),
        "low_entropy": mean("entropy_mean", -1),
        "logprob_control": minus(signals.get("logprob_control")),
        "shuffled": mean("shuffled", -1),
        "logprob": mean("logprob_mean"),
        "self_certainty": mean("self_certainty_mean"),
        "shortness": mean("num_tokens", -1),
        # A run that is older than the column of a score lacks it.
        **{name: mean(SCORES[name].column, SCORES[name].sign) for name in LATER if SCORES[name].column in rows},
    }


def entrant_accuracy(run: SeedRun) -> float:
    """Return the accuracy of one evaluated seed: the mean over problems of the share of right samples."""
    alone = Entrant("", "", (run,))
    return float(alone.matrix("accuracy", alone.problems).mean())


def associations(
    points: Sequence[Mapping[str, Any]], clusters: Sequence[str] | None, options: Options
) -> dict[str, Any]:
    """Compute the rank correlation of accuracy with the inversion ι, and with each control that `ACROSS` lists.

    Args:
        points: what `point_of` returned for each run. The correlation is over these runs.
        clusters: the model or method of each point. Points of one model or method resemble one another, so the
            interval treats them as a cluster. Give None if every model or method has only one point.
        options: only `seed` is used.

    Returns:
        A mapping from a name (a key of `ACROSS`) to its correlation with accuracy. Names that a point
        lacks are left out. The mapping is empty if there are fewer than 4 points.
        If there are fewer than `MIN_CLUSTERS` clusters, the correlations have no interval.
    """
    if len(points) < 4:
        return {}
    accuracy = _column(points, "accuracy")
    labels = None if clusters is None else np.array(clusters)
    found = {
        name: rank_association(_column(points, name), accuracy, clusters=labels, seed=options.seed).to_dict()
        for name in ACROSS
        if all(name in point for point in points)
    }
    for entry in found.values():
        if clusters is not None and int(entry["num_clusters"] or 0) < MIN_CLUSTERS:
            entry["low"] = entry["high"] = None
    return found


def _column(points: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([math.nan if point[name] is None else point[name] for point in points], dtype=np.float64)
