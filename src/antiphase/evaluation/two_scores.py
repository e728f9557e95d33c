"""The table of strict and flexible scores beside the accuracy, for the page of an evaluation."""

from collections.abc import Sequence

from antiphase.evaluation.evaluation_table import TWO_SCORES, Entry, headline_accuracy, share_text


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
