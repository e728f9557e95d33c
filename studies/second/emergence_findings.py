"""The findings of the study of emergence, from its stored cells: tables, the report and the figure.

Every ρ here is the mean of the texts' own ρ. The change since step 0 is paired: the same text (or the same question of
a rollout) is compared with itself. With several seeds, the interval is over seeds; with one seed, it is over texts,
and then it says nothing about a training with another seed. Both are 95 % intervals of Student's t.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from corpora import CORPORA
from emergence_figure import curves_figure
from emergence_settings import ROLLOUTS, UNTRAINED
from scipy.stats import t as student

from antiphase.data.published import published_curves
from antiphase.evaluation.comparison_formats import markdown_table
from antiphase.figures.style import styled
from antiphase.runs.table_text import interval_text, signed

# What is held fixed in the main tables, by the name that the tables give it.
GIVEN = {"none": "nothing held fixed", "length+position": "length and position of the sentences held fixed"}


class Value(NamedTuple):
    """A mean with its interval.

    Args:
        value, low, high: the mean and its 95 % interval; NaN if undefined.
        num: what the interval is over: that many seeds, or texts of the only seed.
        over: `seeds` or `texts`.
    """

    value: float
    low: float
    high: float
    num: int
    over: str

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        if math.isnan(self.low):
            return f"{signed(self.value)} (one of the {self.over})"
        return f"{signed(self.value)} {interval_text({'low': self.low, 'high': self.high})}"


class Cells:
    """The stored measurements of a study.

    Args:
        rows: the content of the files in OUT/cells.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = {(row["cell"]["corpus"], row["cell"]["seed"], row["cell"]["step"]): row for row in rows}
        trained = {corpus for corpus, _, _ in self._rows}
        self.corpora = [corpus for corpus in CORPORA if corpus in trained]
        self.texts = list(dict.fromkeys(entry["texts"] for row in self._rows.values() for entry in row["entries"]))

    @classmethod
    def read(cls, out: Path) -> "Cells":
        """Read the measurements of a folder, in the order of their names."""
        files = sorted((out / "cells").glob("*.json"))
        return cls(json.loads(file.read_text(encoding="utf-8")) for file in files)

    def __len__(self) -> int:
        return len(self._rows)

    def steps(self, corpus: str) -> list[int]:
        """Return the steps at which a corpus was measured with at least one seed, ascending, beginning with 0."""
        return [0, *sorted({step for name, _, step in self._rows if name == corpus and step})]

    def seeds(self, corpus: str, step: int) -> list[int]:
        """Return the seeds that a corpus was measured with at a step; at step 0, those of the untrained model."""
        name = UNTRAINED if step == 0 else corpus
        return sorted(seed for each, seed, at in self._rows if (each, at) == (name, step))

    def row(self, corpus: str, seed: int, step: int) -> Mapping[str, Any] | None:
        """Return one measurement; None if it is not stored."""
        return self._rows.get((UNTRAINED if step == 0 else corpus, seed, step))

    def entry(self, corpus: str, seed: int, step: int, texts: str, estimator: str) -> Mapping[str, Any] | None:
        """Return what one estimator found on one set of texts; None if it was not measured.

        The untrained model reads given texts with one seed only, since no seed changes the result.
        """
        row = self.row(corpus, seed, step)
        found = _entry(row, texts, estimator)
        if found is None and step == 0 and texts != ROLLOUTS:
            others = (self.row(corpus, other, 0) for other in self.seeds(corpus, 0))
            found = next((entry for other in others if (entry := _entry(other, texts, estimator))), None)
        return found

    def level(
        self, corpus: str, step: int, texts: str, estimator: str = "own", unit: str = "step", given: str = "none"
    ) -> Value:
        """Return ρ at a step. Before training, no seed changes the ρ of given texts, so it is that of one seed."""
        seeds = self.seeds(corpus, step)
        if step == 0 and texts != ROLLOUTS:
            seeds = seeds[:1]
        return _value([_each(self.entry(corpus, seed, step, texts, estimator), unit, given) for seed in seeds])

    def change(
        self, corpus: str, step: int, texts: str, estimator: str = "own", unit: str = "step", given: str = "none"
    ) -> Value:
        """Return the change of ρ since step 0, paired by text."""
        differences = []
        for seed in self.seeds(corpus, step):
            after = _each(self.entry(corpus, seed, step, texts, estimator), unit, given)
            before = _each(self.entry(corpus, seed, 0, texts, estimator), unit, given)
            if len(after) == len(before):
                differences.append([late - early for late, early in zip(after, before, strict=True)])
        return _value(differences)


def _entry(row: Mapping[str, Any] | None, texts: str, estimator: str) -> Mapping[str, Any] | None:
    entries = [] if row is None else row["entries"]
    return next((one for one in entries if (one["texts"], one["estimator"]) == (texts, estimator)), None)


def _each(entry: Mapping[str, Any] | None, unit: str, given: str) -> list[float]:
    """Return the ρ of each text; NaN where it is undefined, and nothing if it was not measured."""
    if entry is None or unit not in entry["units"]:
        return []
    return [math.nan if value is None else float(value) for value in entry["units"][unit]["within"][given]["each"]]


def _value(by_seed: Sequence[Sequence[float]]) -> Value:
    """Return the mean over seeds and texts with its interval: over seeds, or over the texts of the only seed."""
    known = [[value for value in values if not math.isnan(value)] for values in by_seed]
    known = [values for values in known if values]
    means = [sum(values) / len(values) for values in known]
    sample, over = (means, "seeds") if len(means) > 1 else (known[0] if known else [], "texts")
    if not sample:
        return Value(math.nan, math.nan, math.nan, 0, over)
    mean = sum(sample) / len(sample)
    if len(sample) < 2:
        return Value(mean, math.nan, math.nan, 1, over)
    variance = sum((value - mean) ** 2 for value in sample) / (len(sample) - 1)
    half = float(student.ppf(0.975, len(sample) - 1)) * math.sqrt(variance / len(sample))
    return Value(mean, mean - half, mean + half, len(sample), over)


def write_findings(out: Path, num_cells: int) -> str:
    """Write OUT/report.md, OUT/tables and OUT/figures, and return the text of the report.

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
    for corpus in cells.corpora:
        for step in cells.steps(corpus):
            for texts, estimator, unit, given in _measured(cells):
                place = (corpus, step, texts, estimator, unit, given)
                level, change = cells.level(*place), cells.change(*place)
                if level.num:
                    keys = ("corpus", "step", "texts", "estimator", "unit", "given")
                    ends = {"change": change.value, "change_low": change.low, "change_high": change.high}
                    rows.append({**dict(zip(keys, place, strict=True)), **level._asdict(), **ends})
    return pd.DataFrame(rows)


def _measured(cells: Cells) -> list[tuple[str, str, str, str]]:
    """Return every set of texts, estimator, unit and choice of what is held fixed for which single ρ are stored."""
    found: dict[tuple[str, str, str, str], None] = {}
    for corpus in cells.corpora:
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
    for corpus in cells.corpora:
        for step in cells.steps(corpus):
            for seed in cells.seeds(corpus, step):
                for texts in cells.texts:
                    entry = cells.entry(corpus, seed, step, texts, "own")
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


def _report(cells: Cells, num_cells: int) -> str:
    """Return the text of report.md."""
    parts = [
        "# Does inversion emerge with SFT?",
        f"{len(cells)} of {num_cells} measurements are stored.",
        "ρ by sentence is the mean of the texts' own ρ, by `own` (mean strength of a sentence's tokens). Brackets are "
        "95 % intervals: over seeds, or, where there is one seed, over texts. An interval over texts says nothing "
        "about a training with another seed. No interval is corrected for the number of comparisons.",
    ]
    if not cells.corpora:
        return "\n\n".join([*parts, "No training has a measurement yet."]) + "\n"
    parts.append("![ρ along the trainings](figures/emergence.png)")
    for given, words in GIVEN.items():
        parts.append(f"## Change of ρ by sentence since step 0: {words}")
        rows = []
        for corpus in cells.corpora:
            for step in cells.steps(corpus)[1:]:
                changes = [cells.change(corpus, step, texts, given=given) for texts in cells.texts]
                seeds = str(len(cells.seeds(corpus, step)))
                rows.append([corpus, str(step), seeds, *(str(change) if change.num else "—" for change in changes)])
        parts.append(
            markdown_table(("trained on", "step", "seeds", *(f"on {_words(name)}" for name in cells.texts)), rows)
        )
    parts += _before(cells)
    parts += _units(cells)
    parts += _fit(cells)
    return "\n\n".join(parts) + "\n"


def _words(texts: str) -> str:
    return "own rollouts" if texts == ROLLOUTS else texts


def _before(cells: Cells) -> list[str]:
    """Return the section on ρ before any training, as paragraphs."""
    corpus = cells.corpora[0]
    rows = [
        [_words(texts), *(str(cells.level(corpus, 0, texts, given=given)) for given in GIVEN)] for texts in cells.texts
    ]
    return ["## ρ by sentence before any training", markdown_table(("measured on", *GIVEN.values()), rows)]


def _units(cells: Cells) -> list[str]:
    """Return the section that compares units and estimators at each corpus' last step, as paragraphs."""
    rows = []
    for texts, estimator, unit, given in _measured(cells):
        if given == "none" and texts in ("reasoning", ROLLOUTS):
            changes = [cells.change(name, cells.steps(name)[-1], texts, estimator, unit) for name in cells.corpora]
            rows.append([_words(texts), estimator, unit, *(str(each) if each.num else "—" for each in changes)])
    header = [f"{name}, step {cells.steps(name)[-1]}" for name in cells.corpora]
    return [
        "## Units and estimators: change of ρ at the last step",
        markdown_table(("measured on", "estimator", "unit", *header), rows),
        "`full` is the joint strength of sentences by the gradient through the whole context, on fewer texts.",
    ]


def _fit(cells: Cells) -> list[str]:
    """Return the section on accuracy, entropy and fit to the texts, as paragraphs."""
    rows = []
    for corpus in cells.corpora:
        for step in cells.steps(corpus):
            found = [row for seed in cells.seeds(corpus, step) if (row := cells.row(corpus, seed, step))]
            share = sum(row["sums"]["pass@1"] for row in found) / len(found)
            fits = []
            for texts in ("reasoning", "base", ROLLOUTS):
                entries = [_entry(row, texts, "own") for row in found]
                known = [entry for entry in entries if entry is not None]
                for key in ("entropy_mean", "logprob_mean"):
                    fits.append(f"{sum(one[key] for one in known) / len(known):.2f}" if known else "—")
            rows.append([corpus, str(step), f"{share:.2f}", *fits])
    header = [
        f"{what} on {_words(texts)}" for texts in ("reasoning", "base", ROLLOUTS) for what in ("entropy", "logprob")
    ]
    return [
        "## Accuracy, entropy and fit",
        markdown_table(("trained on", "step", "sums right", *header), rows),
        "Sums right: the share of one-digit sums in words that the model solves, greedy. Entropy and log-probability "
        "are means over tokens, in nats.",
    ]
