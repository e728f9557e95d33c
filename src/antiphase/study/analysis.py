"""Compute the findings of a study from its finished cells: compare the methods, and relate inversion to accuracy.

Every method is compared with the reference method in each group and over all groups. A group is one model and setting.
A cell is one model, setting, method and seed. If cells are evaluated on several tasks, each task is its own group. A
table of all tasks with their average then replaces the comparison over all groups. Seeds are paired: seed i of every
method draws the same problems. If a command makes a model for each seed, seed i of every method also starts from the
same model. ι = −ρ is the inversion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from antiphase.evaluation.benchmark import benchmark
from antiphase.evaluation.comparison import (
    Comparison,
    associations,
    compare_entrants,
    crossed_interval,
    difference_of,
    entrant_accuracy,
    point_of,
)
from antiphase.evaluation.entrants import Entrant, SeedRun
from antiphase.evaluation.entries import Options
from antiphase.evaluation.rivals import ACROSS
from antiphase.runs.rivals import LATER, SCORES, rollout_score
from antiphase.runs.units import headline_entry, headline_of, interval_of
from antiphase.statistics.estimate import mean_interval
from antiphase.statistics.ranking import problem_aurocs
from antiphase.study.grid import BASE, Study
from antiphase.study.store import DoneCell


@dataclass(frozen=True)
class Findings:
    """The results of a study: how its methods compare, and how inversion relates to accuracy.

    A cell is one model, setting, method and seed. A group is one model and setting (and task, if there are several).

    Args:
        groups: the comparison of the methods in every group.
        overall: the comparison of the methods over all groups together. None if there is only one group, if the cells
            are evaluated on several tasks, or if no method can be compared in all groups.
        stages: accuracy and ρ of each stage (a checkpoint that is only evaluated), by group, in the order of training.
        across: the rank correlations of the inversion ι, and of every control, with accuracy. There are three kinds:
            a correlation over the cells of each group, the mean of these correlations, and one over all cells.
        scores: how well each score separates the right rollouts of a problem from the wrong ones (AUROC), as a mean
            over all cells.
        points: for each cell, its accuracy and the numbers that `ACROSS` names.
    """

    groups: Comparison
    overall: dict[str, Any] | None
    stages: dict[str, list[dict[str, Any]]]
    across: dict[str, Any]
    scores: dict[str, Any]
    points: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain values, without the points."""
        values = {**vars(self), "groups": self.groups.to_dict()}
        del values["points"]
        return values


def group_of(cell: DoneCell) -> str:
    """Return the name of the group of a cell: its model, followed by its setting if the study has settings."""
    record = cell.record
    return str(record["model"]) if record["setting"] == "all" else f"{record['model']} · {record['setting']}"


def tasks_of(cell: DoneCell) -> dict[str, dict[str, Any]]:
    """Return a mapping from each task to the result of the cell's evaluation on it, for the first estimator only."""
    found: dict[str, dict[str, Any]] = {}
    for result in cell.record["results"]:
        found.setdefault(str(result["task"]), result)
    return found


def analyse(study: Study, cells: Sequence[DoneCell]) -> Findings | None:
    """Compute the findings of the cells that are done.

    A cell is one model, setting, method and seed. A group is one model and setting (and task, if there are several). A
    stage is a checkpoint of a model that is only evaluated.

    Args:
        study: the study, which names the methods and the reference (the method that others are compared with).
        cells: the study's cells that are done.

    Returns:
        the findings. They are None if no group has both the reference and something to compare with it: another method
        or a stage.
    """
    entrants = _entrants(cells)
    by_group: dict[str, list[Entrant]] = {}
    for entrant in entrants:
        by_group.setdefault(entrant.task, []).append(entrant)
    reference = study.reference or (study.methods[0] if study.methods else BASE)
    # A group is compared as soon as its reference and one other method are done.
    complete = [group for group in by_group.values() if len(group) > 1 and reference in {e.name for e in group}]
    kept = [entrant for group in complete for entrant in group]
    if not kept:
        return None
    options = Options(reference=reference, paired_seeds=True, smallest=study.smallest)
    benchmarks = _benchmarks(cells, reference, options)
    groups = replace(compare_entrants(kept, options), benchmarks=benchmarks)
    models = _models(cells)
    points = [
        {**point_of(entrant, run), "lineage": f"{models[entrant.task]} · {run.seed}"}
        for entrant in entrants
        for run in entrant.runs
    ]
    several = len(by_group) > 1 and not benchmarks
    return Findings(
        groups,
        _overall(study, by_group, reference, options) if several else None,
        {group: _stages(own, study) for group, own in by_group.items()},
        _across(points, options),
        _scores(cells),
        points,
    )


def _entrants(cells: Sequence[DoneCell], *, by_task: bool = False) -> list[Entrant]:
    """Return an entrant (a side of a comparison) for each method and group, with the results of all its seeds.

    A group is a model and setting, and also a task if cells have several tasks. If `by_task` is True, a group is a
    task alone; all cells must then have the same model and setting.
    """
    runs: dict[tuple[str, str], list[SeedRun]] = {}
    for cell in cells:
        results = tasks_of(cell)
        for task, result in results.items():
            rows = cell.rollouts[cell.rollouts.estimator == result["estimator"]]
            if len(results) > 1:
                rows = rows[rows.task == task]
            run = SeedRun(f"s{cell.record['seed']}", result, rows, cell.record["versions"])
            group = task if by_task else _group(cell, task)
            runs.setdefault((str(cell.record["method"]), group), []).append(run)
    return [Entrant(method, group, tuple(own)) for (method, group), own in runs.items()]


def _group(cell: DoneCell, task: str) -> str:
    """Return the name of a group: the cell's model and setting, and the task if the cell has several tasks."""
    return group_of(cell) if len(tasks_of(cell)) == 1 else f"{group_of(cell)} · {task}"


def _models(cells: Sequence[DoneCell]) -> dict[str, str]:
    """Return a mapping from the name of each group to the name of its model and setting."""
    return {_group(cell, task): group_of(cell) for cell in cells for task in tasks_of(cell)}


def _benchmarks(cells: Sequence[DoneCell], reference: str, options: Options) -> dict[str, Any]:
    """Return, for each model and setting, a table that compares the methods on all tasks and on their average.

    The key of a table is the name of the model and setting. There is no table if there is only one task.

    Args:
        cells: the study's cells that are done.
        reference: the method that the others are compared with.
        options: the options of the comparison.
    """
    found = {}
    for model in dict.fromkeys(map(group_of, cells)):
        entrants = _entrants([cell for cell in cells if group_of(cell) == model], by_task=True)
        if reference in {entrant.name for entrant in entrants}:
            table = benchmark(entrants, options)
            if table is not None:
                found[model] = table
    return found


def _overall(
    study: Study, by_group: dict[str, list[Entrant]], reference: str, options: Options
) -> dict[str, Any] | None:
    """Compare every method with the reference on the problems of all groups (models and settings) together.

    A method that a group lacks is left out. Return None if the reference is left out, or if no other method is left.
    """
    members = [{entrant.name: entrant for entrant in group} for group in by_group.values()]
    names = [name for name in (BASE, *study.methods) if all(name in group for group in members)]
    if reference not in names or len(names) < 2:
        return None
    rows = []
    for name in names:
        seeds = set.intersection(
            *({run.seed for run in group[which].runs} for group in members for which in (name, reference))
        )
        if not seeds:
            continue
        left, right = (_stacked(members, which, sorted(seeds)) for which in (name, reference))
        rows.append(
            {
                "name": name,
                "num_seeds": len(seeds),
                "value": crossed_interval(left, "accuracy", options),
                "difference": None if name == reference else difference_of(left, right, "accuracy", options),
            }
        )
    return {"reference": reference, "num_groups": len(members), "entrants": rows}


def _stacked(members: Sequence[dict[str, Entrant]], name: str, seeds: Sequence[str]) -> np.ndarray:
    """Return the accuracies of one method, `[seed, problem]`, on the problems of all groups (models and settings).

    A problem that several groups have is one column, which holds the mean over these groups.

    Args:
        members: for each group, a mapping from the name of a method to its entrant (the runs of all seeds).
        name: the method.
        seeds: the seeds, in the order of the rows.
    """
    answered: dict[tuple[str, str], list[np.ndarray]] = {}
    for group in members:
        runs = {run.seed: run for run in group[name].runs}
        chosen = Entrant(name, group[name].task, tuple(runs[seed] for seed in seeds))
        task = str(chosen.runs[0].result["task"])
        for problem, column in zip(chosen.problems, chosen.matrix("accuracy", chosen.problems).T, strict=True):
            answered.setdefault((task, problem), []).append(column)
    return np.stack([np.mean(columns, axis=0) for columns in answered.values()], axis=1)


def _stages(entrants: Sequence[Entrant], study: Study) -> list[dict[str, Any]]:
    """Return a row of results for each stage and seed of a group. A stage is a checkpoint that is only evaluated."""
    rows = []
    for entrant in entrants:
        if entrant.name in study.methods:
            continue
        for run in entrant.runs:
            signals = run.result.get("signals", {})
            entry = headline_entry(signals)
            rows.append(
                {
                    "stage": entrant.name,
                    "seed": run.seed,
                    "accuracy": entrant_accuracy(run),
                    "spearman": None if entry is None else interval_of(entry),
                    "spearman_within": signals.get("spearman_within"),
                    "logprob_control": signals.get("logprob_control"),
                    "entropy": signals.get("entropy_mean"),
                }
            )
    return rows


def _across(points: Sequence[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Correlate the inversion ι, and each other number of `ACROSS`, with the accuracy of the cells (evaluated models).

    There are three kinds: a correlation over the cells of each group, the mean of these correlations, and one over all
    cells.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(point["task"], []).append(point)
    by_group = {
        group: associations(own, [point["lineage"] for point in own], options) for group, own in groups.items()
    }
    return {
        "by_group": by_group,
        "mean": {name: _mean_association(by_group, name) for name in ACROSS if all(name in p for p in points)},
        "all": associations(points, [point["lineage"] for point in points], options),
    }


def _mean_association(by_group: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Average the correlation of the number `name` with accuracy over the groups. Undefined values are left out."""
    values = [found[name]["spearman"] for found in by_group.values() if found and found[name]["spearman"] is not None]
    return {"value": float(np.mean(values)) if values else None, "num_groups": len(values), "values": values}


def _scores(cells: Sequence[DoneCell]) -> dict[str, Any]:
    """Compute how well each score tells right from wrong rollouts of one problem, with an interval over lineages.

    A score is a number of a rollout, such as its inversion. A lineage is one model, setting and seed, with all models
    that were trained from it. The AUROC is averaged over the problems of the lineage's models, and then over the
    lineages.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in SCORES}
    for cell in cells:
        rows = cell.rollouts[~cell.rollouts.greedy]
        rows = rows[rows.estimator == cell.record["results"][0]["estimator"]]
        unit = headline_of(cell.record["results"][0].get("signals", {}))
        lineage = f"{group_of(cell)} · s{cell.record['seed']}"
        for name in SCORES:
            areas = problem_aurocs(
                rollout_score(rows, name, unit), rows.correct.to_numpy(dtype=bool), rows.problem_id.tolist()
            )
            found[name].setdefault(lineage, []).extend(areas[~np.isnan(areas)].tolist())
    summary = {}
    for name, lineages in found.items():
        if name in LATER and not any(lineages.values()):
            continue
        means = np.array([np.mean(values) if values else math.nan for values in lineages.values()])
        summary[name] = {
            **mean_interval(means).to_dict(),
            "num_problems": sum(map(len, lineages.values())),
            "num_lineages": int((~np.isnan(means)).sum()),
        }
    return summary
