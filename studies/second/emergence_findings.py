"""What the cells of the study of emergence say: ρ at a step, its change since step 0, and the contrast of two corpora.

Every ρ here is the mean of the texts' own ρ. The change since step 0 is paired: the same text (or the same question of
a rollout) is compared with itself. With several seeds, the 95 % interval is over seeds and texts, and holds for other
seeds and other texts; with one seed, it is over texts alone, and says nothing about a training with another seed.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from corpora import CORPORA
from emergence_settings import ROLLOUTS, UNTRAINED

from antiphase.runs.table_text import interval_text, signed
from antiphase.statistics.paired import paired_difference

# The links of the paper's chain, each with the sign that the paper's argument needs and with its words.
LINKS = {
    "entropy–logit": (-1, "entropy and the token's logit"),
    "logit–hidden": (1, "the logit and ‖h‖ after the last norm"),
    "hidden–strength": (1, "‖h‖ after the last norm and the strength"),
    "hidden_before–strength": (1, "‖h‖ before the last norm and the strength"),
}
# A mean over fewer texts than this is not shown in the report; the tables have it.
LEAST_TEXTS = 6
# A rank correlation over fewer measured models than this is not shown.
LEAST_MODELS = 5


class Value(NamedTuple):
    """A mean with its interval.

    Args:
        value, low, high: the mean and its 95 % interval; NaN if undefined.
        detectable: the smallest true value that so many seeds and texts tell from 0 in 80 % of cases; NaN if there
            is no interval.
        num_seeds: the number of seeds with a measurement; 0 if nothing was measured.
        num_texts: the number of texts that have a ρ with every seed. The others are left out.
    """

    value: float
    low: float
    high: float
    detectable: float
    num_seeds: int
    num_texts: int

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        if self.num_texts < LEAST_TEXTS or math.isnan(self.low):
            return f"not enough data ({self.num_texts} texts)"
        return f"{signed(self.value)} {interval_text({'low': self.low, 'high': self.high})} ({self.num_texts} texts)"


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

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """All measurements."""
        return list(self._rows.values())

    def steps(self, corpus: str) -> list[int]:
        """Return the steps at which a corpus was measured with at least one seed, ascending, beginning with 0."""
        return [0, *sorted({step for name, _, step in self._rows if name == corpus and step})]

    def last_step(self, *corpora: str, estimator: str = "own") -> int:
        """Return the step that most seeds share in all given corpora; among equals, the last; 0 if there is none.

        Only measurements by the estimator count.
        """
        counts = self._shared_seeds(corpora, estimator)
        return max(counts, key=lambda step: (counts[step], step), default=0)

    def shown_steps(self, *corpora: str) -> list[int]:
        """Return `last_step`, and the last step at all if it is a later one with fewer seeds; ascending."""
        counts = self._shared_seeds(corpora, "own")
        return sorted({self.last_step(*corpora), max(counts)}) if counts else []

    def _shared_seeds(self, corpora: Sequence[str], estimator: str) -> dict[int, int]:
        """Return the number of seeds that all given corpora have at a step, for each step after 0 that has one."""
        seeds: dict[str, set[tuple[int, int]]] = {corpus: set() for corpus in corpora}
        for (corpus, seed, step), row in self._rows.items():
            if step and corpus in seeds and any(entry["estimator"] == estimator for entry in row["entries"]):
                seeds[corpus].add((step, seed))
        return Counter(step for step, _ in set.intersection(*seeds.values()))

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
        found = entry_of(row, texts, estimator)
        if found is None and step == 0 and texts != ROLLOUTS:
            others = (self.row(corpus, other, 0) for other in self.seeds(corpus, 0))
            found = next((entry for other in others if (entry := entry_of(other, texts, estimator))), None)
        return found

    def level(
        self, corpus: str, step: int, texts: str, estimator: str = "own", unit: str = "step", given: str = "none"
    ) -> Value:
        """Return ρ at a step. Before training, no seed changes the ρ of given texts, so it is that of one seed."""
        return value_of(self._each_of(corpus, step, texts, estimator, unit, given))

    def levels(self, corpus: str, step: int, texts: str, unit: str, givens: Sequence[str]) -> list[Value]:
        """Return ρ by `own` for several choices of what is held fixed, over the texts that have a ρ for each."""
        tables = [np.array(self._each_of(corpus, step, texts, "own", unit, given)) for given in givens]
        whole = np.isfinite(tables).all(axis=0)
        return [value_of(np.where(whole, table, math.nan).tolist()) for table in tables]

    def _each_of(self, corpus: str, step: int, texts: str, estimator: str, unit: str, given: str) -> list[list[float]]:
        """Return the ρ of each text for each seed that has some."""
        seeds = self.seeds(corpus, step)
        if step == 0 and texts != ROLLOUTS:
            seeds = seeds[:1]
        found = [_each(self.entry(corpus, seed, step, texts, estimator), unit, given) for seed in seeds]
        return [each for each in found if each]

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
        return value_of(differences)

    def link_values(self, link: str, kind: str = "chain", texts: str | None = None) -> list[float]:
        """Return a link's rank correlation by `own` for each measurement and set of texts that has one.

        Args:
            link: a key of `LINKS`.
            kind: `chain`, or `chain_partial` for the link with ‖w_y‖ and position held fixed.
            texts: one set of texts; None takes all of them.
        """
        entries = [entry for row in self.rows for entry in row["entries"] if entry["estimator"] == "own"]
        numbers = [
            one.get(kind, {}).get(link, {"value": None})["value"] for one in entries if texts in (None, one["texts"])
        ]
        return [float(number) for number in numbers if number is not None]

    def entropy_link(
        self, texts: str, seeds: Sequence[int], unit: str = "step", given: str = "none"
    ) -> tuple[float, int]:
        """Return the rank correlation of mean entropy and mean ρ by `own` over measurements, and their number.

        Args:
            texts: the set of texts.
            seeds: the seeds whose measurements count.
            unit, given: the unit of ρ, and what is held fixed.
        """
        pairs = []
        for (_, seed, _), row in self._rows.items():
            entry = entry_of(row, texts, "own") if seed in seeds else None
            mean = entry["units"].get(unit, {}).get("within", {}).get(given, {}).get("mean") if entry else None
            if entry is not None and mean is not None:
                pairs.append((entry["entropy_mean"], mean))
        if len(pairs) < LEAST_MODELS:
            return math.nan, len(pairs)
        return float(pd.DataFrame(pairs).rank().corr().iloc[0, 1]), len(pairs)

    def contrast(
        self, corpus: str, other: str, step: int, texts: str, unit: str = "step", given: str = "none"
    ) -> Value:
        """Return ρ by `own` after training on one corpus minus that after another one, paired by seed and text."""
        differences = []
        for seed in sorted({*self.seeds(corpus, step)} & {*self.seeds(other, step)}):
            one, two = (_each(self.entry(name, seed, step, texts, "own"), unit, given) for name in (corpus, other))
            if len(one) == len(two):
                differences.append([left - right for left, right in zip(one, two, strict=True)])
        return value_of(differences)


def entry_of(row: Mapping[str, Any] | None, texts: str, estimator: str) -> Mapping[str, Any] | None:
    """Return what one estimator found on one set of texts, in one measurement; None if it was not measured."""
    entries = [] if row is None else row["entries"]
    return next((one for one in entries if (one["texts"], one["estimator"]) == (texts, estimator)), None)


def _each(entry: Mapping[str, Any] | None, unit: str, given: str) -> list[float]:
    """Return the ρ of each text; NaN where it is undefined, and nothing if it was not measured."""
    if entry is None or unit not in entry["units"]:
        return []
    return [math.nan if value is None else float(value) for value in entry["units"][unit]["within"][given]["each"]]


def value_of(by_seed: Sequence[Sequence[float]]) -> Value:
    """Return the mean over seeds and texts with its interval.

    Args:
        by_seed: for each seed, the values of the same texts in the same order; NaN where undefined. A seed without
            values was not measured.
    """
    measured = [values for values in by_seed if values]
    if not measured:
        return Value(math.nan, math.nan, math.nan, math.nan, 0, 0)
    table = np.array(measured, dtype=np.float64)
    found = paired_difference(table, np.zeros_like(table), paired_seeds=True)
    return Value(found.difference, found.low, found.high, found.minimum_detectable, len(measured), found.num_problems)
