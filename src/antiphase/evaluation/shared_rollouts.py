"""For each entrant, compare ι with the other scores of its rollouts. One of these scores is Δ ln p.

ι = −ρ is the inversion of a rollout. An entrant is a model, or a method with its seeds. Two entrants can be measured
on the same rollouts (`antiphase eval --rollouts`). They then have the same right and wrong rollouts, and only their
signals differ. If an entrant and the reference of the comparison share rollouts in this way, each rollout also has the
score Δ ln p: the mean over its tokens of ln p by the entrant minus ln p by the reference (arXiv 2603.22117).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from antiphase.evaluation.comparison import Comparison
from antiphase.evaluation.entrants import Entrant
from antiphase.evaluation.rivals import best_where_known, by_problem_of_strata, compare_with_rivals
from antiphase.evaluation.task_metrics import gain_interval
from antiphase.runs.rivals import DELTA, SCORES, rollout_score
from antiphase.statistics.ranking import best_of_k

# If Δ ln p is smaller than this for every rollout, two runs of the same model were compared.
SAME_LOGPROB = 1e-4


def delta_logprob(rows: pd.DataFrame, others: Sequence[pd.DataFrame]) -> np.ndarray:
    """Return Δ ln p of each rollout: its mean log-probability per token by one model, minus that by another model.

    Args:
        rows: the rollouts as one model measured them.
        others: the rollouts as the other model measured them, one table for each of its seeds. A rollout is shared if
            the other model has one with the same problem and the same token ids of prompt and completion; the sample
            number does not matter. If several seeds have the rollout, their mean log-probability is used.

    Returns:
        One value for each row; NaN for a rollout that is not shared.
    """
    keys, of_seeds = _keys(rows), []
    for other in others:
        known: dict[tuple[Any, ...], list[float]] = {}
        for key, value in zip(_keys(other), other.logprob_mean.tolist(), strict=True):
            known.setdefault(key, []).append(value)
        of_seeds.append([np.mean(known[key]) if key in known else np.nan for key in keys])
    there = pd.DataFrame(of_seeds, dtype=np.float64, columns=range(len(keys))).mean().to_numpy(dtype=np.float64)
    delta: np.ndarray = rows.logprob_mean.to_numpy(dtype=np.float64) - there
    return delta


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return the key of each rollout: its problem, and the token ids of its prompt and its completion."""
    parts = (rows.problem_id, rows.prompt_ids, rows.completion_ids)
    return [(name, tuple(prompt), tuple(ids)) for name, prompt, ids in zip(*parts, strict=True)]


def add_rivals(comparison: Comparison, entrants: Sequence[Entrant]) -> None:
    """Compare ι with its rivals for every entrant (model or method), and add the results to the comparison.

    ι = −ρ is the inversion of a rollout, and its rivals are other scores, such as the length.

    Args:
        comparison: the comparison. Each row of an entrant gets `rivals`, which `rivals_of` returns, and
            `shared_rollouts`, which `describe_shared` returns (None if no rollout is shared).
        entrants: the entrants of all tasks.
    """
    of = {(entrant.name, entrant.task): entrant for entrant in entrants}
    for name, task in comparison.tasks.items():
        for row in task["entrants"]:
            entrant = of[row["name"], name]
            delta = None if row["name"] == task["reference"] else shared_delta(entrant, of[task["reference"], name])
            row["shared_rollouts"] = None if delta is None else describe_shared(delta)
            row["rivals"] = rivals_of(entrant, delta)


def shared_delta(entrant: Entrant, reference: Entrant) -> np.ndarray | None:
    """Return Δ ln p of each sampled rollout of an entrant; None if it shares no rollout with the reference.

    Δ ln p is the mean log-probability per token by the entrant, minus that by the reference. It is NaN for a rollout
    that is not shared.

    Args:
        entrant: a model, or a method with its seeds.
        reference: the entrant that the others are compared with.
    """
    own, others = (_sampled(each) for each in (entrant, reference))
    if not _has_signals(entrant) or not _has_signals(reference):
        return None
    delta = np.concatenate([delta_logprob(rows, others) for rows in own])
    return None if np.isnan(delta).all() else delta


def describe_shared(delta: np.ndarray) -> dict[str, Any]:
    """Return how many rollouts are shared, and whether both models give all of them the same log-probability.

    Args:
        delta: Δ ln p of each rollout; NaN for a rollout that is not shared. At least one rollout is shared.

    Returns:
        A mapping with `num_shared`, `num_rollouts` and `same_logprob`. `same_logprob` says whether every |Δ ln p| is
        below 1e-4 per token: rounding alone causes such differences between two runs of the same model.
    """
    known = delta[~np.isnan(delta)]
    same = bool((np.abs(known) < SAME_LOGPROB).all())
    return {"num_shared": len(known), "num_rollouts": len(delta), "same_logprob": same}


def _sampled(entrant: Entrant) -> list[pd.DataFrame]:
    """Return the rows of the sampled rollouts of each run (seed) of an entrant."""
    return [run.rollouts[~run.rollouts.greedy] for run in entrant.runs]


def _has_signals(entrant: Entrant) -> bool:
    """Return whether every run of an entrant measured signals, and some run sampled a rollout."""
    return all("signals" in run.result for run in entrant.runs) and any(map(len, _sampled(entrant)))


def rivals_of(entrant: Entrant, delta: np.ndarray | None = None) -> dict[str, Any]:
    """Compare the inversion ι with every other score on the sampled rollouts of an entrant, over all of its seeds.

    Args:
        entrant: a model, or a method with its seeds.
        delta: Δ ln p of each rollout against the reference, or None. It is one of the scores, unless both
            models give all shared rollouts the same log-probability.

    Returns:
        An entry for each score that some rollout has. It holds the values of `compare_with_rivals`, and `gain`: how
        much more often the sample with the best score is right than a random sample. The gain is over the problems in
        which some rollout has the score. Rollouts are compared within a problem and a seed, and all values are means
        over problems. The result is empty if no signals were measured or nothing was sampled.
    """
    frames = _sampled(entrant)
    if not _has_signals(entrant):
        return {}
    problems = [name for rows in frames for name in rows.problem_id]
    strata = [(seed, name) for seed, rows in enumerate(frames) for name in rows.problem_id]
    units = [run.unit for run in entrant.runs]
    scores = {
        name: np.concatenate([rollout_score(rows, name, unit) for rows, unit in zip(frames, units, strict=True)])
        for name in SCORES
    }
    if delta is not None and not describe_shared(delta)["same_logprob"]:
        scores[DELTA] = delta
    correct = np.concatenate([rows.correct.to_numpy(dtype=bool) for rows in frames])
    found = compare_with_rivals(scores, correct, problems, strata)
    least = min(Counter(strata).values())
    random = best_of_k(np.zeros(len(correct)), correct, strata, 1)
    for name, entry in found.items():
        gains = best_where_known(scores[name], correct, strata, least) - random
        entry["gain"] = gain_interval(by_problem_of_strata(gains, problems, strata)).to_dict()
    return found
