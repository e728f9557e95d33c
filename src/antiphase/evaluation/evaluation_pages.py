"""Makes the interactive page of a comparison, with the evaluations that are compared."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

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
from antiphase.evaluation.evaluation_table import BENCHMARK_NOTE
from antiphase.evaluation.result import Evaluation
from antiphase.page.document import Document, Run, Table, joined


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The tables of a comparison, as they are printed on the console."""
    tables = []
    for name, task in comparison.tasks.items():
        tables.append(Table(name, HEADER, comparison_rows(task), notes_of(task, comparison.options)))
        if task["across"]:
            title = f"{name}: what goes with accuracy"
            tables.append(Table(title, ACROSS_HEADER, across_rows(task["across"]), [ACROSS_NOTE]))
    tables += [Table(title, header, rows, [BENCHMARK_NOTE]) for title, header, rows in benchmark_tables(comparison)]
    return tables


def comparison_document(comparison: Comparison, folders: Mapping[str, Sequence[Path]]) -> Document:
    """The document of a comparison and its evaluations.

    Args:
        comparison: the comparison.
        folders: folders of the evaluations, by the name of their entrant. Several folders of one name are seeds.

    Raises:
        InvalidInputError: an evaluation cannot be read.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    documents = [Document("comparison", [Run("comparison", "compare")], tables=comparison_tables(comparison))]
    for name, paths in folders.items():
        for place, path in enumerate(paths):
            found = Evaluation.load(path)
            label = name if len(paths) == 1 else f"{name} #{place + 1}"
            documents.append(found.document(path.resolve().name, label))
    page = joined(documents, " against ".join(folders))
    return Document(**{**vars(page), "created": created})
