"""Define what a page shows, as plain data without HTML: models with their tokens, training runs, tables and notes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.page.defaults import FORKING_SHARE, MARKERS, check_share


@dataclass(frozen=True)
class Run:
    """One of the runs that the page shows: a probe, an evaluation, a training or a comparison.

    Args:
        name: the name of its folder, or the user's name for it.
        kind: `probe`, `eval`, `train` or `compare`.
        finished: whether the run has its final summary. If not, the page shows what there is so far.
        facts: how the run was made, as pairs of label and text: its seed, versions, commit and sampling.
    """

    name: str
    kind: str
    finished: bool = True
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Steps:
    """The steps of the rollouts of one model, in order. A step is a part of a rollout, such as a sentence.

    Args:
        starts: index of each rollout's first step; the last entry is the number of all steps; `[rollout + 1]`.
        start: position of each step's first token in its rollout, `[step]`.
        num_tokens: number of tokens in each step, `[step]`.
        position: mean position of each step's tokens, `[step]`.
        entropies, strengths: for each estimator, the mean entropy and the gradient strength of each step, `[step]`;
            NaN if a step was not measured.
    """

    starts: np.ndarray
    start: np.ndarray
    num_tokens: np.ndarray
    position: np.ndarray
    entropies: Mapping[str, np.ndarray]
    strengths: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A model or checkpoint with its rollouts. In an evaluation, these are its rollouts on one task.

    Args:
        label: the name of the model or checkpoint. No two subjects of a document have the same label.
        run: the index of the run that the subject belongs to, among the runs of the document.
        readings: for each estimator, the numbers of the run's summary, in the form that `reading_of` returns.
        rollouts: one row for each rollout. The columns are `rollout_id`, `prompt`, `finish`, `num_tokens`, and, if
            known, `correct`, `outcome`, `reason`, `answer`, `reference`, `strict`, `flexible`, `num_thought_tokens`.
        correlations: for each estimator, the correlation ρ of entropy and strength over the tokens of each rollout,
            `[rollout]`; NaN where undefined.
        by_unit: the ρ of each rollout over other units. The keys are columns of rollouts.parquet: `spearman_type`,
            `spearman_step`, `spearman_step_low` and `spearman_step_high` (its interval), and `spearman_given_length`.
            Each value has the form of `correlations`. The mapping is empty for old runs, which measured tokens only.
        shuffled: for each estimator, ρ over the tokens of each rollout after the strengths were permuted, `[rollout]`;
            empty if not stored.
        tokens: one row for each token, in the order of `rollouts` and of the positions. The columns are `token`,
            `token_id`, `spaced` (whether the completion has a space before the token, and the token's text has none),
            `entropy`, `logprob`.
        starts: index of each rollout's first token; the last entry is the number of all tokens; `[rollout + 1]`.
        strengths: for each estimator, the gradient strength of each token, `[token]`; NaN if a token was not measured.
        cells: for each estimator, the strength of each token by layer and projection, `[token, layer * projection]`;
            empty if not stored.
        alternatives: the texts and the log-probabilities of the most likely tokens at each position, both `[token,
            rank]`; None if not stored.
        steps: the steps of the rollouts; None if they were not measured.
        reward_unit: for the rollouts that a training kept, the unit over which the reward computes ρ: `token`, `type`
            or `step`. The table `rollouts` then has a column `kept`, which holds the number of the training step and
            the rewards of each rollout. None for the rollouts of a probe or an evaluation.
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
    reward_unit: str | None = None

    def __post_init__(self) -> None:
        if int(self.starts[-1]) != len(self.tokens) or len(self.starts) != len(self.rollouts) + 1:
            raise InvalidInputError(f"{self.label}: the token table and the rollout table do not match.")


@dataclass(frozen=True)
class Training:
    """A training run with its trajectory.

    Args:
        label: the name of the run.
        group: the name of the recipe in the charts. Runs with the same group are seeds of one recipe, and are drawn as
            one band around their mean.
        run: the index of this run among the runs of the document.
        rows: the rows of trajectory.jsonl.
        num_steps: the number of optimizer steps of a finished run. If it is None, the steps are counted in the rows.
        model_notes: sentences about the trained model.
    """

    label: str
    group: str
    run: int
    rows: Sequence[Mapping[str, Any]]
    num_steps: int | None = None
    model_notes: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table whose cells are text.

    Args:
        title: the text above the table.
        header: the names of the columns.
        rows: the cells, row by row.
        notes: sentences that say how to read the table.
        links: the rollouts that a click on a cell may open. The keys are (row, column), and each value is a list of
            (label of the subject, rollout id). The click opens the first of these rollouts that the page holds. A cell
            without a rollout to open is plain text.
        beside: whether the table shows ι (ι = −ρ, the inversion) beside other numbers of a rollout.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    links: Mapping[tuple[int, int], Sequence[tuple[str, str]]] = field(default_factory=dict)
    beside: bool = False


@dataclass(frozen=True)
class Document:
    """Everything on one page.

    Args:
        title: the title of the page.
        runs: the runs that the page shows, at least one.
        subjects: the models or checkpoints with their rollouts.
        trainings: the training runs with their trajectories.
        tables: the tables of text.
        notes: sentences about the page as a whole.
        markers: the words that count as reasoning markers, in lower case.
        forking_share: forking tokens are the tokens with the highest entropy. This is their share of all tokens, in
            (0, 1).
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
        check_share(self.forking_share)
        labels = [subject.label for subject in self.subjects]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise InvalidInputError(
                f"two models on the page are called {twice!r}. Name the runs: antiphase report first=RUN second=RUN."
            )

    @property
    def tables_heading(self) -> str:
        """The heading of the section with the tables: `Comparison`, `Beside ι` or `Tables`.

        It depends on what the tables are about. ι is the inversion.
        """
        if any(run.kind == "compare" for run in self.runs):
            return "Comparison"
        return "Beside ι" if all(table.beside for table in self.tables) else "Tables"


def joined(documents: Sequence[Document], title: str) -> Document:
    """Join documents into one, in order. The markers, the forking share and the time come from the first document.

    Tables with the same title and header become one table, unless two of them have a row with the same first cell. In
    that case they stay apart, and the name of the run is added to each title.

    Raises:
        InvalidInputError: two subjects have the same label.
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
        tables=_merged(documents),
        notes=[note for document in documents for note in document.notes],
    )


def _merged(documents: Sequence[Document]) -> list[Table]:
    """Return the tables of all documents. `joined` says what becomes of tables with the same title and header."""
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[str, Table]]] = {}
    for document in documents:
        for table in document.tables:
            groups.setdefault((table.title, tuple(table.header)), []).append((document.runs[0].name, table))
    merged: list[Table] = []
    for group in groups.values():
        heads = [head for _, table in group for head in {row[0] for row in table.rows}]
        if len(set(heads)) == len(heads):
            merged.append(_one([table for _, table in group]))
        else:
            merged += [dataclasses.replace(table, title=f"{table.title} ({name})") for name, table in group]
    return merged


def _one(tables: Sequence[Table]) -> Table:
    """Join tables into one, with the rows, the links and the notes of all, in order. Equal notes are kept once."""
    links: dict[tuple[int, int], Sequence[tuple[str, str]]] = {}
    num_rows = 0
    for table in tables:
        links |= {(row + num_rows, column): pairs for (row, column), pairs in table.links.items()}
        num_rows += len(table.rows)
    return dataclasses.replace(
        tables[0],
        rows=[row for table in tables for row in table.rows],
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
        links=links,
    )
