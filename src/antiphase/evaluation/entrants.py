"""Make the entrants of a comparison from evaluations, and check that they can be compared.

An entrant is a model, or a method with its seeds. Evaluations can be compared if they have the same prompts, budget,
verifier and estimator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.evaluation.entries import entrant_keys
from antiphase.evaluation.result import Evaluation
from antiphase.evaluation.task_metrics import passed_at, rows_of, sampled_or_greedy, samples_by_problem, voted_at
from antiphase.runs.units import headline_entry, headline_of, spearman_column

_ASKED = (
    "problems_sha256",
    "split",
    "prompt_template",
    "system_prompt",
    "chat_template",
    "chat_template_kwargs",
    "fold_system",
)
_BUDGET = ("samples", "temperature", "top_p", "max_new_tokens", "end_tokens")
_MEASURED = ("estimator", "norm", "target", "projections", "targets_per_rollout", "chosen_layers", "min_tokens")
# The name by which `Entrant.mean_signal` returns ρ over the headline unit of each evaluation.
HEADLINE = "headline"
_OF_STEPS = ("splitter", "step_strength", "min_steps")
_CODE = "the file of the task"
_TAGS = "think_tags"
_VERIFIERS = ("antiphase", "verdicts", "math-verify", "reasoning-gym", _CODE, _TAGS)


@dataclass(frozen=True)
class SeedRun:
    """The evaluation of one seed on one task.

    Args:
        seed: the label of the seed: the number of the seed, or `#0`, `#1`, … if two runs have the same seed.
        result: the entry for this model, task and estimator in the evaluation's summary.
        rollouts: the rows of rollouts.parquet for this model, task and estimator.
        versions: everything that decides which answers are right: versions of packages, the digest of a user's own
            verifier, and the user's tags of thoughts.
    """

    seed: str
    result: Mapping[str, Any]
    rollouts: pd.DataFrame
    versions: Mapping[str, str]
    _known: dict[str, "pd.Series[float]"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def by_problem(self, metric: str) -> "pd.Series[float]":
        """Return the value of a metric for each problem id. `Entrant.matrix` lists the metrics."""
        if metric not in self._known:
            self._known[metric] = _by_problem(self, metric)
        return self._known[metric]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of the sampled rollouts, or those of the greedy ones if nothing was sampled.

        The table is made once and shared, so it must not be changed.
        """
        return sampled_or_greedy(self.rollouts)

    @property
    def unit(self) -> str:
        """The unit of the inversion ι = −ρ: `type`, `token` or `step`.

        It is the headline unit, whose ρ the evaluation shows first.
        """
        return headline_of(self.result.get("signals", {}))

    @property
    def segment(self) -> str:
        """The tokens over which the inversion ι is measured: `all`, `thought` or `answer`.

        For older evaluations, it is `all`.
        """
        return str(self.result.get("signals", {}).get("segment", "all"))


@dataclass(frozen=True)
class Entrant:
    """What a comparison compares: a model, or a method with its seeds, on one task."""

    name: str
    task: str
    runs: tuple[SeedRun, ...]

    @property
    def problems(self) -> list[str]:
        """The ids of the problems that every seed has, in the first seed's order."""
        names = [list(run.by_problem("accuracy").index) for run in self.runs]
        shared = set.intersection(*map(set, names))
        return [name for name in names[0] if name in shared]

    def matrix(self, metric: str, problems: Sequence[str]) -> np.ndarray:
        """Return the value of a metric for every seed and problem, `[seed, problem]`; NaN where there is none.

        Args:
            metric: `accuracy` (of the samples, or of the greedy completion if nothing was sampled), `greedy`,
                `pass@K`, `maj@K`, `three@K` (the mean of accuracy, pass@K and maj@K), `length`, `entropy`, or
                `inversion` (the mean ι of the rollouts that have one).
            problems: ids of the problems, in the order of the columns.
        """
        rows = [run.by_problem(metric).reindex(list(problems)) for run in self.runs]
        return np.array([row.to_numpy(dtype=np.float64) for row in rows])

    def ks(self, prefix: str) -> set[int]:
        """Return the values of k for which all seeds have the metric `prefix@k`, such as `pass@8`.

        Args:
            prefix: `pass` or `maj`.
        """
        names = set.intersection(*(set(run.result["metrics"]) for run in self.runs))
        return {int(name.partition("@")[2]) for name in names if name.startswith(f"{prefix}@")}

    def mean_signal(self, name: str) -> float:
        """Return the mean over seeds of a correlation; NaN if no seed has it.

        The correlation of a seed is pooled: it is computed over all rollouts of the seed together.

        Args:
            name: the key of the correlation in `signals` of an entry of the summary; or `HEADLINE` for the ρ that the
                evaluation shows first.
        """
        signals = [run.result.get("signals", {}) for run in self.runs]
        found = [headline_entry(one) if name == HEADLINE else one.get(name) for one in signals]
        values = [entry["value"] if isinstance(entry, Mapping) else entry for entry in found if entry is not None]
        values = [value for value in values if value is not None]
        return float(np.mean(values)) if values else float("nan")


def shared_problems(entrants: Sequence[Entrant]) -> list[str]:
    """Return the ids of the problems that all entrants (models or methods) have, in the first entrant's order."""
    shared = set.intersection(*(set(entrant.problems) for entrant in entrants))
    return [name for name in entrants[0].problems if name in shared]


def _by_problem(run: SeedRun, metric: str) -> "pd.Series[float]":
    """Compute the value of a metric for each problem id, from the rollouts of one seed."""
    rows = run.rows
    if metric == "greedy" or (metric == "accuracy" and rows.greedy.all()):
        greedy = run.rollouts[run.rollouts.greedy]
        return greedy.correct.astype("float64").groupby(greedy.problem_id, sort=False).mean()
    kind, _, number = metric.partition("@")
    if kind == "three":
        parts = [run.by_problem(name) for name in ("accuracy", f"pass@{number}", f"maj@{number}")]
        return (parts[0] + parts[1] + parts[2]) / 3
    if number:
        value = passed_at if kind == "pass" else voted_at
        groups = samples_by_problem(rows[~rows.greedy])
        return pd.Series({name: value(group, int(number)) for name, group in groups.items()}, dtype="float64")
    series = {
        "accuracy": rows.correct.astype("float64"),
        "length": rows.num_tokens.astype("float64"),
        "entropy": rows.entropy_mean.astype("float64"),
        "inversion": -rows[spearman_column(rows, run.unit)].astype("float64"),
    }[metric]
    return series.groupby(rows.problem_id.astype("str"), sort=False).mean()


def entrants_of(name: str | None, evaluations: Sequence[Evaluation], estimator: str | None = None) -> list[Entrant]:
    """Make the entrants of some evaluations.

    An entrant is a model, or a method with its seeds, on one task. If `name` is given, the evaluations are the seeds
    of one method, and there is an entrant for each task. If `name` is None, there is an entrant for each model and
    task.

    Args:
        name: the name of the method, or None.
        evaluations: the evaluations. If `name` is given, each of them must have one model.
        estimator: the estimator of the gradient strength whose results are compared; None takes the first one of each
            evaluation.

    Raises:
        InvalidInputError: `name` is given, and an evaluation has several models.
    """
    seeds = [str(evaluation.summary["seed"]) for evaluation in evaluations]
    # If two runs have the same sampling seed, all runs are labelled and paired by their place.
    labels = seeds if len(set(seeds)) == len(seeds) else [f"#{number}" for number in range(len(seeds))]
    keys = entrant_keys(name, [evaluation.summary for evaluation in evaluations], estimator)
    runs: dict[tuple[str, str], list[SeedRun]] = {key: [] for key in keys}
    for seed, evaluation in zip(labels, evaluations, strict=True):
        seen: set[tuple[str, str]] = set()
        for result in evaluation.summary["results"]:
            key = (name or result["model"], result["task"])
            if key in seen or estimator not in (None, result["estimator"]):
                continue
            seen.add(key)
            own = rows_of(evaluation.rollouts, result["model"], result["task"], result["estimator"])
            code = evaluation.summary["config"].get("tasks_sha256", {}).get(result["task"])
            versions = evaluation.summary["versions"] | ({} if code is None else {_CODE: code[:12]})
            tags = evaluation.summary["config"].get("think_tags")
            versions |= {} if tags is None else {_TAGS: ", ".join(tags)}
            runs[key].append(SeedRun(seed, result, own, versions))
    return [Entrant(label, task, tuple(own)) for (label, task), own in runs.items()]


def check_comparable(entrants: Sequence[Entrant]) -> None:
    """Raise InvalidInputError if the models or methods on a task cannot be compared.

    Their evaluations must agree in the prompts, the budget (numbers of samples and tokens), the verifier, and the
    options of the measured signals.
    """
    first = entrants[0].runs[0]
    for entrant in entrants:
        for run in entrant.runs:
            differing = _differences(first, run)
            if differing:
                raise InvalidInputError(
                    f"{entrants[0].name!r} and {entrant.name!r} cannot be compared on {entrant.task!r}: "
                    f"{'; '.join(differing[:3])}. Evaluate both in the same way, or compare them nevertheless with "
                    "--allow-mismatch (on the problems that they share)."
                )


def _rendered_otherwise(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Return whether two results have the same tokenizer, but different token ids for the prompts.

    Results of older versions have no digests of the prompts. For them, the function returns False.
    """
    known = all(result.get("tokenizer_sha256") is not None for result in (left, right))
    same = known and left["tokenizer_sha256"] == right["tokenizer_sha256"]
    return same and bool(left["prompts_sha256"] != right["prompts_sha256"])


def _differences(left: SeedRun, right: SeedRun) -> list[str]:
    """Return one text for each reason why two runs cannot be compared."""
    found = []
    for what, keys in (("prompts", _ASKED), ("budget", _BUDGET)):
        for key in keys:
            a, b = left.result["identity"].get(key), right.result["identity"].get(key)
            if a != b:
                shown = "the problems differ" if key == "problems_sha256" else f"{key} is {a!r} and {b!r}"
                found.append(f"{what}: {shown}")
    if _rendered_otherwise(left.result, right.result):
        found.append("prompts: the same tokenizer made other token ids; perhaps the chat template inserts the date")
    if left.result["num_samples"] != right.result["num_samples"]:
        found.append(f"budget: {left.result['num_samples']} and {right.result['num_samples']} samples of a problem")
    for key in _VERIFIERS:
        if left.versions.get(key) != right.versions.get(key):
            found.append(f"verifier: {key} {left.versions.get(key)} and {right.versions.get(key)}")
    if left.unit != right.unit:
        found.append(f"signals: unit is {left.unit!r} and {right.unit!r}")
    if left.segment != right.segment:
        found.append(f"signals: segment is {left.segment!r} and {right.segment!r}")
    # Older results have no options of steps, so there is nothing to compare.
    of_steps = [key for key in _OF_STEPS if key in left.result and key in right.result]
    for key in (*_MEASURED, *of_steps):
        if left.result.get(key) != right.result.get(key):
            found.append(f"signals: {key} is {left.result.get(key)!r} and {right.result.get(key)!r}")
    return found
