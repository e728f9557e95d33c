"""Write the findings of the study of emergence from its stored cells: report.md, tables/ and figures/."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from emergence_figure import curves_figure
from emergence_findings import LINKS, Cells, entry_of
from emergence_settings import ROLLOUTS, UNTRAINED

from antiphase.data.published import published_curves
from antiphase.evaluation.comparison_formats import markdown_table
from antiphase.figures.style import styled
from antiphase.runs.table_text import signed

# The units of the contrasts, what is held fixed, and the words for both.
_CONTRASTS = (("step", "none", "sentence"), ("step", "length+position", "sentence, fixed"), ("type", "none", "type"))
# What is held fixed in the main tables, by the name that the tables give it.
GIVEN = {"none": "nothing held fixed", "length+position": "length and position of the sentences held fixed"}


def write_findings(out: Path, num_cells: int) -> str:
    """Write OUT/report.md, OUT/tables and, once a training is stored, OUT/figures. Return the text of the report.

    Args:
        out: the folder of the study.
        num_cells: the number of measurements that the whole study has.
    """
    cells = Cells.read(out)
    (out / "tables").mkdir(parents=True, exist_ok=True)
    _long_table(cells).to_csv(out / "tables" / "correlations.csv", index=False, lineterminator="\n")
    _chain_table(cells).to_csv(out / "tables" / "chain.csv", index=False, lineterminator="\n")
    text = _report(cells, num_cells)
    (out / "report.md").write_text(text, encoding="utf-8")
    if not cells.corpora:
        return text  # There is no course of training to draw.
    (out / "figures").mkdir(exist_ok=True)
    curves = {
        texts: {
            corpus: [(step, cells.level(corpus, step, texts)) for step in cells.steps(corpus)]
            for corpus in cells.corpora
        }
        for texts in cells.texts
    }
    figure = curves_figure(curves, published_curves())
    with styled():
        for suffix in ("png", "svg"):
            figure.savefig(out / "figures" / f"emergence.{suffix}", dpi=150, metadata={"Date": None})
    return text


def _long_table(cells: Cells) -> pd.DataFrame:
    """Return a row for each corpus, step, set of texts, estimator, unit and choice of what is held fixed."""
    rows = []
    for corpus in _subjects(cells):
        for step in cells.steps(corpus):
            for texts, estimator, unit, given in _measured(cells):
                place = (corpus, step, texts, estimator, unit, given)
                level, change = cells.level(*place), cells.change(*place)
                if level.num_seeds:
                    keys = ("corpus", "step", "texts", "estimator", "unit", "given")
                    ends = {"change": change.value, "change_low": change.low, "change_high": change.high}
                    rows.append({**dict(zip(keys, place, strict=True)), **level._asdict(), **ends})
    return pd.DataFrame(rows)


def _measured(cells: Cells) -> list[tuple[str, str, str, str]]:
    """Return every set of texts, estimator, unit and choice of what is held fixed for which single ρ are stored."""
    found: dict[tuple[str, str, str, str], None] = {}
    for corpus in _subjects(cells):
        for step in cells.steps(corpus):
            for seed in cells.seeds(corpus, step):
                for entry in (cells.row(corpus, seed, step) or {"entries": []})["entries"]:
                    for unit, numbers in entry["units"].items():
                        for given, within in numbers["within"].items():
                            if "each" in within:
                                found[entry["texts"], entry["estimator"], unit, given] = None
    return sorted(found)


def _chain_table(cells: Cells) -> pd.DataFrame:
    """Return a row for each link of the paper's chain, as it is and with ‖w_y‖ and position held fixed."""
    values: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for corpus in _subjects(cells):
        for step in cells.steps(corpus):
            for place, seed in enumerate(cells.seeds(corpus, step)):
                for texts in cells.texts:
                    # Before training, only one seed reads the given texts.
                    again = step == 0 and place > 0 and texts != ROLLOUTS
                    entry = None if again else cells.entry(corpus, seed, step, texts, "own")
                    for kind in ("chain", "chain_partial"):
                        for link, number in (entry or {}).get(kind, {}).items():
                            if number["value"] is not None:
                                values[corpus, step, texts, kind, link].append(number["value"])
    keys = ("corpus", "step", "texts", "kind", "link")
    return pd.DataFrame(
        [
            {**dict(zip(keys, place, strict=True)), "mean": round(sum(found) / len(found), 4), "lowest": min(found),
             "highest": max(found), "num_seeds": len(found)}
            for place, found in values.items()
        ],
        columns=[*keys, "mean", "lowest", "highest", "num_seeds"],
    )  # fmt: skip


def _subjects(cells: Cells) -> list[str]:
    """Return the corpora that were trained on; or, if no training is stored, the untrained model alone."""
    return cells.corpora or ([UNTRAINED] if len(cells) else [])


def _report(cells: Cells, num_cells: int) -> str:
    """Return the text of report.md."""
    parts = [
        "# Does inversion emerge with SFT?",
        f"Number of stored measurements: {len(cells)}. The whole plan has {num_cells}.",
        "ρ by sentence is the mean of the texts' own ρ, by `own` (mean strength of a sentence's tokens). Brackets are "
        "95 % intervals over seeds and texts; where there is one seed, over texts alone. An interval over texts alone "
        "says nothing about a training with another seed. No interval is corrected for the number of comparisons.",
    ]
    if not cells.corpora:
        parts.append("No training has a measurement yet.")
        sections = [*_before(cells), *_remaining(cells), *_chain(cells)] if len(cells) else []
        return "\n\n".join([*parts, *sections]) + "\n"
    parts.append("![ρ along the trainings](figures/emergence.png)")
    if any(len(cells.shown_steps(corpus)) > 1 for corpus in cells.corpora):
        parts.append("A hollow point has fewer seeds than others of its line.")
    for given, words in GIVEN.items():
        parts.append(f"## Change of ρ by sentence since step 0: {words}")
        rows = []
        for corpus in cells.corpora:
            for step in cells.steps(corpus)[1:]:
                changes = [cells.change(corpus, step, texts, given=given) for texts in cells.texts]
                seeds = str(len(cells.seeds(corpus, step)))
                rows.append(
                    [corpus, str(step), seeds, *(str(change) if change.num_seeds else "—" for change in changes)]
                )
        parts.append(
            markdown_table(("trained on", "step", "seeds", *(f"on {_words(name)}" for name in cells.texts)), rows)
        )
    parts += _contrasts(cells)
    parts += _before(cells)
    parts += _units(cells)
    parts += _remaining(cells)
    parts += _chain(cells)
    parts += _fit(cells)
    parts += _entropy(cells)
    return "\n\n".join(parts) + "\n"


def _words(texts: str) -> str:
    return "own rollouts" if texts == ROLLOUTS else texts


def _contrasts(cells: Cells) -> list[str]:
    """Return the section that compares trainings with each other at the same step, as paragraphs."""
    rows = []
    for other in cells.corpora:
        if "reasoning" not in cells.corpora or other == "reasoning":
            continue
        for step in sorted({*cells.steps("reasoning")} & {*cells.steps(other)} - {0}):
            for unit, given, words in _CONTRASTS:
                found = [cells.contrast("reasoning", other, step, texts, unit, given) for texts in cells.texts]
                if any(each.num_seeds for each in found):
                    rows.append([other, str(step), words, *(str(each) if each.num_seeds else "—" for each in found)])
    if not rows:
        return []
    header = ("other corpus", "step", "unit", *(f"on {_words(name)}" for name in cells.texts))
    return [
        "## ρ: trained on reasoning, minus trained on another corpus",
        markdown_table(header, rows),
        "Both trainings have the same seed and number of steps. They read the same texts, and complete the same "
        "questions. Fixed: with the length and position of the sentences held fixed.",
    ]


def _before(cells: Cells) -> list[str]:
    """Return the section on ρ before any training, as paragraphs."""
    rows = [
        [_words(texts), *(str(cells.level(UNTRAINED, 0, texts, given=given)) for given in GIVEN)]
        for texts in cells.texts
    ]
    return ["## ρ by sentence before any training", markdown_table(("measured on", *GIVEN.values()), rows)]


def _units(cells: Cells) -> list[str]:
    """Return the section that compares units and estimators at one step of each corpus, as paragraphs."""
    rows = []
    for texts, estimator, unit, given in _measured(cells):
        if given == "none" and texts in ("reasoning", ROLLOUTS):
            row = []
            for name in cells.corpora:
                step = cells.last_step(name, estimator=estimator)
                change = cells.change(name, step, texts, estimator, unit)
                row.append(f"{change}, {step} steps" if step and change.num_seeds else "—")
            rows.append([_words(texts), estimator, "sentence" if unit == "step" else unit, *row])
    return [
        "## Units and estimators: change of ρ after the last steps that have the most seeds",
        markdown_table(("measured on", "estimator", "unit", *cells.corpora), rows),
        "`full` is the joint strength of sentences by the gradient through the whole context, on fewer texts.",
    ]


def _remaining(cells: Cells) -> list[str]:
    """Return the section on ρ with everything held fixed that may explain it, as paragraphs."""
    rows = []
    for corpus in (UNTRAINED, *cells.corpora):
        step = 0 if corpus == UNTRAINED else cells.last_step(corpus)
        for texts in ("reasoning", ROLLOUTS):
            for unit in ("step", "type"):
                plain, held = cells.levels(corpus, step, texts, unit, ("none", "all"))
                if plain.num_seeds:
                    words = "sentence" if unit == "step" else unit
                    rows.append([corpus, str(step), _words(texts), words, str(plain), str(held)])
    header = ("trained on", "step", "measured on", "unit", "ρ", "ρ with all of these held fixed")
    return [
        "## What remains of ρ",
        markdown_table(header, rows),
        "Held fixed by sentence: the sentence's length, its position, and its mean ‖w_y‖. Held fixed by type: the "
        "type's mean position, its ‖w_y‖, and the logarithm of its frequency in the set of texts. ‖w_y‖ is the norm "
        "of the token's row of the output matrix. A type is a distinct token id.",
    ]


def _chain(cells: Cells) -> list[str]:
    """Return the section on the links of the paper's chain, as paragraphs."""
    parts = ["## The chain from entropy to strength"]
    for kind, words in (("chain", "As they are"), ("chain_partial", "With ‖w_y‖ and the token's position held fixed")):
        rows = []
        for link, (sign, name) in LINKS.items():
            by_texts = [_range_text(cells.link_values(link, kind, texts)) for texts in cells.texts]
            rows.append([name, "+" if sign > 0 else "−", *by_texts])
        parts.append(f"{words}:")
        parts.append(markdown_table(("link", "needed sign", *(f"on {_words(name)}" for name in cells.texts)), rows))
    parts.append(
        "Every number is a rank correlation over tokens, by `own`: the mean over all stored checkpoints, and in "
        "brackets the lowest and the highest of them."
    )
    return parts


def _range_text(values: Sequence[float]) -> str:
    """Return the mean, the lowest and the highest value as text."""
    if not values:
        return "—"
    return f"{signed(sum(values) / len(values))} [{signed(min(values))}, {signed(max(values))}]"


def _fit(cells: Cells) -> list[str]:
    """Return the section on accuracy, entropy and fit to the texts, as paragraphs."""
    rows = []
    for corpus in cells.corpora:
        for step in cells.steps(corpus):
            found = [row for seed in cells.seeds(corpus, step) if (row := cells.row(corpus, seed, step))]
            if not found:  # The model before its training is not measured yet.
                continue
            shares = [sum(row["sums"][name] for row in found) / len(found) for name in ("pass@1", "named", "ended")]
            fits = []
            for texts in ("reasoning", "base", ROLLOUTS):
                entries = [entry_of(row, texts, "own") for row in found]
                known = [entry for entry in entries if entry is not None]
                for key in ("entropy_mean", "logprob_mean"):
                    fits.append(f"{sum(one[key] for one in known) / len(known):.2f}" if known else "—")
            rows.append([corpus, str(step), *(f"{share:.2f}" for share in shares), *fits])
    header = [
        f"{what} on {_words(texts)}" for texts in ("reasoning", "base", ROLLOUTS) for what in ("entropy", "logprob")
    ]
    return [
        "## Accuracy, entropy and fit",
        markdown_table(("trained on", "step", "sums right", "sums named", "sums ended", *header), rows),
        "Sums right: the share of one-digit sums in words whose greedy answer ends with the right number. Sums named: "
        "the share in which the right number stands anywhere. Sums ended: the share of these answers that end within "
        "the limit of tokens. No corpus trains on an end token, so trained models hardly end. Entropy and "
        "log-probability are means over tokens, in nats.",
    ]


def _entropy(cells: Cells) -> list[str]:
    """Return the section on how ρ goes with the mean entropy from model to model, as paragraphs."""
    seeds = sorted({row["cell"]["seed"] for row in cells.rows})
    groups = {"the first seed": seeds[:1], "the other seeds": seeds[1:]}
    rows = []
    for group, own in groups.items():
        for unit, given, words in _CONTRASTS:
            found = [cells.entropy_link(texts, own, unit, given) for texts in cells.texts]
            if any(not math.isnan(value) for value, _ in found):
                shown = ["—" if math.isnan(value) else f"{signed(value)} ({number})" for value, number in found]
                rows.append([group, words, *shown])
    if not rows:
        return []
    return [
        "## ρ and mean entropy",
        markdown_table(("measurements of", "unit", *(f"on {_words(name)}" for name in cells.texts)), rows),
        "The rank correlation, over the measured models, of the mean entropy on a set of texts and the mean ρ on it, "
        "by `own`. In brackets is the number of models, trained and untrained. Models of one training are not "
        "independent, so there is no interval.",
    ]
