"""Write all figures of a run as PNG and SVG."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from antiphase.figures.correlations import entropy_strength, layer_map
from antiphase.figures.probes import model_comparison
from antiphase.figures.rollout import rollout_track
from antiphase.figures.style import Result, heading, styled, token_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def save_figures(tokens: DataFrame, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write every figure as PNG (150 dpi) and SVG and return the paths; equal input and versions give equal bytes.

    `entropy_strength`, `model_comparison`, a `layer_map_<slug>` for each result with more than one cell, and a
    `rollout_<slug>` for each result: of the rollout with the most measured tokens, the first of equals.

    Args:
        tokens: one row per (estimator, generated token).
        results: the results to show.
        folder: made if absent; a file appears under its name only when complete.
    """
    figures = {"entropy_strength": entropy_strength(tokens, results), "model_comparison": model_comparison(results)}
    slugs: list[str] = []
    for result in results:
        stem = re.sub("[^a-z0-9]+", "-", f"{result['model']}-{result['estimator']}".lower()).strip("-")[-80:]
        names = (f"{stem}-{number}" if number > 1 else stem for number in range(1, len(results) + 1))
        slugs.append(next(name for name in names if name not in slugs))
        if len(result["layers"]) * len(result["projections"]) > 1:
            figures[f"layer_map_{slugs[-1]}"] = layer_map(result)
        rows = token_rows(tokens, result, "prompt_id", "rollout_id", "position", "token")
        if len(rows):
            rollouts = rows.groupby(["prompt_id", "rollout_id"], sort=False, dropna=False)
            (prompt, rollout), rows = max(rollouts, key=lambda item: int(item[1]["strength"].count()))
            title = f"{heading(result, 48)} · prompt {prompt}, rollout {rollout}"
            figures[f"rollout_{slugs[-1]}"] = rollout_track(rows, title)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_figure(figure, folder / f"{name}.{kind}") for name, figure in figures.items() for kind in ("png", "svg")
    ]


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure under its name only when it is complete; the suffix decides the kind."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with styled():
            figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata={"Date": None})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
