"""`Evaluation`: what an evaluation found, as tables and numbers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_folder import EvalFolder
from antiphase.evaluation.evaluation_table import BENCHMARK_NOTE, benchmark_table, render_evaluation
from antiphase.page.building import signals_document
from antiphase.page.document import Document, Table
from antiphase.page.html import render_overview


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        tokens: one row per estimator and generated token.
        rollouts: one row per estimator and rollout, with verdicts (columns: see docs/evaluate.md).
        summary: what summary.json holds.
        steps: one row per estimator, rollout and step; None in a run of before they were measured.
    """

    tokens: pd.DataFrame
    rollouts: pd.DataFrame
    summary: dict[str, Any]
    steps: pd.DataFrame | None = None

    def result(
        self, model: str | None = None, task: str | None = None, estimator: str | None = None
    ) -> dict[str, Any]:
        """One entry of `summary["results"]`; the first that matches.

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

    def save_figures(self, folder: Path) -> list[Path]:
        """Draw accuracy with intervals, and what tells right from wrong, as PNG and SVG.

        Raises:
            MissingExtraError: matplotlib is absent.
        """
        from antiphase.figures.saving import save_run_figures

        return save_run_figures("eval", folder, results=self.summary["results"])

    @classmethod
    def load(cls, path: str | Path, *, tokens: bool = True) -> "Evaluation":
        """Read a finished evaluation.

        Args:
            path: its folder.
            tokens: read tokens.parquet and steps.parquet too, which may be large; else the tables are empty.

        Raises:
            InvalidInputError: no evaluation's folder, or an unfinished one (continue it with `--resume`).
        """
        folder = EvalFolder.open(Path(path))
        summary = folder.read_summary()
        read = folder.read_frame("tokens") if tokens else pd.DataFrame()
        return cls(read, folder.read_frame("rollouts"), summary, folder.read_steps() if tokens else None)

    def document(self, name: str = "run", label: str | None = None) -> Document:
        """What the interactive page shows of this run.

        Args:
            name: of the run.
            label: what the user calls the run.
        """
        document = signals_document(
            "eval", name, self.tokens, self.rollouts, self.summary, label=label, steps=self.steps
        )
        if not self.summary.get("benchmark"):
            return document
        header, rows = benchmark_table(self.summary["benchmark"], "model")
        return replace(document, tables=[Table("all tasks", header, rows, [BENCHMARK_NOTE])])

    def __str__(self) -> str:
        return render_evaluation(self.summary)

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(f"{entry['model']} on {entry['task']}" for entry in self.summary["results"]))
        return f"<Evaluation of {names}: {len(self.rollouts):,} rows of rollouts>"

    def _repr_html_(self) -> str:
        """The overview, as notebooks show it."""
        empty = self.tokens.iloc[:0]
        return render_overview(signals_document("eval", "run", empty, self.rollouts, self.summary))
