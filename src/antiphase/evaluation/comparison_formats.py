"""Write the tables of a comparison as text: for the console, in Markdown, in CSV and in LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.evaluation.benchmark import AVERAGE
from antiphase.evaluation.benchmark_table import BENCHMARK_NOTE, benchmark_table, metric_title
from antiphase.evaluation.comparison import Comparison
from antiphase.evaluation.rivals import ACROSS, shared_notes
from antiphase.evaluation.text_tables import WIDTH, printed, share_text, text_table
from antiphase.runs.rivals import LATER
from antiphase.runs.table_text import interval_text, signed

HEADER = (
    "method", "seeds", "accuracy [95 %]", "difference [95 %]", "P(better)", "detectable", "verdict", "greedy",
    "pass@k", "length", "ρ pooled", "ι per rollout", "AUROC of ι",
)  # fmt: skip
DIFFERENCE_COLUMNS = (0, 1, 2, 3, 4, 5, 6)
OTHER_COLUMNS = (0, 7, 8, 9, 10, 11, 12)
_LATEX = {
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "ρ": r"$\rho$", "ι": r"$\iota$", "−": "$-$", "—": "---",
}  # fmt: skip


def comparison_rows(task: Mapping[str, Any]) -> list[list[str]]:
    """Return a table row of texts for each entrant (model or method) of a task. `HEADER` names the columns."""
    return [_row(entrant) for entrant in task["entrants"]]


def _row(entrant: Mapping[str, Any]) -> list[str]:
    values, difference = entrant["values"], entrant["differences"].get("accuracy")
    passed = next((name for name in values if name.startswith("pass@")), None)
    return [
        entrant["name"],
        str(entrant["num_seeds"]),
        share_text(values["accuracy"]),
        "reference" if difference is None else difference_text(difference),
        "" if difference is None else _number(difference["probability_of_improvement"], 2),
        "" if difference is None else _number(difference["minimum_detectable"], 3),
        "" if difference is None else str(difference["verdict"]),
        _number(values.get("greedy", {}).get("value"), 3),
        "" if passed is None else f"{_number(values[passed]['value'], 3)} @{passed.partition('@')[2]}",
        _number(values["length"]["value"], 1),
        signed(entrant["spearman"]),
        signed(values["inversion"]["value"]) if "inversion" in values else "—",
        _number(entrant["auroc"], 3),
    ]


def difference_text(difference: Mapping[str, Any]) -> str:
    """Return a difference with its interval as text, such as `+0.021 [−0.010, +0.052]`."""
    interval = "[no interval]" if difference["low"] is None else interval_text(difference)
    return f"{signed(difference['difference'])} {interval}"


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}".replace("-", "−")


def notes_of(task: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return notes that say how to read the table of a task, and what the table does not show."""
    covered = [entrant["differences"].get("accuracy") for entrant in task["entrants"]]
    differences = [difference for difference in covered if difference is not None]
    smallest = f"{100 * float(options['smallest']):g} points"
    notes = [
        f"difference: accuracy minus that of {task['reference']}, paired by problem ({task['num_problems']} "
        "problems). Intervals: over problems and seeds. detectable: the smallest difference that these problems and "
        f"seeds would show with a power of 80 %. equal: the interval lies within ±{smallest}. not enough data: a "
        f"difference of {smallest} could stay unseen.",
    ]
    if any(not difference["seeds_covered"] for difference in differences):
        notes.append(
            "A side has only one seed. So the intervals cover other problems and samples, but not another training "
            "with another seed."
        )
    if options.get("allow_mismatch"):
        notes.append(
            "Mismatches were allowed. Accuracies and differences are over the shared problems. ρ pooled, AUROC and "
            "the correlations across runs are over the problems of each run."
        )
    notes += shared_notes(task)
    if len(differences) > 1:
        notes.append(
            f"There are {len(differences)} differences, each with a 95 % interval, without a correction for their "
            "number. If no method differed, about one interval in twenty would still exclude 0 by chance."
        )
    return notes


def across_rows(across: Mapping[str, Any]) -> list[list[str]]:
    """Return a table row for the inversion ι and for each control, with its rank correlation with accuracy.

    Args:
        across: what `associations` returned: a mapping from the name of a number to its correlation with accuracy.
    """
    rows = []
    for name, found in across.items():
        if name in LATER and not found["num_points"]:
            continue
        p_value = "—" if found["p_value"] is None else f"{found['p_value']:.3g}"
        numbers = [signed(found["spearman"]), interval_text(found), p_value, str(found["num_points"])]
        rows.append([name, ACROSS.get(name, ""), *numbers])
    return rows


ACROSS_HEADER = ("number", "what it is", "rank correlation with accuracy", "95 %", "p", "points")
ACROSS_NOTE = (
    "The correlations are over models, methods and checkpoints. A claim about inversion needs a stronger correlation "
    "for ι than for every control, because what entropy or length explains is no signal. p: permutation test."
)


def benchmark_tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return each table of accuracies on several tasks, as its title, its header and its rows.

    If a table has differences of its averages from the reference, a table of these differences follows it.
    """
    tables = []
    for name, table in comparison.benchmarks.items():
        title = f"{name}: all tasks" if name else "all tasks"
        tables.append((title, *benchmark_table(table, "method")))
        rows = [
            [
                row["name"],
                *(difference_text(row["differences"][metric]) for metric in table["metrics"]),
                str(row["differences"]["accuracy"]["verdict"]),
            ]
            for row in table["rows"]
            if "differences" in row
        ]
        if rows:
            header = ["method", *(f"{metric_title(metric)} [95 %]" for metric in table["metrics"]), "verdict"]
            tables.append((f"{title}: difference of the averages from {table['reference']}", header, rows))
    return tables


def render_comparison(comparison: Comparison, width: int = WIDTH) -> str:
    """Return the tables and notes of a comparison as one text for the console."""
    from rich.text import Text

    parts: list[Any] = []
    for name, task in comparison.tasks.items():
        parts.append(Text(f"\n{name}"))
        for columns in (DIFFERENCE_COLUMNS, OTHER_COLUMNS):
            rows = [[row[column] for column in columns] for row in comparison_rows(task)]
            parts.append(text_table([HEADER[column] for column in columns], rows))
        parts += notes_of(task, comparison.options)
        if task["across"]:
            parts += [text_table(ACROSS_HEADER, across_rows(task["across"]), left=2), ACROSS_NOTE]
    for title, header, rows in benchmark_tables(comparison):
        parts += [Text(f"\n{title}"), text_table(header, rows, left=2 if header[1] == "task" else 1)]
    return printed([*parts, *([BENCHMARK_NOTE] if comparison.benchmarks else [])], width)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown text. The character | in cells is escaped."""
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def comparison_markdown(comparison: Comparison) -> str:
    """Return the tables and notes of a comparison as Markdown text."""
    parts = []
    for name, task in comparison.tasks.items():
        parts += [f"### {name}", markdown_table(HEADER, comparison_rows(task)), *notes_of(task, comparison.options)]
        if task["across"]:
            parts += [markdown_table(ACROSS_HEADER, across_rows(task["across"])), ACROSS_NOTE]
    return "\n\n".join([*parts, *benchmarks_markdown(comparison)]) + "\n"


def benchmarks_markdown(comparison: Comparison) -> list[str]:
    """Return the tables of accuracies on several tasks in Markdown, and a note that says how to read them."""
    parts: list[str] = []
    for title, header, rows in benchmark_tables(comparison):
        parts += [f"### {title}", markdown_table(header, rows)]
    return [*parts, BENCHMARK_NOTE] if parts else []


def comparison_csv(comparison: Comparison) -> str:
    """Return a comparison as CSV text, with one line for each metric of each entrant (model or method) on each task.

    Numbers are not rounded. The field of an undefined number is empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ends = ("value", "low", "high")
    shown = ("difference", "low", "high", "probability_of_improvement", "minimum_detectable", "verdict")
    named = ("difference", "difference_low", "difference_high", *shown[3:])
    writer.writerow(["task", "method", "seeds", "problems", "metric", *ends, "reference", *named])
    for name, task in comparison.tasks.items():
        for entrant in task["entrants"]:
            for metric, value in entrant["values"].items():
                difference = entrant["differences"].get(metric) or {}
                writer.writerow(
                    [name, entrant["name"], entrant["num_seeds"], value["num_problems"], metric]
                    + [value[end] for end in ends]
                    + [task["reference"], *(difference.get(key) for key in shown)]
                )
    for name, table in comparison.benchmarks.items():
        for row in table["rows"]:
            if row["task"] != AVERAGE:
                continue
            for metric, value in row["values"].items():
                difference = row.get("differences", {}).get(metric, {})
                writer.writerow(
                    [f"{name}: {AVERAGE}" if name else AVERAGE, row["name"], row["num_seeds"], value["num_problems"]]
                    + [metric, *(value[end] for end in ends), table["reference"]]
                    + [difference.get(key) for key in shown]
                )
    return file.getvalue()


def latex_text(text: str) -> str:
    """Return a text in the form for LaTeX: special characters are escaped, and Greek letters are in math mode."""
    return "".join(_LATEX.get(character, character) for character in text)


def comparison_latex(comparison: Comparison) -> str:
    """Return a comparison as LaTeX text: a `tabular` for each task, then one for the averages over tasks.

    The tables need the package booktabs. They have the columns method, seeds, accuracy, difference, verdict and the
    correlation ρ.
    """
    columns = (0, 1, 2, 3, 6, 10)
    parts = []
    for name, task in comparison.tasks.items():
        rows = [[row[column] for column in columns] for row in comparison_rows(task)]
        parts.append(_tabular(name.replace("\n", " "), "lrrrlr", [HEADER[column] for column in columns], rows))
    for title, header, rows in benchmark_tables(comparison):
        second = "l" if header[1] == "task" else "r"
        parts.append(_tabular(title, f"l{second}{'r' * (len(header) - 2)}", header, rows))
    return "\n\n".join(parts) + "\n"


def _tabular(title: str, alignment: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"% {title}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    lines += [" & ".join(map(latex_text, header)) + r" \\", r"\midrule"]
    for row in rows:
        if row[1] == AVERAGE:
            lines.append(r"\addlinespace[1pt]")
        lines.append(" & ".join(map(latex_text, row)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
