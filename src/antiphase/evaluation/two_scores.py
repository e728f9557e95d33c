"""Show the strict and the flexible score of an evaluation beside its accuracy.

The strict score accepts only an answer in tags, in a box or after an announcement. The flexible score takes the last
number as the answer. The module `antiphase.tasks.strict_flexible` computes both.
"""

from collections.abc import Mapping, Sequence

from antiphase.evaluation.task_metrics import headline_accuracy
from antiphase.evaluation.text_tables import Entry, share_text

TWO_SCORES = ("strict", "flexible")
TWO_SCORES_NOTE = (
    "strict: an answer counts only if it stands in tags, in a box or after an announcement. flexible: the last number "
    "after the thought counts as the answer, wherever it stands. Only problems whose reference is a number have a "
    "flexible score. If these are not all problems, their number stands in brackets."
)


def two_scores_table(results: Sequence[Entry], names: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table with the accuracy and the strict and flexible scores.

    There is a row for each model and task that has one of the two scores.

    Args:
        results: the entries of `results` in the summary.
        names: a mapping from the name of a model in the summary to its name in the table.
    """
    first: dict[tuple[str, str], Entry] = {}
    for result in results:
        if any(result["metrics"].get(name, {}).get("value") is not None for name in TWO_SCORES):
            first.setdefault((result["model"], result["task"]), result)
    header = ["model", "task", "accuracy [95 %]", "strict [95 %]", "flexible [95 %]", "problems", "with a number"]
    rows = [
        [
            names[model],
            task,
            share_text(headline_accuracy(result["metrics"])),
            *(share_text(result["metrics"][name]) for name in TWO_SCORES),
            str(result["num_problems"]),
            str(result["metrics"]["flexible"]["num_problems"]),
        ]
        for (model, task), result in first.items()
    ]
    return header, rows


def differ_from_accuracy(metrics: Entry) -> bool:
    """Return whether a strict or a flexible score is known and differs from the accuracy."""
    scores = [metrics[name]["value"] for name in TWO_SCORES if name in metrics]
    return any(score not in (None, headline_accuracy(metrics)["value"]) for score in scores)
