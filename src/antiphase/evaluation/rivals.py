"""Compare ι (ι = −ρ, the inversion) with every other score of a rollout, on the problems of an evaluation.

For each score, the result says how its AUROC within problems differs from that of ι on the same rollouts, and whether
ι still goes with correctness if the score is held fixed. docs/rivals.md explains both numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from antiphase.page.document import Table
from antiphase.runs.rivals import DELTA, DELTA_WHAT, SCORES
from antiphase.runs.table_text import interval_text, signed
from antiphase.runs.units import headline_of
from antiphase.statistics.chain import interval_dict
from antiphase.statistics.estimate import number_or_none
from antiphase.statistics.paired import paired_difference
from antiphase.statistics.rank_covariance import within_problem_association
from antiphase.statistics.ranking import problem_aurocs
from antiphase.statistics.resampling import MIN_PROMPTS

Entry = Mapping[str, Any]
TITLE = "what else tells right from wrong"
HEADER = (
    "score", "what it is", "source", "AUROC [95 %]", "gain of best of k", "AUROC of ι minus this", "verdict on ι",
    "ι with this held fixed", "problems",
)  # fmt: skip
NOTE = (
    "Does ι add anything? AUROC of ι minus this: on the rollouts that have both scores, paired by problem; the "
    "verdict says whether ι is better or worse than the score. ι with this held fixed: the correlation of ι with "
    "correctness within problems, by ranks, with the score held fixed; the row of ι shows it with nothing held fixed. "
    "If an interval contains 0, these problems do not show that ι adds anything to the score. Intervals: 95 %, over "
    "problems, not corrected for the number of scores. An AUROC below 0.5 means that low values of the score go with "
    "right rollouts."
)

# The numbers that are correlated with accuracy across entrants, with their descriptions.
ACROSS = {
    "inversion": "ι = −ρ, pooled",
    "inversion_within": "mean ι of the rollouts",
    "low_entropy": "minus mean entropy",
    "logprob_control": "minus ρ(entropy, ‖∂ ln p/∂z‖)",
    "shuffled": "mean ι of shuffled strengths",
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
    """Compare ι with every other score, as values that JSON can hold.

    Args:
        scores: the scores of each rollout, by name; `inversion` is ι. Scores without any value are left out.
        correct: whether each rollout is right.
        problems: the problem of each rollout. Intervals are over problems.
        strata: the rollouts that are compared with one another; by default those of a problem. With several seeds, a
            stratum is a problem and a seed.

    Returns:
        An entry for each score. `beside` is the correlation of ι with correctness within problems with the score held
        fixed, with `num_problems`; in the entry of ι, nothing is held fixed. `difference` is the AUROC of ι minus that
        of the score, with the keys difference, low, high, num_problems and verdict; None in the entry of ι.
    """
    inversion, strata = scores["inversion"], problems if strata is None else strata
    found: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        if np.isnan(score).all():
            continue
        own = name == "inversion"
        beside = within_problem_association(inversion, correct, strata, () if own else (score,), clusters=problems)
        known = ~(np.isnan(inversion) | np.isnan(score))
        pair = (np.where(known, each, np.nan) for each in (inversion, score))
        left, right = (
            by_problem_of_strata(problem_aurocs(each, correct, list(strata)), problems, strata) for each in pair
        )
        found[name] = {
            "difference": None if own else _difference(left, right),
            "beside": {**interval_dict(beside), "num_problems": int((~np.isnan(left)).sum())},
        }
    return found


def by_problem_of_strata(areas: np.ndarray, problems: Sequence[Any], strata: Sequence[Any]) -> np.ndarray:
    """Return, for each problem, the mean of the values of its strata; NaN values are left out.

    Args:
        areas: one value (an AUROC) for each stratum, in the order in which the strata first appear.
        problems: the problem of each rollout.
        strata: the stratum of each rollout: its problem, or its problem and seed.

    Returns:
        one value for each problem, in the order in which the problems first appear; NaN if no stratum has a value.
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
    """Return whether it is shown that ι adds something to a score: the interval of `beside` is above 0.

    The entry is one of those that `compare_with_rivals` returns.
    """
    beside = entry["beside"]
    return beside["low"] is not None and beside["low"] > 0 and beside["num_problems"] >= MIN_PROMPTS


def rival_rows(rivals: Mapping[str, Entry], areas: Mapping[str, Entry], gains: Mapping[str, Entry]) -> list[list[str]]:
    """Return the rows of a table with the columns of `HEADER`.

    Args:
        rivals: what `compare_with_rivals` returned.
        areas: the AUROC of each score.
        gains: the gain of best of k by each score; empty if there is none.
    """
    rows = []
    for name, entry in rivals.items():
        what = DELTA_WHAT if name == DELTA else SCORES[name]
        difference, beside = entry["difference"], entry["beside"]
        rows.append(
            [
                "ι (inversion)" if name == "inversion" else name,
                what.what,
                what.source or "—",
                _share(areas.get(name)),
                _signed(gains.get(name), "value"),
                "—" if difference is None else _signed(difference, "difference"),
                "—" if difference is None else difference["verdict"],
                _signed(beside, "value"),
                str(beside["num_problems"]),
            ]
        )
    return rows


def evaluation_rivals(results: Sequence[Entry], names: Mapping[str, str]) -> list[Table]:
    """Return a table of ι and its rivals for each result of an evaluation that has right and wrong rollouts.

    Args:
        results: the entries of `results` in the summary.
        names: the name of each model on the page.
    """
    tables = []
    for result in results:
        inside = result.get("inside", {})
        rivals, k = inside.get("rivals", {}), max(inside.get("best_of", {}), key=int, default=None)
        if not any(entry["beside"]["num_problems"] for entry in rivals.values()):
            continue
        gains = {} if k is None else {name: pick["gain"] for name, pick in inside["best_of"][k].items()}
        title = f"{TITLE}: {names[result['model']]}, {result['task']}, {result['estimator']}"
        title += f"; ι over {headline_of(result.get('signals', {}))}s"
        tables.append(Table(title, HEADER, rival_rows(rivals, inside["auroc"], gains), [NOTE], beside=True))
    return tables


def comparison_rivals(task: str, entrants: Sequence[Entry]) -> list[Table]:
    """Return a table of ι and its rivals for each entrant (model or method) of one task of a comparison."""
    tables = []
    for row in entrants:
        rivals = row.get("rivals", {})
        if not any(entry["beside"]["num_problems"] for entry in rivals.values()):
            continue
        areas, gains = ({name: entry[key] for name, entry in rivals.items()} for key in ("auroc", "gain"))
        title = f"{TITLE}: {row['name']}, {task}" + (f"; ι over {row['unit']}s" if "unit" in row else "")
        tables.append(Table(title, HEADER, rival_rows(rivals, areas, gains), [NOTE], beside=True))
    return tables


def rivals_note(result: Entry) -> str | None:
    """Return a sentence that says to which scores ι adds something; None if nothing could be compared."""
    rivals = {name: entry for name, entry in result["inside"].get("rivals", {}).items() if name != "inversion"}
    if not rivals or all(entry["beside"]["value"] is None for entry in rivals.values()):
        return None
    shown = [name for name, entry in rivals.items() if adds(entry)]
    said = f"shown for {', '.join(shown)}" if shown else "not shown for any of them"
    return (
        f"ι beside each of {len(rivals)} other scores: that ι adds something is {said} (interval of its correlation "
        "with correctness within problems, the score held fixed). The page and summary.json have the table."
    )


def shared_notes(task: Entry) -> list[str]:
    """Return a sentence about Δ ln p for each model or method that shares rollouts with the reference of a task."""
    notes = []
    for row in task["entrants"]:
        entry = row.get("rivals", {}).get(DELTA)
        if entry is not None:
            notes.append(
                f"{row['name']} and {task['reference']} were measured on {entry['num_rollouts']:,} shared rollouts. "
                f"Δ ln p, the mean of ln p of a rollout's tokens by {row['name']} minus that by {task['reference']}, "
                f"tells right from wrong with the AUROC {_share(entry['auroc'])}. ι with Δ ln p held fixed: "
                f"{_signed(entry['beside'], 'value')}."
            )
    return notes


def _share(entry: Entry | None) -> str:
    if entry is None or entry["value"] is None:
        return "—"
    return f"{entry['value']:.3f}" + ("" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]")


def _signed(entry: Entry | None, key: str) -> str:
    if entry is None or entry[key] is None:
        return "—"
    return signed(entry[key]) + ("" if entry["low"] is None else f" {interval_text(entry)}")
