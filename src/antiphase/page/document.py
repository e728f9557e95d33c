"""What a page shows: subjects with their tokens, training runs, tables and notes. Plain data; no HTML."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.page.defaults import FORKING_SHARE, MARKERS


@dataclass(frozen=True)
class Run:
    """A folder that the page is made of.

    Args:
        name: of the folder, or as the user calls it.
        kind: `probe`, `eval`, `train` or `compare`.
        finished: whether the run was summed up; else what it has so far is shown.
        facts: label and text pairs: seed, versions, commit, sampling.
    """

    name: str
    kind: str
    finished: bool = True
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Steps:
    """The steps of a subject's rollouts, in order.

    Args:
        starts: first step of each rollout, and the number of steps at the end, `[rollout + 1]`.
        start: place of each step's first token in its rollout, `[step]`.
        num_tokens: of each step, `[step]`.
        position: mean place of its tokens, `[step]`.
        entropies, strengths: by estimator, mean entropy and gradient strength of each step, `[step]`; NaN where not
            measured.
    """

    starts: np.ndarray
    start: np.ndarray
    num_tokens: np.ndarray
    position: np.ndarray
    entropies: Mapping[str, np.ndarray]
    strengths: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A model or checkpoint (on one task, if it was evaluated) with its rollouts.

    Args:
        label: unique in the document.
        run: place of its run in the document.
        readings: one per estimator: the entry of the run's summary with, for evaluations, `accuracy` beside.
        rollouts: one row a rollout: `rollout_id`, `prompt`, `finish`, `num_tokens`, and where known `correct`,
            `outcome`, `answer`, `reference`.
        correlations: by estimator, ρ over the tokens of each rollout, `[rollout]`; NaN where undefined.
        by_unit: by column of rollouts.parquet (`spearman_type`, `spearman_step`, its ends, and
            `spearman_given_length`) and estimator, the same; empty in a run of before there were units.
        shuffled: the same of permuted strengths; absent where not stored.
        tokens: one row a token, rollouts in the order of `rollouts`, positions ascending: `token`, `token_id`,
            `spaced` (a space before it that its own text lacks), `entropy`, `logprob`.
        starts: first token of each rollout, and the number of tokens at the end, `[rollout + 1]`.
        strengths: by estimator, `[token]`; NaN where not measured.
        cells: by estimator, strength by layer and projection, `[token, layer * projection]`; absent if not kept.
        alternatives: (token texts `[token, rank]`, log-probabilities `[token, rank]`), if stored.
        steps: what the steps of the rollouts are, if they were measured.
    """

    label: str
    run: int
    readings: Sequence[Mapping[str, Any]]
    rollouts: pd.DataFrame
    correlations: Mapping[str, np.ndarray]
    shuffled: Mapping[str, np.ndarray]
    tokens: pd.DataFrame
    starts: np.ndarray
    strengths: Mapping[str, np.ndarray]
    cells: Mapping[str, np.ndarray] = field(default_factory=dict)
    alternatives: tuple[np.ndarray, np.ndarray] | None = None
    by_unit: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    steps: Steps | None = None

    def __post_init__(self) -> None:
        if int(self.starts[-1]) != len(self.tokens) or len(self.starts) != len(self.rollouts) + 1:
            raise InvalidInputError(f"{self.label}: the token table and the rollout table do not match.")


@dataclass(frozen=True)
class Training:
    """A training run: its trajectory, and what it shares with its seeds.

    Args:
        label: of the run.
        group: equal for the seeds of one recipe, which are drawn as one band.
        run: place of its run in the document.
        rows: of trajectory.jsonl.
        num_steps: optimizer steps of a finished run; None goes by the rows.
    """

    label: str
    group: str
    run: int
    rows: Sequence[Mapping[str, Any]]
    num_steps: int | None = None


@dataclass(frozen=True)
class Table:
    """A ready table, of text.

    Args:
        title: above it.
        header: of the columns.
        rows: cells.
        notes: how to read it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Document:
    """Everything on one page.

    Args:
        title: of the page.
        runs, subjects, trainings, tables: what is shown; at least one run.
        notes: about the whole.
        markers: reasoning markers, in lower case.
        forking_share: share of tokens of the highest entropy that count as forking, in (0, 1).
        created: when the page was made, ISO 8601.
    """

    title: str
    runs: Sequence[Run]
    subjects: Sequence[Subject] = ()
    trainings: Sequence[Training] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    markers: Sequence[str] = MARKERS
    forking_share: float = FORKING_SHARE
    created: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.forking_share < 1:
            raise InvalidInputError(f"forking_share must lie between 0 and 1; got {self.forking_share}.")
        labels = [subject.label for subject in self.subjects]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise InvalidInputError(
                f"two models on the page are called {twice!r}. Name the runs: antiphase report first=RUN second=RUN."
            )


def joined(documents: Sequence[Document], title: str) -> Document:
    """One document of several, in order; markers, share and time are the first one's.

    Raises:
        InvalidInputError: two subjects of one label.
    """
    runs: list[Run] = []
    subjects: list[Subject] = []
    trainings: list[Training] = []
    for document in documents:
        offset = len(runs)
        runs += document.runs
        subjects += [dataclasses.replace(s, run=s.run + offset) for s in document.subjects]
        trainings += [dataclasses.replace(t, run=t.run + offset) for t in document.trainings]
    return dataclasses.replace(
        documents[0],
        title=title,
        runs=runs,
        subjects=subjects,
        trainings=trainings,
        tables=[table for document in documents for table in document.tables],
        notes=[note for document in documents for note in document.notes],
    )
