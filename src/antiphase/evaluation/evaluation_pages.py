"""Make the interactive page of a comparison. It also shows the evaluations that are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from antiphase.evaluation.benchmark_table import BENCHMARK_NOTE
from antiphase.evaluation.comparison import Comparison
from antiphase.evaluation.comparison_formats import (
    ACROSS_HEADER,
    ACROSS_NOTE,
    HEADER,
    across_rows,
    benchmark_tables,
    comparison_rows,
    notes_of,
)
from antiphase.evaluation.disagreement_tables import disagreement_tables
from antiphase.evaluation.disagreements import Disagreements
from antiphase.evaluation.result import Evaluation, labels_of
from antiphase.evaluation.rivals import TITLE as RIVALS
from antiphase.evaluation.rivals import comparison_rivals
from antiphase.page.document import Document, Run, Table, joined


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return the tables of a comparison for the page. Their texts are the same as on the console."""
    tables = []
    for name, task in comparison.tasks.items():
        tables.append(Table(name, HEADER, comparison_rows(task), notes_of(task, comparison.options)))
        if task["across"]:
            title = f"{name}: what goes with accuracy"
            tables.append(Table(title, ACROSS_HEADER, across_rows(task["across"]), [ACROSS_NOTE]))
    tables += [Table(title, header, rows, [BENCHMARK_NOTE]) for title, header, rows in benchmark_tables(comparison)]
    return tables


def rivals_tables(comparison: Comparison) -> list[Table]:
    """Return tables that compare ι with its rivals, one for each task and entrant (model or method).

    ι = −ρ is the inversion of a rollout. Its rivals are other scores of a rollout, such as its length.
    """
    tasks = comparison.tasks.items()
    return [table for name, task in tasks for table in comparison_rivals(name, task["entrants"])]


def comparison_document(
    comparison: Comparison,
    folders: Mapping[str, Sequence[Path]],
    found: Sequence[Disagreements] = (),
    names: Mapping[str, str | None] | None = None,
) -> Document:
    """Return the content of the interactive page of a comparison and its evaluations.

    Args:
        comparison: the comparison.
        folders: a mapping from a label on the page to folders of evaluations. If a label has several folders, they are
            seeds of one method.
        found: the problems on which two models or methods differ in their share of right completions.
        names: a mapping from each label to the name of its method. If the name is None, each model in the folders of
            the label is compared by itself. Without the mapping, this holds for every label.

    Raises:
        InvalidInputError: an evaluation cannot be read.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    documents: list[Document] = []
    labels: dict[Any, str] = {}
    for name, paths in folders.items():
        for place, path in enumerate(paths):
            evaluation = Evaluation.load(path)
            label = name if len(paths) == 1 else f"{name} #{place + 1}"
            document = evaluation.document(path.resolve().name, label)
            # The comparison has these tables of its own, over all seeds.
            others = [table for table in document.tables if not table.title.startswith(RIVALS)]
            documents.append(replace(document, tables=others))
            labels |= labels_of(evaluation, documents[-1], (names or {}).get(name), place)
    tables = [*comparison_tables(comparison), *disagreement_tables(found, labels), *rivals_tables(comparison)]
    documents.insert(0, Document("comparison", [Run("comparison", "compare")], tables=tables))
    page = joined(documents, " against ".join(folders))
    return replace(page, created=created)
