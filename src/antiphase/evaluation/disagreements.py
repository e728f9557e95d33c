"""Compare two models or methods problem by problem: which problems does one of them solve more often than the other?

An entrant is a model, or a method with its seeds. Two entrants are compared on the problems that both answered. For
each of the two, the share of a problem is the share of its samples that are right, over all seeds. If nothing was
sampled, the greedy completions are used. The result also says how many problems would differ by chance alone.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from antiphase.evaluation.comparison import difference_of, sides_of
from antiphase.evaluation.entrants import Entrant
from antiphase.evaluation.entries import Options
from antiphase.statistics.accuracy import chance_of_unequal_shares

FILE = "disagreements.csv"
_EXCERPT = 120
# The most rollouts that the result names for each problem and side. The page lets the reader open one of them.
_CANDIDATES = 16
_COLUMNS = (
    "task", "problem_id", "reference", "model", "share_reference", "share_model", "difference", "samples_reference",
    "samples_model", "rollout_reference", "rollout_model", "prompt",
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """The answers of one entrant (a model, or a method with its seeds) to a problem.

    Args:
        num_correct, num_samples: the number of right completions and the number of all completions, over all seeds.
        rollouts: some completions as examples, each as (index of the seed, rollout id). For the entrant that is right
            more often, they are right completions. For the other entrant, they are wrong completions.
    """

    num_correct: int
    num_samples: int
    rollouts: tuple[tuple[int, str], ...]

    @property
    def share(self) -> float:
        """The share of right completions among all completions, in [0, 1]."""
        return self.num_correct / self.num_samples


@dataclass(frozen=True)
class Disagreement:
    """A problem on which two models or methods have different shares of right completions.

    `reference` holds the answers of the reference. `model` holds the answers of the other model or method.
    """

    problem_id: str
    prompt: str
    reference: Side
    model: Side

    @property
    def difference(self) -> float:
        """The share of right completions of the model minus that of the reference."""
        return self.model.share - self.reference.share


@dataclass(frozen=True)
class Disagreements:
    """How two entrants (models, or methods with their seeds) disagree on one task.

    Args:
        task: the task's spec.
        reference: the name of the entrant with which the other one is compared.
        model: the name of the other entrant.
        num_problems: the number of problems that both entrants answered.
        problems: the problems on which the shares of right completions differ. The largest differences come first.
            Among equal differences, the problems that the entrant `model` solves more often come first.
        paired: the difference in mean accuracy, model minus reference, with its interval and verdict, as
            `PairedDifference.to_dict` gives it.
        by_chance: the expected number of problems with different shares if both entrants solved each problem with the
            same probability (see `chance_of_unequal_shares`). None if the numbers of completions do not allow an
            estimate, for example if an entrant has one completion of each problem.
    """

    task: str
    reference: str
    model: str
    num_problems: int
    problems: tuple[Disagreement, ...]
    paired: Mapping[str, Any]
    by_chance: float | None


def disagreements(entrants: Sequence[Entrant], options: Options | None = None) -> list[Disagreements]:
    """Compare every entrant (a model, or a method with its seeds) with the reference, problem by problem.

    Args:
        entrants: the entrants, one for each name and task.
        options: how the entrants are compared; `allow_mismatch` is not read.

    Returns:
        One result for each entrant and task, if the entrant and the reference have a problem of this task in common.
        The list begins with all results of the first entrant, followed by those of the next.
    """
    options = options or Options()
    names = list(dict.fromkeys(entrant.name for entrant in entrants))
    if len(names) < 2:
        return []
    first = options.reference or names[0]
    by_key = {(entrant.name, entrant.task): entrant for entrant in entrants}
    tasks = list(dict.fromkeys(entrant.task for entrant in entrants))
    found = []
    for name in names:
        for task in tasks:
            reference, model = by_key.get((first, task)), by_key.get((name, task))
            if name != first and reference is not None and model is not None:
                found.append(_compared(reference, model, options))
    return [one for one in found if one is not None]


def _compared(reference: Entrant, model: Entrant, options: Options) -> Disagreements | None:
    """Return the disagreements of two entrants on one task; None if they share no problem."""
    left, right = _by_problem(reference), _by_problem(model)
    problems = [name for name in left if name in right]
    if not problems:
        return None
    rows, by_chance, estimable = [], 0.0, False
    for name in problems:
        counts = (int(left[name].correct.sum()), len(left[name]), int(right[name].correct.sum()), len(right[name]))
        by_chance += chance_of_unequal_shares(*counts)
        # Without a common divisor of the numbers of completions, the chance is only what was observed.
        estimable = estimable or math.gcd(counts[1], counts[3]) > 1
        if counts[0] * counts[3] != counts[2] * counts[1]:
            rows.append(_row(name, left[name], right[name]))
    rows.sort(key=lambda row: (-abs(row.difference), -row.difference))
    model_side, reference_side = sides_of(model, reference, options)
    matrices = [side.matrix("accuracy", problems) for side in (model_side, reference_side)]
    paired = difference_of(matrices[0], matrices[1], "accuracy", options)
    names = (reference.task, reference.name, model.name)
    return Disagreements(*names, len(problems), tuple(rows), paired, by_chance if estimable else None)


def _by_problem(entrant: Entrant) -> dict[str, pd.DataFrame]:
    """Return, for each problem id, the rows of an entrant's sampled completions; without any, the greedy ones.

    The column `place` is the index of the seed.
    """
    parts = []
    for place, run in enumerate(entrant.runs):
        rows = run.rows
        parts.append(rows[["problem_id", "prompt", "rollout_id", "correct"]].assign(place=place))
    whole = pd.concat(parts)
    return {str(name): rows for name, rows in whole.groupby(whole.problem_id.astype("str"), sort=False)}


def _row(name: str, left: pd.DataFrame, right: pd.DataFrame) -> Disagreement:
    more = bool(left.correct.mean() > right.correct.mean())
    sides = _side(left, is_right=more), _side(right, is_right=not more)
    return Disagreement(name, str(left.prompt.iloc[0]), *sides)


def _side(rows: pd.DataFrame, *, is_right: bool) -> Side:
    telling = rows[rows.correct.astype(bool) == is_right].head(_CANDIDATES)
    pairs = zip(telling.place, telling.rollout_id, strict=True)
    return Side(int(rows.correct.sum()), len(rows), tuple((int(place), str(rollout)) for place, rollout in pairs))


def excerpt(prompt: str) -> str:
    """Return the beginning of a prompt as one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1]}…"


def disagreements_csv(found: Sequence[Disagreements]) -> str:
    """Return the disagreements as CSV text, with a line for each pair of entrants (models or methods) and problem.

    The numbers are not rounded. A prompt that a spreadsheet would read as a formula gets an apostrophe before it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in found:
        for row in one.problems:
            left, right = row.reference, row.model
            text = excerpt(row.prompt)
            cells = [one.task, row.problem_id, one.reference, one.model, left.share, right.share, row.difference]
            cells += [left.num_samples, right.num_samples, left.rollouts[0][1], right.rollouts[0][1]]
            writer.writerow([*cells, f"'{text}" if text.startswith(("=", "+", "-", "@")) else text])
    return file.getvalue()
