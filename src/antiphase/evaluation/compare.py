"""`compare`: from runs or models to a comparison with tables and figures.

OUT/comparison.{json,md,csv,tex}, figures/, report.html
OUT/evals/NAME/     evaluations of what was given as a model
"""

import glob
import importlib.util
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.evaluation.benchmark import benchmark
from antiphase.evaluation.comparison import Comparison, Options, compare_entrants
from antiphase.evaluation.comparison_formats import comparison_csv, comparison_latex, comparison_markdown
from antiphase.evaluation.entrants import Entrant, entrants_of
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_folder import EvalFolder
from antiphase.evaluation.evaluation_pages import comparison_document
from antiphase.evaluation.result import Evaluation
from antiphase.page.html import FILE as REPORT
from antiphase.page.html import add_page

_NAMED = re.compile(r"([^=/\\,]+)=(.+)")


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
        entries: each `[NAME=]RUN[,RUN…]`: the folders of evaluations (or patterns such as `runs/grpo-*`), the seeds of
            one entrant; or a model (hub id, directory), which is evaluated.
        options: see there.
        out: folder for the tables, figures and evaluations; None keeps nothing on disk.
        estimator: whose signals count; by default the first of each evaluation.
        figures: draw them, where matplotlib is installed.
        report: write the interactive page `report.html`, with the evaluations that are compared.
        evaluation: options of `evaluate`, for models.

    Raises:
        InvalidInputError: runs that do not match, unfinished or foreign folders, fewer than two entrants, or an `out`
            that holds something else.
    """
    options, place = options or Options(), None if out is None else Path(out)
    parsed = [parse_entry(entry) for entry in entries]
    if place is not None:
        _check_out(place)
    runs = [(name, [path for path in paths if _is_folder(path)]) for name, paths in parsed]
    models = [(name, [path for path in paths if not _is_folder(path)]) for name, paths in parsed]
    wanted = [path for _, paths in models for path in paths]
    if wanted and not (evaluation and (evaluation.get("tasks") or evaluation.get("suite"))):
        raise InvalidInputError(
            f"{wanted[0]!r} is no folder of an evaluation. To evaluate it as a model first, name --tasks or a --suite."
        )
    # Folders are read before anything is evaluated: a mistake in one of them must not cost hours.
    read = {path: Evaluation.load(path, tokens=False) for _, paths in runs for path in paths}
    ready: list[tuple[str, str]] = []
    for name, paths in parsed:
        if all(path in read for path in paths):
            ready += [(e.name, e.task) for e in entrants_of(name, [read[path] for path in paths], estimator)]
        else:
            ready.append((name or paths[0], "to be evaluated"))
    _check_names(ready, options.reference)
    if wanted and place is None:
        raise InvalidInputError("models are evaluated into the folder out; name one.")
    evaluated: dict[str, Path] = {}
    for path in wanted:
        assert place is not None
        stem = re.sub(r"[^\w.-]+", "-", path).strip("-.")[-60:]
        folder = place / "evals" / f"{stem}-{zlib.crc32(path.encode()):08x}"
        read[path] = evaluate(path, out=folder, resume=True, **dict(evaluation or {}))
        evaluated[path] = folder
    entrants: list[Entrant] = []
    for name, paths in parsed:
        entrants += entrants_of(name, [read[path] for path in paths], estimator)
    comparison = compare_entrants(entrants, options)
    table = benchmark(entrants, options)
    if table is not None:
        comparison = replace(comparison, benchmarks={"": table})
    if place is not None:
        write_comparison(comparison, place, figures=figures)
        if report:
            add_page(lambda: comparison_document(comparison, _folders(parsed, evaluated)), place / REPORT)
    return comparison


def _folders(parsed: Sequence[tuple[str | None, list[str]]], evaluated: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The folders of the evaluations by the name of their entry."""
    short = [name or Path(paths[0]).name for name, paths in parsed]
    labels = [paths[0] if short.count(label) > 1 else label for label, (_, paths) in zip(short, parsed, strict=True)]
    return {
        label: [evaluated.get(path, Path(path)) for path in paths]
        for label, (_, paths) in zip(labels, parsed, strict=True)
    }


def parse_entry(entry: str) -> tuple[str | None, list[str]]:
    """Name and runs of `[NAME=]RUN[,RUN…]`, patterns resolved.

    Raises:
        InvalidInputError: an empty run, one named twice, or a pattern that matches nothing.
    """
    match = _NAMED.fullmatch(entry)
    name, rest = (match[1], match[2]) if match else (None, entry)
    paths: list[str] = []
    for part in rest.split(","):
        found = sorted(glob.glob(part), key=_natural) if glob.has_magic(part) else [part]
        if not found:
            raise InvalidInputError(f"the pattern {part!r} matches nothing.")
        paths += found
    if not all(paths):
        raise InvalidInputError(f"{entry!r} names an empty run; expected [NAME=]RUN[,RUN…].")
    places = [Path(path).resolve() if os.path.exists(path) else path for path in paths]
    twice = next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{entry!r} names the run {twice!r} twice; seeds must be different runs.")
    if name is None and len(paths) > 1:
        name = Path(paths[0]).name
    return name, paths


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts s2 before s10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def _is_folder(path: str) -> bool:
    """Whether a path is a folder that is no saved model; `EvalFolder` says what is wrong with a foreign one."""
    if not os.path.isdir(path):
        return False
    try:
        EvalFolder.open(Path(path))
    except InvalidInputError:
        saved = (Path(path) / "config.json", Path(path) / "adapter_config.json")
        return not any(
            "model_type" in file.read_text() or "peft_type" in file.read_text() for file in saved if file.is_file()
        )
    return True


def _check_names(keys: Sequence[tuple[str, str]], reference: str | None) -> None:
    """Refuse two entrants of one name and task, and a reference that is none of them."""
    twice = next((name for name, task in keys if keys.count((name, task)) > 1), None)
    if twice is not None:
        raise InvalidInputError(
            f"two entrants are called {twice!r}. Name them: compare first=RUN second=RUN; or give the seeds of one as "
            "NAME=RUN,RUN."
        )
    names = list(dict.fromkeys(name for name, _ in keys))
    if reference is not None and reference not in names:
        raise InvalidInputError(f"the reference {reference!r} is no entrant; there are {', '.join(names)}.")


def _check_out(place: Path) -> None:
    known = {"comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "figures", "evals", REPORT}
    foreign = (
        sorted(path.name for path in place.iterdir() if path.name not in known and path.suffix != ".tmp")
        if place.is_dir()
        else []
    )
    if foreign or (place.exists() and not place.is_dir()):
        raise InvalidInputError(
            f"{str(place)!r} holds something else ({', '.join(foreign[:3])}). Choose another --out."
        )


def write_comparison(comparison: Comparison, place: Path, *, figures: bool = True) -> None:
    """Write a comparison's tables and figures.

    Raises:
        InvalidInputError: the folder cannot be written to.
    """
    texts = {
        "comparison.json": json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "comparison.md": comparison_markdown(comparison),
        "comparison.csv": comparison_csv(comparison),
        "comparison.tex": comparison_latex(comparison),
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            work = place / f".{name}.tmp"
            work.write_text(text, encoding="utf-8")
            work.replace(place / name)
        if figures and importlib.util.find_spec("matplotlib") is not None:
            from antiphase.figures.differences import save_comparison

            save_comparison(
                comparison.tasks,
                comparison.points,
                float(comparison.options["smallest"]),
                place / "figures",
            )
    except OSError as error:
        raise InvalidInputError(f"cannot write to {str(place)!r} ({error.strerror or error}).") from error
