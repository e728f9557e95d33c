"""Compute a table of accuracies on several tasks: Pass@1, Pass@k and Major@k, and their averages over the tasks.

The table has a row for each model (or method) and task. Each model also has a row with its averages over the tasks, in
which every task has the same weight. Pass@1 is the mean accuracy of the samples, Pass@k the probability that one of k
samples is right, and Major@k the accuracy of a majority vote of k samples. A fourth column is the mean of these three,
because a published average may be this mean.

Intervals are over problems. If a method has several seeds, they are also over seeds. All tasks of a method share its
seeds, so the variance over seeds is computed from each seed's average over tasks, not task by task.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from antiphase.evaluation.comparison import crossed_interval, sides_of
from antiphase.evaluation.entrants import Entrant, SeedRun, shared_problems
from antiphase.evaluation.entries import Options
from antiphase.evaluation.task_metrics import rows_of
from antiphase.statistics.estimate import average_interval, number_or_none, share_interval, student_quantile
from antiphase.statistics.paired import paired_difference, verdict_of
from antiphase.statistics.variance import Term, combined_variance, residual_variance, variance_of_mean

AVERAGE = "average"
_CONFIDENCE = 0.95
_ROUNDING = 1e-12
_UNDEFINED = {"value": None, "low": None, "high": None, "num_problems": 0}
Matrices = list[np.ndarray]


def benchmark(entrants: Sequence[Entrant], options: Options | None = None) -> dict[str, Any] | None:
    """Compute a table of accuracies of models or methods on several tasks, with their averages over the tasks.

    An entrant is a model, or a method with its seeds, on one task. The table is a mapping with these keys:

    * `tasks`: the specs of the tasks. A spec is the name of a task with its options.
    * `metrics`: the names of the metrics: `accuracy` (Pass@1), `pass@K`, `maj@K` (Major@K) and `three@K` (the mean of
      the three). K is the largest k that all entrants have.
    * `rows`: the rows. Each has `name`, `task` (the spec or `average`), `num_seeds`, and `values`, which holds the
      value of each metric with its interval. If a model or method lacks a task, its average is None. If `options`
      are given, the rows of averages also have `differences`: for each metric, the difference from the reference.
    * `reference`: the name of the entrant with which the others are compared; None if no `options` are given.

    Args:
        entrants: an entrant for each model (or method) and task, with its seeds.
        options: how the entrants are compared. None computes no differences.

    Returns:
        The table; None if there is only one task or nothing was sampled.
    """
    tasks = list(dict.fromkeys(entrant.task for entrant in entrants))
    metrics = _metrics(entrants)
    if len(tasks) < 2 or not metrics:
        return None
    names = list(dict.fromkeys(entrant.name for entrant in entrants))
    of_name = {name: {entrant.task: entrant for entrant in entrants if entrant.name == name} for name in names}
    problems = {task: shared_problems([own[task] for own in of_name.values() if task in own]) for task in tasks}
    rows = []
    for name in names:
        for task in tasks:
            if task in of_name[name]:
                entrant = of_name[name][task]
                values = {metric: _value(entrant, metric, problems[task], options) for metric in metrics}
                rows.append({"name": name, "task": task, "num_seeds": len(entrant.runs), "values": values})
        rows.append(_average(name, of_name, tasks, metrics, problems, options))
    reference = None if options is None else options.reference or names[0]
    return {"tasks": tasks, "metrics": metrics, "reference": reference, "rows": rows}


def results_benchmark(results: Sequence[Mapping[str, Any]], rollouts: pd.DataFrame) -> dict[str, Any] | None:
    """Compute the table that `benchmark` returns, for the models of one evaluation.

    Args:
        results: the entries of the evaluation's summary. Accuracies do not depend on the estimator, so only the first
            entry of each model and task is used.
        rollouts: the evaluation's table of rollouts.
    """
    entrants: dict[tuple[str, str], Entrant] = {}
    for result in results:
        key = (str(result["model"]), str(result["task"]))
        if key in entrants:
            continue
        own = rows_of(rollouts, *key, result["estimator"])
        entrants[key] = Entrant(*key, (SeedRun("", result, own, {}),))
    return benchmark(list(entrants.values()))


def _metrics(entrants: Sequence[Entrant]) -> list[str]:
    """Return the names of the metrics that the table can show; an empty list if no entrant has samples."""
    sampled = [entrant for entrant in entrants if _sampled(entrant)]
    if not sampled:
        return []
    found, ks = ["accuracy"], {}
    for prefix in ("pass", "maj"):
        known = [entrant.ks(prefix) for entrant in sampled]
        ks[prefix] = max(set.intersection(*known), default=0)
        if ks[prefix] > 1:
            found.append(f"{prefix}@{ks[prefix]}")
    return [*found, f"three@{ks['maj']}"] if len(found) == 3 and ks["pass"] == ks["maj"] else found


def _sampled(entrant: Entrant) -> bool:
    """Return whether every seed of an entrant has sampled rollouts. Greedy rollouts do not count."""
    return all(bool((~run.rollouts.greedy).any()) for run in entrant.runs)


def _value(entrant: Entrant, metric: str, problems: Sequence[str], options: Options | None) -> dict[str, Any]:
    """Return the value of a metric on one task, with its interval. If nothing was sampled, both are None."""
    if not _sampled(entrant) or not problems:
        return dict(_UNDEFINED)
    return crossed_interval(entrant.matrix(metric, problems), metric, options or Options())


def _average(
    name: str,
    of_name: Mapping[str, Mapping[str, Entrant]],
    tasks: Sequence[str],
    metrics: Sequence[str],
    problems: Mapping[str, Sequence[str]],
    options: Options | None,
) -> dict[str, Any]:
    """Return the table row with the averages of one entrant over the tasks.

    If `options` are given, the row also has the differences from the reference.
    """
    own = of_name[name]
    row: dict[str, Any] = {"name": name, "task": AVERAGE, "num_seeds": min(len(each.runs) for each in own.values())}
    if not _whole(own, tasks, problems):
        return row | {"values": {metric: dict(_UNDEFINED) for metric in metrics}}
    row["values"] = {
        metric: average_of_shares([own[task].matrix(metric, problems[task]) for task in tasks]) for metric in metrics
    }
    if options is not None:
        reference = of_name[options.reference or next(iter(of_name))]
        if reference is not own and _whole(reference, tasks, problems):
            pairs = [sides_of(own[task], reference[task], options) for task in tasks]
            row["differences"] = {
                metric: average_difference(
                    [left.matrix(metric, problems[task]) for (left, _), task in zip(pairs, tasks, strict=True)],
                    [right.matrix(metric, problems[task]) for (_, right), task in zip(pairs, tasks, strict=True)],
                    options,
                )
                for metric in metrics
            }
    return row


def _whole(own: Mapping[str, Entrant], tasks: Sequence[str], problems: Mapping[str, Sequence[str]]) -> bool:
    """Return whether an entrant has samples of every task, and the same number of seeds in all tasks."""
    if not all(task in own and problems[task] and _sampled(own[task]) for task in tasks):
        return False
    return len({len(entrant.runs) for entrant in own.values()}) == 1


def average_of_shares(matrices: Matrices) -> dict[str, Any]:
    """Compute the share of right samples, averaged over tasks with equal weight, with its interval.

    If there is one seed, the interval is over problems, and `average_interval` computes it. If there are several
    seeds, the interval is over problems and seeds, and `average_difference` computes it.

    Args:
        matrices: for each task, the share of right samples of each seed and problem, `[seed, problem]`.
    """
    if len(matrices[0]) == 1:
        return average_interval([share_interval(matrix[0]) for matrix in matrices]).to_dict()
    found = average_difference(matrices, [np.zeros_like(matrix) for matrix in matrices], Options(paired_seeds=True))
    ends = {"low": found["low"], "high": found["high"]}
    clipped = {key: None if end is None else min(1.0, max(0.0, end)) for key, end in ends.items()}
    return {"value": found["difference"], **clipped, "num_problems": found["num_problems"]}


def average_difference(left: Matrices, right: Matrices, options: Options) -> dict[str, Any]:
    """Compute the difference in accuracy `left` minus `right`, averaged over tasks, with its interval.

    All tasks have the same weight. The variance V is that of `difference_variance`, extended to problems that are
    drawn within each task:

        V = V_seeds + w² Σ_t (1 + 2/m_t) s²_columns,t/N_t − w² Σ_t s²_residual,t/(S N_t)

    Here w is one over the number of tasks, S is the number of seeds, and V_seeds is the variance of the seeds'
    averages over tasks. Task t has N_t problems, and m_t of them have a difference that is not 0. s²_columns,t is the
    variance of its problems' differences, and s²_residual,t the variance that neither problem nor seed explains. The
    interval is the difference ± q √V, where q is the quantile of Student's t with Satterthwaite's degrees of freedom.

    If all problems of a task have the same difference, the variance over these problems is 0, but the true difference
    is still uncertain. The standard error for this task is then half the width of the interval of `paired_difference`,
    divided by q.

    Args:
        left: for each task, a matrix `[seed, problem]` of the shares of one model or method.
        right: for each task, the matrix of the other model or method, with the same tasks and problems in the same
            order.
        options: only `paired_seeds` and `smallest` are used.

    Returns:
        The difference, its interval and its verdict, with the keys of `PairedDifference.to_dict`.
    """
    kept = [~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0)) for a, b in zip(left, right, strict=True)]
    left = [side[:, keep] for side, keep in zip(left, kept, strict=True)]
    right = [side[:, keep] for side, keep in zip(right, kept, strict=True)]
    num, weight = sum(int(keep.sum()) for keep in kept), 1 / len(left)
    value = low = high = probability = detectable = math.nan
    if all(keep.any() for keep in kept):
        value = float(np.mean([a.mean() - b.mean() for a, b in zip(left, right, strict=True)]))
    if all(keep.sum() > 1 for keep in kept):
        variance, degrees = _stratified(left, right, options.paired_seeds, weight)
        error = math.sqrt(variance)
        reach = student_quantile(_CONFIDENCE, degrees) * error
        low, high = max(-1.0, value - reach), min(1.0, value + reach)
        probability = float(stdtr(degrees, value / error))
        detectable = reach + float(stdtrit(degrees, 0.8)) * error
    numbers = {
        "difference": value,
        "low": low,
        "high": high,
        "probability_of_improvement": probability,
        "minimum_detectable": detectable,
    }
    seeds = [len(side[0]) for side in (left, right)]
    return {
        **{name: number_or_none(number) for name, number in numbers.items()},
        "num_problems": num,
        "num_seeds_left": seeds[0],
        "num_seeds_right": seeds[1],
        "seeds_covered": min(seeds) > 1,
        "verdict": verdict_of(low, high, detectable, options.smallest),
    }


def _stratified(left: Matrices, right: Matrices, paired_seeds: bool, weight: float) -> tuple[float, float]:
    """Return the variance of the difference averaged over tasks, and the degrees of freedom of this variance."""
    problem_terms: list[Term] = []
    noise: list[Term] = []
    seeds_covered = min(len(left[0]), len(right[0])) > 1
    for a, b in zip(left, right, strict=True):
        problem_terms.append((weight**2 * _problem_term(a, b, paired_seeds), a.shape[1] - 1))
        if seeds_covered:
            for side in [a - b] if paired_seeds else [a, b]:
                rest = weight**2 * residual_variance(side) / side.size
                noise.append((rest, (len(side) - 1) * (side.shape[1] - 1)))
    by_seed = [np.mean([side.mean(1) for side in sides], axis=0) for sides in (left, right)]
    rows = [by_seed[0] - by_seed[1]] if paired_seeds else by_seed
    seeds = [(variance_of_mean(row), len(row) - 1) for row in rows] if seeds_covered else []
    total = sum(term for term, _ in problem_terms)
    squares = sum(term**2 / own for term, own in problem_terms)
    return combined_variance((total, total**2 / squares), seeds, noise)


def _problem_term(left: np.ndarray, right: np.ndarray, paired_seeds: bool) -> float:
    """Return the part of the variance of a task's difference that comes from the choice of problems."""
    columns = left.mean(0) - right.mean(0)
    shown = variance_of_mean(columns)
    if shown > 0:
        return shown * (1 + 2 / int((np.abs(columns) > _ROUNDING).sum()))
    alone = paired_difference(left, right, paired_seeds=paired_seeds, num_resamples=1)
    return ((alone.high - alone.low) / 2 / student_quantile(_CONFIDENCE, len(columns) - 1)) ** 2
