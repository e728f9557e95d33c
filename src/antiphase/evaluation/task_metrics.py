"""Compute the metrics of one model on one task: accuracies, and how well scores tell right rollouts from wrong ones.

One of the scores is ι, the inversion: minus the correlation of entropy and gradient strength. Every number is a mean
over problems with an interval over problems, because the samples of one problem depend on one another. Greedy
completions count only in the metric `greedy`; if nothing was sampled, they take the place of the samples. Undefined
numbers are None, never 0.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from antiphase.evaluation.rivals import best_where_known, compare_with_rivals
from antiphase.runs.rivals import LATER, SCORES, rollout_score
from antiphase.statistics.accuracy import majority_at_k, pass_at_k
from antiphase.statistics.estimate import Estimate, mean_interval, share_interval
from antiphase.statistics.ranking import within_problem_auroc


def sampled_or_greedy(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the sampled rollouts, or those of the greedy ones if nothing was sampled."""
    drawn = rollouts[~rollouts.greedy]
    return drawn if len(drawn) else rollouts


def rows_of(table: pd.DataFrame, model: str, task: str, estimator: str) -> pd.DataFrame:
    """Return the rows of a table that belong to one model, task and estimator."""
    return table[(table.model == model) & (table.task == task) & (table.estimator == estimator)]


def largest(metrics: Mapping[str, Any], prefix: str) -> str:
    """Return the name of the metric with the largest k, such as `pass@8`.

    If no metric has the prefix, a name with the letter k is returned, such as `pass@k`.
    """
    names = [name for name in metrics if name.startswith(f"{prefix}@")]
    return max(names, key=lambda name: int(name.partition("@")[2]), default=f"{prefix}@k")


def headline_accuracy(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the accuracy of the samples, or that of the greedy completions if nothing was sampled."""
    found: Mapping[str, Any] = metrics.get(largest(metrics, "avg")) or metrics["greedy"]
    return found


def by_problem(rollouts: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Return the mean over the rollouts of each problem. NaN values are left out.

    Args:
        rollouts: the table of rollouts.
        values: one value for each row of the table.

    Returns:
        One mean for each problem, in the order in which the problems first appear.
    """
    series = pd.Series(values, index=rollouts.index)
    return series.groupby(rollouts.problem_id, sort=False).mean().to_numpy(dtype=np.float64)


class Samples(NamedTuple):
    """The samples of one problem: the answer of each, None where there is none, and whether each is right."""

    answers: list[str | None]
    correct: list[bool]


def samples_by_problem(rows: pd.DataFrame) -> dict[str, Samples]:
    """Return the samples of each problem id, from the rows of sampled rollouts.

    The problems are in the order in which they first appear.
    """
    found: dict[str, Samples] = {}
    columns = (rows[name].tolist() for name in ("problem_id", "answer", "correct"))
    for name, answer, correct in zip(*columns, strict=True):
        samples = found.setdefault(str(name), Samples([], []))
        samples.answers.append(answer if isinstance(answer, str) else None)
        samples.correct.append(bool(correct))
    return found


def passed_at(samples: Samples, k: int) -> float:
    """Compute pass@k of one problem, the probability that one of k samples is right."""
    return pass_at_k(len(samples.correct), sum(samples.correct), k)


def voted_at(samples: Samples, k: int) -> float:
    """Compute maj@k of one problem, the accuracy of a majority vote of k samples.

    A sample without an answer has no vote.
    """
    return majority_at_k(samples.answers, samples.correct, k)


def accuracy_metrics(rollouts: pd.DataFrame, ks: Sequence[int]) -> dict[str, dict[str, float | int | None]]:
    """Compute the accuracies of one model on one task.

    Args:
        rollouts: a row for each rollout, greedy ones included.
        ks: the values of k for pass@k and maj@k. A k above the smallest number of samples of a problem is left out.

    Returns:
        A mapping from the names of the metrics to their entries. The names are `avg@n` (mean over samples), `pass@k`,
        `maj@k`, `greedy`, `truncated`, `well_formed`, `timeouts`, `strict`, `flexible`, and `length` (in tokens). An
        entry has value, low, high and num_problems. docs/metrics.md explains the metrics.
    """
    drawn, greedy = rollouts[~rollouts.greedy], rollouts[rollouts.greedy]
    found: dict[str, Estimate] = {}
    if len(drawn):
        found |= _sampled(drawn, ks)
    if len(greedy):
        found["greedy"] = share_interval(greedy.correct.to_numpy(dtype=np.float64))
    shown = sampled_or_greedy(rollouts)
    cut = (shown.finish == "length").where(shown.finish != "given").to_numpy(dtype=np.float64)
    for name, values in (
        ("truncated", cut),
        ("well_formed", shown.well_formed.to_numpy(dtype=np.float64)),
        ("timeouts", shown.outcome.isin(["timeout", "error"]).to_numpy(dtype=np.float64)),
        ("strict", _scores(shown, "strict")),
        ("flexible", _scores(shown, "flexible")),
    ):
        found[name] = share_interval(by_problem(shown, values))
    found["length"] = mean_interval(by_problem(shown, shown.num_tokens.to_numpy(dtype=np.float64)))
    return {name: estimate.to_dict() for name, estimate in found.items()}


def _scores(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column of truth values as 1 and 0, with NaN for null. If an old run lacks the column, all are NaN."""
    values = rows[name].tolist() if name in rows else [None] * len(rows)
    return np.array([math.nan if pd.isna(value) else float(value) for value in values])


def _sampled(drawn: pd.DataFrame, ks: Sequence[int]) -> dict[str, Estimate]:
    """Compute `avg@n`, `pass@k` and `maj@k` of the sampled rollouts."""
    groups = list(samples_by_problem(drawn).values())
    least = min(len(group.correct) for group in groups)
    found = {f"avg@{least}": share_interval(np.array([np.mean(group.correct) for group in groups]))}
    for k in ks:
        if k <= least:
            found[f"pass@{k}"] = share_interval(np.array([passed_at(group, k) for group in groups]))
    for k in ks:
        if 2 < k <= least:  # A vote of one or two decides nothing.
            found[f"maj@{k}"] = share_interval(np.array([voted_at(group, k) for group in groups]))
    return found


def inside_metrics(rollouts: pd.DataFrame, ks: Sequence[int], unit: str = "token") -> dict[str, Any]:
    """Compute how well each score tells right from wrong rollouts of the same problem.

    The result is a mapping with three keys:

    * `auroc`: the AUROC of each score in `SCORES`, with its interval. The scores are the inversion ι and its rivals,
      which are other numbers of a rollout such as its length. Chance is 0.5. `num_problems` counts the problems with
      both right and wrong rollouts.
    * `best_of`: for each k and each way to pick one of k rollouts (`random`, `majority`, `oracle` and the scores), the
      `accuracy` of the pick and its `gain` over a random pick, paired by problem. For a score, both are over the
      problems in which a rollout has this score.
    * `rivals`: the comparison of ι with every other score; see `compare_with_rivals`.

    Args:
        rollouts: a row for each rollout of one model, task and estimator.
        ks: the values of k for best-of-k, which picks the rollout with the best score among k.
        unit: the unit of ι: `type`, `token` or `step`.
    """
    drawn = rollouts[~rollouts.greedy]
    if drawn.empty:
        return {"auroc": {}, "best_of": {}, "rivals": {}}
    correct, problems = drawn.correct.to_numpy(dtype=bool), drawn.problem_id.tolist()
    scores = {name: rollout_score(drawn, name, unit) for name in SCORES}
    aurocs = {name: within_problem_auroc(score, correct, problems).to_dict() for name, score in scores.items()}
    sizes = drawn.groupby("problem_id", sort=False).size()
    # A pick by a score that no rollout has would be a random one.
    known = {name: score for name, score in scores.items() if name not in LATER or not np.isnan(score).all()}
    return {
        "auroc": aurocs,
        "best_of": {str(k): _best_of(drawn, known, k) for k in ks if 1 < k <= int(sizes.min())},
        "rivals": compare_with_rivals(scores, correct, problems),
    }


def _best_of(drawn: pd.DataFrame, scores: dict[str, np.ndarray], k: int) -> dict[str, Any]:
    correct, problems = drawn.correct.to_numpy(dtype=bool), drawn.problem_id.tolist()
    groups = list(samples_by_problem(drawn).values())
    random = by_problem(drawn, correct.astype(np.float64))
    picked = {
        "random": random,
        "majority": np.array([voted_at(group, k) for group in groups]),
        "oracle": np.array([passed_at(group, k) for group in groups]),
        **{name: best_where_known(score, correct, problems, k) for name, score in scores.items()},
    }
    return {
        name: {"accuracy": share_interval(values).to_dict(), "gain": gain_interval(values - random).to_dict()}
        for name, values in picked.items()
    }


def gain_interval(differences: np.ndarray) -> Estimate:
    """Return the mean of some differences with its interval. NaN values are left out.

    If all differences are equal, the ends of the interval are NaN. Resampling would give an interval of width 0, which
    would claim certainty.
    """
    known = differences[~np.isnan(differences)]
    if len(known) and np.ptp(known) == 0:
        return Estimate(float(known[0]), math.nan, math.nan, len(known))
    return mean_interval(differences)
