"""Write the report of a study from its finished cells: report.md, tables/ and figures/.

A cell is one model, setting, method and seed.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.evaluation.comparison_formats import (
    ACROSS_NOTE,
    HEADER,
    benchmarks_markdown,
    comparison_csv,
    comparison_latex,
    comparison_rows,
    difference_text,
    markdown_table,
    notes_of,
)
from antiphase.evaluation.rivals import ACROSS
from antiphase.evaluation.text_tables import share_text
from antiphase.runs.rivals import SCORES
from antiphase.runs.table_text import interval_text, signed
from antiphase.study.analysis import Findings, analyse
from antiphase.study.grid import Study
from antiphase.study.store import DoneCell


def write_report(study: Study, cells: Sequence[DoneCell], folder: Path, failed: dict[str, str] | None = None) -> str:
    """Write the report of a study and return its text. Figures are drawn only if matplotlib is installed.

    A cell is one model, setting, method and seed.

    Args:
        study: the study.
        cells: the study's cells that are done.
        folder: folder that report.md, tables/ and figures/ are written to.
        failed: a mapping from the name of each cell or model that failed to its error message.

    Raises:
        InvalidInputError: the folder cannot be written to.
    """
    findings = analyse(study, cells)
    text = _markdown(study, cells, findings, failed or {})
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(text, encoding="utf-8")
        if findings is not None:
            (folder / "tables" / "groups.csv").write_text(comparison_csv(findings.groups), encoding="utf-8")
            (folder / "tables" / "groups.tex").write_text(comparison_latex(findings.groups), encoding="utf-8")
            content = json.dumps(findings.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
            (folder / "tables" / "findings.json").write_text(content + "\n", encoding="utf-8")
            if importlib.util.find_spec("matplotlib") is not None:
                from antiphase.figures.saving import save_run_figures

                data = {"findings": findings.to_dict(), "points": findings.points, "smallest": study.smallest}
                save_run_figures("study", folder / "figures", **data)
    except OSError as error:
        raise InvalidInputError(f"cannot write to {str(folder)!r} ({error.strerror or error}).") from error
    return text


def _markdown(study: Study, cells: Sequence[DoneCell], findings: Findings | None, failed: dict[str, str]) -> str:
    """Return the text of report.md."""
    trained = sum(bool(cell.record["trained"]) for cell in cells)
    seconds = sum(cell.record["seconds"] for cell in cells)
    parts = [
        f"# {study.name}",
        f"{len(cells)} of {len(study.cells)} cells are done ({trained} of them trained), in {seconds / 3600:.1f} "
        "hours of cells' own time.",
    ]
    missing = [cell.name for cell in study.cells if cell.name not in {done.record["cell"] for done in cells}]
    if missing:
        shown = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
        parts.append(
            f"**Not done: {len(missing)} cells** ({shown}); methods are compared on the seeds that both have."
        )
    commits = sorted({str(cell.record["commit"])[:12] for cell in cells})
    parts.append(f"Run by the code of {'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}.")
    parts += [f"Failed: {name}: {why}" for name, why in failed.items()]
    if findings is None:
        return "\n\n".join([*parts, "No group has two methods yet."]) + "\n"
    parts += benchmarks_markdown(findings.groups)
    if findings.overall is not None:
        parts += _overall(findings.overall, study)
    parts += _tuned(study)
    parts += _stages(findings)
    parts += _across(findings)
    parts += _scores(findings)
    parts.append("## Every group")
    for name, task in findings.groups.tasks.items():
        parts += [f"### {name}", markdown_table(HEADER, comparison_rows(task))]
    parts += notes_of(next(iter(findings.groups.tasks.values())), findings.groups.options)
    return "\n\n".join(parts) + "\n"


def _overall(overall: dict[str, Any], study: Study) -> list[str]:
    """Return the paragraphs of the section that compares the methods over all groups (models and settings)."""
    rows = []
    for entrant in overall["entrants"]:
        difference = entrant["difference"]
        tail = ["reference", "", "", ""]
        if difference is not None:
            probability, detectable = difference["probability_of_improvement"], difference["minimum_detectable"]
            tail = [
                difference_text(difference),
                "—" if probability is None else f"{probability:.2f}",
                "—" if detectable is None else f"{detectable:.3f}",
                str(difference["verdict"]),
            ]
        rows.append([entrant["name"], str(entrant["num_seeds"]), share_text(entrant["value"]), *tail])
    header = ("method", "seeds", "accuracy [95 %]", "difference [95 %]", "P(better)", "detectable", "verdict")
    return [
        f"## Methods against {overall['reference']}, over all {overall['num_groups']} groups",
        markdown_table(header, rows),
        "Mean of the samples; a problem that several models answer counts once, averaged over them. equal: within "
        f"±{100 * study.smallest:g} points. The intervals are not corrected for the number of methods.",
        "![differences](figures/differences.png)",
    ]


def _tuned(study: Study) -> list[str]:
    """Return the paragraphs of the section on the parts of the budget that were tuned for each method."""
    if not study.tuned:
        return []
    rows: dict[str, list[str]] = {}
    for cell in study.cells:
        if cell.trained:
            # YAML reads a number such as 1e-5, without a point, as a text.
            values = [f"{float(cell.recipe[key]):g}" if key in cell.recipe else "default" for key in study.tuned]
            rows.setdefault(cell.method, values)
    return [
        "## What was tuned for each method",
        markdown_table(("method", *study.tuned), [[method, *values] for method, values in rows.items()]),
    ]


def _stages(findings: Findings) -> list[str]:
    """Return the paragraphs of the section on models that were evaluated at several stages of their making."""
    groups = {name: rows for name, rows in findings.stages.items() if len({row["stage"] for row in rows}) > 1}
    if not groups:
        return []
    rows = []
    for name, own in groups.items():
        for stage in dict.fromkeys(row["stage"] for row in own):
            seeds = [row for row in own if row["stage"] == stage]
            spearman, highs = (
                [row["spearman"][key] for row in seeds if row["spearman"] and row["spearman"][key] is not None]
                for key in ("value", "high")
            )
            rows.append(
                [
                    name,
                    stage,
                    f"{sum(row['accuracy'] for row in seeds) / len(seeds):.3f}",
                    _mean_text([row["entropy"] for row in seeds]),
                    signed(sum(spearman) / len(spearman)) if spearman else "undefined",
                    f"{signed(min(spearman))} to {signed(max(spearman))}" if spearman else "—",
                    f"{sum(high < 0 for high in highs)} of {len(highs)}",
                ]
            )
    header = ("group", "stage", "accuracy", "entropy (nats)", "ρ pooled, mean of seeds", "seeds from … to", "inverted")
    return [
        "## ρ along the training that made the models",
        markdown_table(header, rows),
        "inverted: seeds whose 95 % interval of ρ lies below 0.",
        "![stages](figures/stages.png)",
    ]


def _mean_text(values: Sequence[float | None]) -> str:
    """Return, as text, the mean of the values that are not None; `undefined` if all are None."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.2f}" if known else "undefined"


def _across(findings: Findings) -> list[str]:
    """Return the paragraphs of the section that relates inversion to accuracy."""
    rows = []
    for name, what in ACROSS.items():
        if name not in findings.across["mean"]:
            continue
        mean, overall = findings.across["mean"][name], findings.across["all"].get(name)
        p_value = None if overall is None else overall["p_value"]
        rows.append(
            [
                name,
                what,
                "—" if mean["value"] is None else signed(mean["value"]),
                "—" if overall is None else f"{signed(overall['spearman'])} {interval_text(overall)}",
                "—" if p_value is None else f"{p_value:.3g}",
            ]
        )
    points = len(findings.points)
    lineages = len({point["lineage"] for point in findings.points})
    return [
        "## Inversion against accuracy, over all cells",
        markdown_table(("number", "what it is", "mean of the groups", "all cells together [95 %]", "p"), rows),
        f"Rank correlation with accuracy over {points} cells; the {lineages} lineages (a model, setting and seed with "
        f"all that was trained from it) are the clusters. {ACROSS_NOTE} It exchanges whole "
        "lineages, so a course of training that all of them share is no evidence there.",
        "![accuracy and inversion](figures/accuracy_inversion.png)",
    ]


def _scores(findings: Findings) -> list[str]:
    """Return the paragraphs of the section on how well scores tell right from wrong rollouts."""
    rows = [
        [name, SCORES[name].what, share_text(found), str(found["num_problems"])]
        for name, found in findings.scores.items()
    ]
    return [
        "## Right from wrong rollouts of the same problem",
        markdown_table(("score", "what it is", "AUROC [95 %]", "problems"), rows),
        "Mean over the problems with right and wrong rollouts of all cells; intervals over lineages. 0.5 is chance.",
    ]
