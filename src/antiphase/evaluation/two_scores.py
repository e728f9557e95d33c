"""The table of strict and flexible scores beside the accuracy, for the page of an evaluation."""

from collections.abc import Sequence

from antiphase.evaluation.task_metrics import headline_accuracy
from antiphase.evaluation.text_tables import Entry, share_text

TWO_SCORES = ("strict", "flexible")
TWO_SCORES_NOTE = (
    "strict: the answer counts only in tags, in a box or where it is announced. flexible: the last number counts, "
    "wherever it stands; only problems whose reference is a number have it, and their number stands in brackets where "
    "it is not all."
)


def two_scores_table(results: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the strict and flexible scores, for each model and task that has them."""
    first: dict[tuple[str, str], Entry] = {}
    for result in results:
        if any(result["metrics"].get(name, {}).get("value") is not None for name in TWO_SCORES):
            first.setdefault((result["model"], result["task"]), result)
    header = ["model", "task", "accuracy [95 %]", "strict [95 %]", "flexible [95 %]", "problems", "with a number"]
    rows = [
        [
            *case,
            share_text(headline_accuracy(result["metrics"])),
            *(share_text(result["metrics"][name]) for name in TWO_SCORES),
            str(result["num_problems"]),
            str(result["metrics"]["flexible"]["num_problems"]),
        ]
        for case, result in first.items()
    ]
    return header, rows


def differ_from_accuracy(metrics: Entry) -> bool:
    """Whether a strict or flexible score is known and differs from the accuracy."""
    scores = [metrics[name]["value"] for name in TWO_SCORES if name in metrics]
    return any(score not in (None, headline_accuracy(metrics)["value"]) for score in scores)
