"""Compare evaluations or models, and write the tables, the figures and the page of the comparison.

The files in the folder OUT are:

    comparison.{json,md,csv,tex}, disagreements.csv, figures/, report.html
    evals/NAME/     the evaluation of each entry that is a model
"""

import importlib.util
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.evaluation.benchmark import benchmark
from antiphase.evaluation.comparison import Comparison, compare_entrants
from antiphase.evaluation.comparison_formats import comparison_csv, comparison_latex, comparison_markdown
from antiphase.evaluation.disagreements import FILE, Disagreements, disagreements, disagreements_csv
from antiphase.evaluation.entrants import Entrant, entrants_of
from antiphase.evaluation.entries import Entry, Options, check_comparison
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_pages import comparison_document
from antiphase.evaluation.result import Evaluation
from antiphase.evaluation.shared_rollouts import add_rivals
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.html import add_page


def compare(
    entries: Sequence[str],
    options: Options | None = None,
    *,
    out: str | Path | None = None,
    estimator: str | None = None,
    figures: bool = True,
    report: bool = True,
    evaluation: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare evaluations, or models that are evaluated first.

    Args:
        entries: what is compared, as texts of the form `[NAME=]RUN[,RUN…]`. A run is the folder of an evaluation, a
            pattern such as `runs/grpo-*`, or a model (hub id or directory). A model is evaluated first. An entry with
            a name is one method, and its runs are its seeds. An entry of several runs without a name is also one
            method, named after its first run. An entry of a single run without a name is no method: each model of
            that run is compared by itself.
        options: how the models or methods are compared; None takes the defaults of `Options`.
        out: the folder for the tables, figures and evaluations. None writes no files; then no entry may be a model.
        estimator: the estimator of the gradient strength whose results are compared; None takes the first one of each
            evaluation.
        figures: whether figures are drawn into `out`, if matplotlib is installed.
        report: whether the interactive page `report.html` is written into `out`. It also shows the evaluations.
        evaluation: options of `evaluate`, for entries that are models.

    Raises:
        InvalidInputError: the evaluations cannot be compared, a folder is unfinished or of another kind, there are
            fewer than two models or methods, or `out` contains files that a comparison does not write.
    """
    options, place = options or Options(), None if out is None else Path(out)
    parsed = check_comparison(entries, options, out=place, estimator=estimator, evaluation=evaluation)
    read = {path: Evaluation.load(path, tokens=False) for entry in parsed for path in entry.folders}
    evaluated: dict[str, Path] = {}
    for path in [path for entry in parsed for path in entry.models]:
        assert place is not None
        stem = re.sub(r"[^\w.-]+", "-", path).strip("-.")[-60:]
        folder = place / "evals" / f"{stem}-{zlib.crc32(path.encode()):08x}"
        read[path] = evaluate(path, out=folder, resume=True, **dict(evaluation or {}))
        evaluated[path] = folder
    entrants: list[Entrant] = []
    for entry in parsed:
        entrants += entrants_of(entry.name, [read[path] for path in entry.paths], estimator)
    comparison = compare_entrants(entrants, options)
    table = benchmark(entrants, options)
    if table is not None:
        comparison = replace(comparison, benchmarks={"": table})
    add_rivals(comparison, entrants)
    if place is not None:
        found = disagreements(entrants, options)
        write_comparison(comparison, place, figures=figures, found=found)
        if report:
            folders = _folders(parsed, evaluated)
            names = dict(zip(folders, (entry.name for entry in parsed), strict=True))
            add_page(lambda: comparison_document(comparison, folders, found, names), place / REPORT)
    return comparison


def _folders(parsed: Sequence[Entry], evaluated: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Return a mapping from the label of each compared entry on the page to the folders of the entry's evaluations."""
    short = [entry.name or Path(entry.paths[0]).name for entry in parsed]
    labels = [entry.paths[0] if short.count(label) > 1 else label for label, entry in zip(short, parsed, strict=True)]
    return {
        label: [evaluated.get(path, Path(path)) for path in entry.paths]
        for label, entry in zip(labels, parsed, strict=True)
    }


def write_comparison(
    comparison: Comparison, place: Path, *, figures: bool = True, found: Sequence[Disagreements] = ()
) -> None:
    """Write the tables and the figures of a comparison.

    Args:
        comparison: the comparison.
        place: the folder to write to.
        figures: whether figures are drawn, if matplotlib is installed.
        found: the problems on which two models or methods differ in their share of right completions.

    Raises:
        InvalidInputError: the folder cannot be written to.
    """
    texts = {
        "comparison.json": json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "comparison.md": comparison_markdown(comparison),
        "comparison.csv": comparison_csv(comparison),
        "comparison.tex": comparison_latex(comparison),
        FILE: disagreements_csv(found),
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            work = place / f".{name}.tmp"
            work.write_text(text, encoding="utf-8")
            work.replace(place / name)
        if figures and importlib.util.find_spec("matplotlib") is not None:
            from antiphase.figures.saving import save_run_figures

            smallest = float(comparison.options["smallest"])
            data = {"tasks": comparison.tasks, "points": comparison.points, "smallest": smallest}
            save_run_figures("compare", place / "figures", **data)
    except OSError as error:
        raise InvalidInputError(f"cannot write to {str(place)!r} ({error.strerror or error}).") from error
