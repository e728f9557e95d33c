"""Compare ι with the other scores of an entrant's rollouts in a comparison, among them Δ ln p.

An entrant is a model, or a method with its seeds. If the entrant and the reference of the comparison were measured on
the same rollouts (`antiphase eval --rollouts`), each rollout also has the score Δ ln p: the mean over its tokens of
ln p by the entrant minus ln p by the reference (arXiv 2603.22117). Both sides then have the same right and wrong
rollouts, and only their signals differ.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from antiphase.evaluation.comparison import Comparison
from antiphase.evaluation.entrants import Entrant
from antiphase.evaluation.rivals import by_problem_of_strata, compare_with_rivals
from antiphase.evaluation.task_metrics import gain_interval
from antiphase.runs.rivals import DELTA, SCORES, rollout_score
from antiphase.statistics.estimate import share_interval
from antiphase.statistics.ranking import best_of_k, problem_aurocs


def delta_logprob(rows: pd.DataFrame, others: Sequence[pd.DataFrame]) -> np.ndarray:
    """Return the mean Δ ln p of each rollout: its mean log-probability by one model minus that by another.

    Args:
        rows: the rollouts as one model measured them.
        others: the rollouts of the seeds of the other model. A rollout is shared if the other model has one of the
            same problem and sample with the same token ids.

    Returns:
        One value for each row; NaN for a rollout that is not shared.
    """
    known: dict[tuple[Any, ...], float] = {}
    for other in others:
        for key, value in zip(_keys(other), other.logprob_mean.tolist(), strict=True):
            known.setdefault(key, value)
    there = np.array([known.get(key, np.nan) for key in _keys(rows)], dtype=np.float64)
    delta: np.ndarray = rows.logprob_mean.to_numpy(dtype=np.float64) - there
    return delta


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return what identifies each rollout: its problem, the number of its sample, and its token ids."""
    parts = (rows.problem_id, rows["sample"], rows.prompt_ids, rows.completion_ids)
    return [(name, int(sample), tuple(prompt), tuple(ids)) for name, sample, prompt, ids in zip(*parts, strict=True)]


def add_rivals(comparison: Comparison, entrants: Sequence[Entrant]) -> None:
    """Give every entrant (model or method) of a comparison the entry `rivals`, which `rivals_of` computes.

    Args:
        comparison: the comparison. Its rows of entrants are changed.
        entrants: the entrants of all tasks.
    """
    of = {(entrant.name, entrant.task): entrant for entrant in entrants}
    for name, task in comparison.tasks.items():
        for row in task["entrants"]:
            row["rivals"] = rivals_of(of[row["name"], name], of[task["reference"], name])


def rivals_of(entrant: Entrant, reference: Entrant) -> dict[str, Any]:
    """Compare ι with every other score on the sampled rollouts of an entrant, over all of its seeds.

    Args:
        entrant: a model, or a method with its seeds.
        reference: the entrant that the others are compared with. If the two were measured on the same rollouts, one of
            the scores is Δ ln p, the mean of ln p by the entrant minus ln p by the reference over a rollout's tokens.

    Returns:
        An entry for each score that some rollout has: `auroc`, `gain` (of the best of all samples over a random pick),
        and the values of `compare_with_rivals`. It is empty if no signals were measured or nothing was sampled.
        `delta_logprob` also has `num_rollouts`, the number of shared rollouts. Rollouts are compared within a problem
        and a seed, and all values are means over problems.
    """
    frames = [run.rollouts[~run.rollouts.greedy] for run in entrant.runs]
    if not all("signals" in run.result for run in entrant.runs) or not any(map(len, frames)):
        return {}
    problems = [name for rows in frames for name in rows.problem_id]
    strata = [(seed, name) for seed, rows in enumerate(frames) for name in rows.problem_id]
    units = [run.unit for run in entrant.runs]
    scores = {
        name: np.concatenate([rollout_score(rows, name, unit) for rows, unit in zip(frames, units, strict=True)])
        for name in SCORES
    }
    if entrant.name != reference.name:
        others = [run.rollouts[~run.rollouts.greedy] for run in reference.runs]
        scores[DELTA] = np.concatenate([delta_logprob(rows, others) for rows in frames])
    correct = np.concatenate([rows.correct.to_numpy(dtype=bool) for rows in frames])
    found = compare_with_rivals(scores, correct, problems, strata)
    least = min(Counter(strata).values())
    random = by_problem_of_strata(best_of_k(np.zeros(len(correct)), correct, strata, 1), problems, strata)
    for name, entry in found.items():
        areas = by_problem_of_strata(problem_aurocs(scores[name], correct, strata), problems, strata)
        entry["auroc"] = share_interval(areas).to_dict()
        picked = by_problem_of_strata(best_of_k(scores[name], correct, strata, least), problems, strata)
        entry["gain"] = gain_interval(picked - random).to_dict()
    if DELTA in found:
        found[DELTA]["num_rollouts"] = int((~np.isnan(scores[DELTA])).sum())
    return found
