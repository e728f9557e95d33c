"""`Evaluation`: the result of an evaluation, as tables and numbers, as text and as a page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.evaluation.benchmark_table import BENCHMARK_NOTE, benchmark_table
from antiphase.evaluation.entries import Options
from antiphase.evaluation.evaluation_folder import EvalFolder
from antiphase.evaluation.evaluation_table import render_evaluation
from antiphase.evaluation.rivals import evaluation_rivals
from antiphase.evaluation.two_scores import TWO_SCORES_NOTE, two_scores_table
from antiphase.page.building import signals_document
from antiphase.page.document import Document, Table
from antiphase.page.html import render_overview
from antiphase.page.subjects import model_labels

if TYPE_CHECKING:
    from antiphase.evaluation.disagreements import Disagreements


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        tokens: a row for each estimator and generated token.
        rollouts: a row for each estimator and rollout, with verdicts (columns: see docs/evaluate.md).
        summary: the content of summary.json.
        steps: a row for each estimator, rollout and step. None for runs of older versions, which did not measure
            steps.
    """

    tokens: pd.DataFrame
    rollouts: pd.DataFrame
    summary: dict[str, Any]
    steps: pd.DataFrame | None = None

    def result(
        self, model: str | None = None, task: str | None = None, estimator: str | None = None
    ) -> dict[str, Any]:
        """Return the first entry of `summary["results"]` for a model, a task and an estimator. None matches any.

        Raises:
            InvalidInputError: this evaluation has no such model, task or estimator.
        """
        for entry in self.summary["results"]:
            wanted = zip((model, task, estimator), ("model", "task", "estimator"), strict=True)
            if all(value in (None, entry[key]) for value, key in wanted):
                return dict(entry)
        have = ", ".join(f"{e['model']}/{e['task']}/{e['estimator']}" for e in self.summary["results"])
        raise InvalidInputError(
            f"no result for model {model!r}, task {task!r}, estimator {estimator!r}; this evaluation has {have}."
        )

    def disagreements(self) -> "list[Disagreements]":
        """Compare every model with the first one, and return the problems that one of the two solves more often.

        The list has one element for each task and each model after the first. If there is only one model, the list
        is empty.
        """
        from antiphase.evaluation.disagreements import disagreements
        from antiphase.evaluation.entrants import entrants_of

        options = Options(seed=self.summary["seed"], num_resamples=self.summary["config"].get("num_resamples", 1000))
        return disagreements(entrants_of(None, [self]), options)

    def save_figures(self, folder: Path) -> list[Path]:
        """Write two figures as PNG and SVG: accuracies, and how well the scores tell right from wrong rollouts.

        Returns:
            The files that were written.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from antiphase.figures.saving import save_run_figures

        return save_run_figures("eval", folder, results=self.summary["results"])

    @classmethod
    def load(cls, path: str | Path, *, tokens: bool = True) -> "Evaluation":
        """Read the result of a finished evaluation from its folder.

        Args:
            path: the evaluation's folder.
            tokens: whether to read tokens.parquet and steps.parquet too, which may be large. If not, the attribute
                `tokens` is an empty table and `steps` is None.

        Raises:
            InvalidInputError: the folder is not that of an evaluation, or the evaluation is unfinished.
        """
        folder = EvalFolder.open(Path(path))
        summary = folder.read_summary()
        read = folder.read_frame("tokens") if tokens else pd.DataFrame()
        return cls(read, folder.read_frame("rollouts"), summary, folder.read_steps() if tokens else None)

    def document(self, name: str = "run", label: str | None = None) -> Document:
        """Return the content of the interactive page of this evaluation.

        Args:
            name: the name of the evaluation; the page shows it if there is no `label`.
            label: the user's name for the evaluation; None if the user gave none.
        """
        # These modules read evaluations, so they cannot be imported above.
        from antiphase.evaluation.disagreement_tables import disagreement_tables

        document = signals_document(
            "eval", name, self.tokens, self.rollouts, self.summary, label=label, steps=self.steps
        )
        tables, names = [], model_labels(self.summary["results"], label)
        if self.summary.get("benchmark"):
            header, rows = benchmark_table(self.summary["benchmark"], "model")
            named = [[names.get(row[0], row[0]), *row[1:]] for row in rows]
            tables.append(Table("all tasks", header, named, [BENCHMARK_NOTE]))
        if len({result["model"] for result in self.summary["results"]}) > 1:
            pairs = disagreement_tables(self.disagreements(), labels_of(self, document))
            tables += [replace(pair, title=f"{label}: {pair.title}" if label else pair.title) for pair in pairs]
        scores = two_scores_table(self.summary["results"], names)
        if scores[1]:
            tables.append(Table("strict and flexible scores", *scores, [TWO_SCORES_NOTE]))
        tables += evaluation_rivals(self.summary["results"], names)
        return replace(document, tables=tables)

    def __str__(self) -> str:
        return render_evaluation(self.summary)

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(f"{entry['model']} on {entry['task']}" for entry in self.summary["results"]))
        return f"<Evaluation of {names}: {len(self.rollouts):,} rows of rollouts>"

    def _repr_html_(self) -> str:
        """Return the overview of the interactive page as HTML, which notebooks show."""
        empty = self.tokens.iloc[:0]
        return render_overview(signals_document("eval", "run", empty, self.rollouts, self.summary))


def labels_of(evaluation: Evaluation, document: Document, name: str | None = None, place: int = 0) -> dict[Any, str]:
    """Return a mapping to the labels that the page of an evaluation shows, one for each model and task.

    The key of a label is (name of the entrant, task, index of the seed). An entrant is a model, or a method whose
    seeds are several evaluations.

    Args:
        evaluation: the evaluation.
        document: the content of the evaluation's page.
        name: the name of the method, if the evaluation is one of its seeds. If it is None, each model is an entrant
            with its own name.
        place: the index of the evaluation among the seeds.
    """
    cases = dict.fromkeys((result["model"], result["task"]) for result in evaluation.summary["results"])
    labels = [subject.label for subject in document.subjects]
    return {(name or model, task, place): label for (model, task), label in zip(cases, labels, strict=True)}
