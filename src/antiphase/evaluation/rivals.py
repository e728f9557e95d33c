"""Compare ι (ι = −ρ, the inversion) with every other score of a rollout, on the problems of an evaluation.

The other scores, such as the length, are the rivals of ι. Two questions are answered for each rival:

* Does the rival tell right from wrong rollouts of the same problem better than ι does? The AUROC answers this.
* Does ι still go with correctness if the rival is held fixed? A correlation answers this.

docs/rivals.md explains both numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from antiphase.page.document import Table
from antiphase.runs.rivals import DELTA, DELTA_WHAT, SCORES
from antiphase.runs.table_text import interval_text, signed
from antiphase.runs.units import headline_of
from antiphase.statistics.chain import interval_dict
from antiphase.statistics.estimate import number_or_none, share_interval
from antiphase.statistics.paired import paired_difference
from antiphase.statistics.rank_covariance import within_problem_association
from antiphase.statistics.ranking import best_of_k, problem_aurocs
from antiphase.statistics.resampling import MIN_PROMPTS

Entry = Mapping[str, Any]
TITLE = "what else tells right from wrong"
HEADER = (
    "score", "what it is", "source", "problems", "AUROC [95 %]", "AUROC of ι", "ι minus this", "verdict on ι",
    "ι alone", "ι with this held fixed", "gain of best of k (problems)",
)  # fmt: skip
NOTE = (
    "Does ι add anything? All columns of a row but the last are over the same rollouts: those that have ι and the "
    "score, of problems with both right and wrong ones. ι minus this: the difference of the two AUROCs, paired by "
    "problem. The verdict says whether ι is better or worse than the score; equal means that the interval lies within "
    "±0.05, a limit that is made for accuracies and is narrow for an AUROC. ι alone: the correlation of ι with "
    "correctness within problems, by ranks. ι with this held fixed: the same with the score held fixed, as a smooth "
    "function of it. If this interval contains 0, these problems do not show that ι adds anything to the score. The "
    "gain is over the problems in which a rollout has the score. Intervals: 95 %, over problems. They are not "
    "corrected for the number of scores, so one of them may exclude 0 by chance. An AUROC below 0.5 means that low "
    "values of the score go with right rollouts."
)

# The numbers that are correlated with accuracy across entrants, with their descriptions.
ACROSS = {
    "inversion": "ι = −ρ, pooled",
    "inversion_within": "mean ι of the rollouts",
    "low_entropy": "minus mean entropy",
    "logprob_control": "minus ρ(entropy, ‖∂ ln p/∂z‖) over tokens",
    "shuffled": "mean ι over tokens, of shuffled strengths",
    "logprob": "mean log-probability",
    "self_certainty": "mean self-certainty",
    "shortness": "minus mean length",
    "low_impurity": "minus mean 1 − Σ p²",
    "low_attention_entropy": "minus mean attention entropy",
    "unembedding_norm": "mean ‖w_y‖ of the tokens",
    "effective_rank": "mean effective rank of the steps' gradients",
}


def compare_with_rivals(
    scores: Mapping[str, np.ndarray],
    correct: np.ndarray,
    problems: Sequence[Any],
    strata: Sequence[Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compare the inversion ι with each other score of the same rollouts, as values that JSON can hold.

    The result has an entry for each score. An entry uses only the rollouts for which both the score and ι are finite.
    These are the keys of an entry:

    * `auroc` is the AUROC of the score.
    * `inversion_auroc` is the AUROC of ι.
    * `difference` is the AUROC of ι minus the AUROC of the score. It has the keys difference, low, high, num_problems
      and verdict. In the entry of ι, it is None.
    * `alone` is the correlation of ι with correctness within problems. It has the key num_problems too.
    * `beside` is the same correlation with the score held fixed. In the entry of ι, it equals `alone`.

    Args:
        scores: a mapping from the name of a score to its values, one for each rollout. The score `inversion` is ι. If
            all values of a score are NaN, the result has no entry for this score.
        correct: whether each rollout is right.
        problems: the problem of each rollout. The intervals are over problems.
        strata: the group of each rollout. A rollout is compared only with other rollouts of its group. With None, the
            rollouts of a problem are a group. With several seeds, pass the problem and the seed of each rollout: the
            rollouts of a problem by one seed are then a group.

    Returns:
        A mapping from the name of a score to its entry.
    """
    inversion, strata = scores["inversion"], problems if strata is None else strata
    found: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        if np.isnan(score).all():
            continue
        own = name == "inversion"
        known = np.isfinite(inversion) & np.isfinite(score)
        pair = [np.where(known, each, np.nan) for each in (inversion, score)]
        alone = within_problem_association(pair[0], correct, strata, clusters=problems)
        held = alone if own else within_problem_association(pair[0], correct, strata, pair[1:], clusters=problems)
        left, right = (
            by_problem_of_strata(problem_aurocs(each, correct, list(strata)), problems, strata) for each in pair
        )
        found[name] = {
            "auroc": share_interval(right).to_dict(),
            "inversion_auroc": share_interval(left).to_dict(),
            "difference": None if own else _difference(left, right),
            "alone": {**interval_dict(alone), "num_problems": alone.num_problems},
            "beside": {**interval_dict(held), "num_problems": held.num_problems},
        }
    return found


def best_where_known(
    score: np.ndarray, correct: np.ndarray, strata: Sequence[Any], k: int
) -> Float[np.ndarray, "stratum"]:
    """Return, for each stratum, the expected accuracy if the best-scored of k rollouts is picked.

    A stratum is a problem, or a problem and a seed; see `best_of_k`.

    The value is NaN for a stratum in which no rollout has the score. There, the pick would be random, and its gain of
    0 would say nothing about the score.
    """
    known: dict[Any, bool] = {}
    for name, value in zip(strata, score.tolist(), strict=True):
        known[name] = known.get(name, False) or not math.isnan(value)
    return np.where(list(known.values()), best_of_k(score, correct, strata, k), np.nan)


def by_problem_of_strata(areas: np.ndarray, problems: Sequence[Any], strata: Sequence[Any]) -> np.ndarray:
    """Return, for each problem, the mean of the values of its strata. NaN values are left out.

    A stratum is a problem, or a problem and a seed.

    Args:
        areas: one value (an AUROC) for each stratum, in the order in which the strata first appear.
        problems: the problem of each rollout.
        strata: the stratum of each rollout.

    Returns:
        One value for each problem, in the order in which the problems first appear; NaN if no stratum has a value.
    """
    owner = dict(zip(strata, problems, strict=True))
    own: dict[Any, list[float]] = {}
    for problem, area in zip(owner.values(), areas.tolist(), strict=True):
        own.setdefault(problem, []).append(area)
    known = [[area for area in each if not np.isnan(area)] for each in own.values()]
    return np.array([np.mean(each) if each else np.nan for each in known], dtype=np.float64)


def _difference(left: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    found = paired_difference(left[None], right[None], paired_seeds=True, num_resamples=1000)
    ends = {key: number_or_none(getattr(found, key)) for key in ("difference", "low", "high")}
    return {**ends, "num_problems": found.num_problems, "verdict": found.verdict}


def adds(entry: Entry) -> bool:
    """Return whether the inversion ι tells something about correctness that another score does not tell.

    ι does so if the interval of `beside` lies above 0 and rests on enough problems. `beside` is the correlation of ι
    with correctness, with the other score held fixed. The entry is one of those that `compare_with_rivals` returns.
    """
    beside = entry["beside"]
    return beside["low"] is not None and beside["low"] > 0 and beside["num_problems"] >= MIN_PROMPTS


def rival_rows(rivals: Mapping[str, Entry], gains: Mapping[str, Entry]) -> list[list[str]]:
    """Return the rows of the table that compares the inversion ι with its rivals (other scores of a rollout).

    `HEADER` names the columns.

    Args:
        rivals: what `compare_with_rivals` returned.
        gains: a mapping from the name of a score to its gain in best-of-k. The gain is the accuracy if this score
            picks one of k rollouts, minus the accuracy of a random pick. The mapping may be empty.
    """
    rows = []
    for name, entry in rivals.items():
        what = DELTA_WHAT if name == DELTA else SCORES[name]
        difference, gain = entry["difference"], gains.get(name)
        rows.append(
            [
                "ι (inversion)" if name == "inversion" else name,
                what.what,
                what.source or "—",
                str(entry["beside"]["num_problems"]),
                _share(entry["auroc"]),
                "—" if difference is None else _value(entry["inversion_auroc"]),
                "—" if difference is None else _signed(difference, "difference"),
                "—" if difference is None else difference["verdict"],
                _signed(entry["alone"], "value"),
                "—" if difference is None else _signed(entry["beside"], "value"),
                "—" if gain is None else f"{_signed(gain, 'value')} ({gain['num_problems']})",
            ]
        )
    return rows


def evaluation_rivals(results: Sequence[Entry], names: Mapping[str, str]) -> list[Table]:
    """Return tables that compare ι with its rivals, one for each result of an evaluation.

    ι = −ρ is the inversion of a rollout, and its rivals are other scores, such as the length. A result gets no table
    if none of its problems has both right and wrong rollouts.

    Args:
        results: the entries of `results` in the summary.
        names: a mapping from the name of a model in the summary to the name that the page shows.
    """
    tables = []
    for result in results:
        inside = result.get("inside", {})
        rivals, k = inside.get("rivals", {}), max(inside.get("best_of", {}), key=int, default=None)
        if not _has_rows(rivals):
            continue
        gains = {} if k is None else {name: pick["gain"] for name, pick in inside["best_of"][k].items()}
        title = f"{TITLE}: {names[result['model']]}, {result['task']}, {result['estimator']}"
        title += f"; ι over {headline_of(result.get('signals', {}))}s"
        tables.append(Table(title, HEADER, rival_rows(rivals, gains), [NOTE], beside=True))
    return tables


def comparison_rivals(task: str, entrants: Sequence[Entry]) -> list[Table]:
    """Return tables that compare ι with its rivals on one task, one for each entrant of a comparison.

    ι = −ρ is the inversion of a rollout, and its rivals are other scores, such as the length. An entrant is a model or
    a method. It gets no table if none of its problems has both right and wrong rollouts.

    Args:
        task: the name of the task.
        entrants: what the comparison holds of each entrant on this task (see `Comparison.tasks`).
    """
    tables = []
    for row in entrants:
        rivals = row.get("rivals", {})
        if not _has_rows(rivals):
            continue
        gains = {name: entry["gain"] for name, entry in rivals.items()}
        title = f"{TITLE}: {row['name']}, {task}" + (f"; ι over {row['unit']}s" if "unit" in row else "")
        tables.append(Table(title, HEADER, rival_rows(rivals, gains), [NOTE], beside=True))
    return tables


def _has_rows(rivals: Mapping[str, Entry]) -> bool:
    """Return whether a table of the inversion ι and its rivals (other scores) has something to show.

    The answer is True if some problem has both right and wrong rollouts. The entries of earlier versions of antiphase
    lack some numbers of the table. For them, the answer is False.
    """
    return any(entry["beside"]["num_problems"] and "alone" in entry for entry in rivals.values())


def rivals_note(result: Entry) -> str | None:
    """Return a sentence that names the scores to which the inversion ι adds something.

    The result is None if nothing could be compared.
    """
    rivals = {name: entry for name, entry in result["inside"].get("rivals", {}).items() if name != "inversion"}
    if not rivals or all(entry["beside"]["value"] is None for entry in rivals.values()):
        return None
    shown = [name for name, entry in rivals.items() if adds(entry)]
    which = f"{len(shown)} of the {len(rivals)} other scores" if shown else f"none of the {len(rivals)} other scores"
    return (
        f"For {which} is it shown that ι adds something{': ' + ', '.join(shown) if shown else ''} (95 % interval of "
        "its correlation with correctness within problems, with the score held fixed; not corrected for the number of "
        "scores). The page and summary.json have the table."
    )


def shared_notes(task: Entry) -> list[str]:
    """Return a sentence about Δ ln p for each model or method that shares rollouts with the reference.

    Rollouts are shared if both were measured on them. Δ ln p is the mean log-probability per token by the model minus
    that by the reference.
    """
    notes = []
    for row in task["entrants"]:
        shared, entry = row.get("shared_rollouts"), row.get("rivals", {}).get(DELTA)
        if not shared:
            continue
        said = (
            f"{task['reference']} also measured {shared['num_shared']:,} of the {shared['num_rollouts']:,} sampled "
            f"rollouts of {row['name']}. "
        )
        if shared["same_logprob"]:
            said += (
                "Both give them the same ln p: the means per token differ by less than 0.0001, which is noise. So "
                "there is no score Δ ln p."
            )
        elif entry is not None:
            said += (
                f"Δ ln p, the mean of ln p of a rollout's tokens by {row['name']} minus that by {task['reference']}, "
                f"tells right from wrong with the AUROC {_share(entry['auroc'])}. ι alone: "
                f"{_signed(entry['alone'], 'value')}; ι with Δ ln p held fixed: {_signed(entry['beside'], 'value')}."
            )
        notes.append(said)
    return notes


def _value(entry: Entry) -> str:
    return "—" if entry["value"] is None else f"{entry['value']:.3f}"


def _share(entry: Entry | None) -> str:
    if entry is None or entry["value"] is None:
        return "—"
    return f"{entry['value']:.3f}" + ("" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]")


def _signed(entry: Entry | None, key: str) -> str:
    if entry is None or entry[key] is None:
        return "—"
    return signed(entry[key]) + ("" if entry["low"] is None else f" {interval_text(entry)}")
