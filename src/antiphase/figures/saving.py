"""Write the figures of a run as PNG and SVG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphase.figures.of_runs import figures_of
from antiphase.figures.style import Result, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def save_figures(tokens: DataFrame, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the figures of a probe as PNG and SVG files, and return their paths.

    The figures are `entropy_strength`, `model_comparison`, a `layer_map_<slug>` for each result with more than one
    layer or projection, a `rollout_<slug>` for each result (the rollout with the most measured tokens), and the
    figures that you added to `FIGURES`. See `save_run_figures`.

    Args:
        tokens: a table with one row for each estimator and generated token.
        results: the results to show.
        folder: the folder to write to. It is made if it does not exist.
    """
    return save_run_figures("probe", folder, tokens=tokens, results=results)


def save_run_figures(kind: str, folder: Path, **data: Any) -> list[Path]:
    """Write every figure of a run as PNG (150 dpi) and SVG, and return the paths.

    If one figure cannot be drawn, no file is written. A file gets its name only when it is complete. The same data and
    versions give the same bytes.

    Args:
        kind: the kind of the run, a key of `FIGURES`.
        folder: the folder to write to. It is made if it does not exist.
        data: the data of the run. The module `antiphase.figures.of_runs` lists their names.
    """
    figures = figures_of(kind, **data)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(figure, folder / f"{name}.{suffix}") for name, figure in figures.items() for suffix in ("png", "svg")
    ]


def _write(figure: Figure, path: Path) -> Path:
    """Write a figure to a temporary file, and rename the file when it is complete. The suffix decides the format."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with styled():
            figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata={"Date": None})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
