"""Turn the table of accuracies on several tasks into text, for the console, the page and files.

The module `benchmark` computes the numbers.
"""

from antiphase.evaluation.text_tables import Entry, share_text
from antiphase.tasks.specs import parse_spec

BENCHMARK_NOTE = (
    "Pass@1: the mean accuracy of the samples. Pass@k: at least one of k samples is right. Major@k: the majority vote "
    "of k samples is right. mean: the mean of these three. average: the mean over the tasks; every task has the same "
    "weight, whatever its number of problems. Intervals: 95 %, over problems, and over seeds if there are several."
)


def benchmark_table(table: Entry, what: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows, as text, of the table of accuracies on several tasks.

    Args:
        table: the table as numbers, as `benchmark` returns it.
        what: the heading of the first column, `model` or `method`.
    """
    header = [what, "task", *(f"{metric_title(metric)} [95 %]" for metric in table["metrics"])]
    short = [parse_spec(task).name for task in table["tasks"]]
    shown = dict(zip(table["tasks"], short, strict=True)) if len(set(short)) == len(short) else {}
    rows = [
        [
            row["name"],
            shown.get(row["task"], row["task"]),
            *(share_text(row["values"][metric]) for metric in table["metrics"]),
        ]
        for row in table["rows"]
    ]
    return header, rows


def metric_title(metric: str) -> str:
    """Return the heading of the column of a metric in the table of several tasks.

    >>> [metric_title(metric) for metric in ("accuracy", "pass@16", "maj@16", "three@16")]
    ['Pass@1', 'Pass@16', 'Major@16', 'mean']
    """
    kind, _, k = metric.partition("@")
    return {"accuracy": "Pass@1", "pass": f"Pass@{k}", "maj": f"Major@{k}", "three": "mean"}[kind]
