"""Read the folder of a run as a `Document`, which is the content of a page.

The kind of the run is found from its files. An unfinished run gives a document of the part that is finished.
"""

import contextlib
import dataclasses
from pathlib import Path

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.page.building import signals_document, training_document
from antiphase.page.document import Document, Run, joined
from antiphase.page.subjects import model_labels
from antiphase.probing.series_folder import TRAJECTORY, SeriesFolder
from antiphase.probing.series_summary import CheckpointSeries, summarize_series
from antiphase.report.entries import check_run, is_comparison, is_training, read_object
from antiphase.report.unfinished import summarize_unfinished
from antiphase.runs.folder_kinds import EVALUATION, PROBE, SERIES
from antiphase.runs.run_folder import RunFolder

# The errors that occur if a file has the format of a run, but its keys, columns or values are unexpected. This happens
# if a file was edited or was written by another version.
_UNFIT = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


class NothingFinishedError(InvalidInputError):
    """The folder holds a run that has nothing to show yet.

    Args:
        path: the folder of the run.
        what: the part that is missing, such as `no batch of this run`.
        continued: whether the message says how to continue the run.
    """

    def __init__(self, path: Path, what: str, *, continued: bool = False) -> None:
        how = " Continue it: repeat its command with --resume." if continued else ""
        super().__init__(f"{str(path)!r}: {what} is finished yet.{how}")


def read_run(path: Path, *, label: str | None = None, group: str | None = None) -> Document:
    """Read a finished or unfinished run from its folder, as the content of a page.

    Args:
        path: the folder.
        label: the user's name for the run. If it is None, the run has the name of its folder.
        group: for a training run, the name that it shares with its other seeds.

    Raises:
        InvalidInputError: the folder is missing, is empty or holds no run, nothing in it is finished, or its files are
            damaged.
    """
    check_run(path)
    try:
        return _read(path, label, group)
    except AntiphaseError:
        raise
    except OSError as error:
        raise InvalidInputError(f"{str(path)!r} cannot be read ({error.strerror or error}).") from error
    except _UNFIT as error:
        raise InvalidInputError(
            f"{str(path)!r}: its files do not fit together ({repr(error)[:200]}). Make the run again."
        ) from error


def _read(path: Path, label: str | None, group: str | None) -> Document:
    """Return the page content for a run. The kind of the run is found from the files in its folder."""
    name = path.resolve().name
    if is_comparison(path):
        return _comparison(path, label or name)
    if is_training(path):
        return _training(path, label or name, group)
    if read_object(path / "config.json").get("format") == SERIES.format:
        return _checkpoints(path, name, label)
    return _signals(path, name, label)


def _signals(path: Path, name: str, label: str | None) -> Document:
    """Return the page content for the folder of a probe or an evaluation."""
    from antiphase.evaluation.evaluation_folder import EvalFolder
    from antiphase.probing.rival_tables import rival_tables

    kinds = {PROBE.format: ("probe", RunFolder), EVALUATION.format: ("eval", EvalFolder)}
    kind, owner = kinds[read_object(path / "config.json")["format"]]
    folder = owner.open(path)
    if not folder.complete:
        return _unfinished(folder, kind, name, label)
    if kind == "eval":
        from antiphase.evaluation.result import Evaluation

        return Evaluation.load(path).document(name, label)
    summary = folder.read_summary()
    tokens, rollouts = folder.read_frames()
    document = signals_document(
        kind, name, tokens, rollouts, summary, label=label, steps=folder.read_steps(),
        alternatives=folder.read_alternatives(),
    )  # fmt: skip
    names = model_labels(summary["results"], label)
    return dataclasses.replace(document, tables=rival_tables(summary["results"], names))


def _unfinished(folder: RunFolder, kind: str, name: str, label: str | None) -> Document:
    """Return the page content for the finished batches of an unfinished probe or evaluation."""
    # The run may finish a batch while its tables are read. The rollouts are read first: the tokens of this batch then
    # have no rollout and are left out.
    rollouts, tokens = folder.read_parts("rollouts"), folder.read_parts("tokens")
    if tokens is None or rollouts is None:
        raise NothingFinishedError(folder.path, "no batch of this run", continued=True)
    summary = summarize_unfinished(folder, kind, tokens, rollouts)
    count = rollouts.drop_duplicates(["model", "rollout_id"]).shape[0]
    note = (
        f"{label or name} is unfinished: this is what its {count:,} finished rollouts say, with intervals of "
        f"{summary['num_resamples']} resamples."
    )
    return signals_document(
        kind, name, tokens, rollouts, summary, label=label, steps=folder.read_parts("steps"),
        alternatives=folder.read_parts("alternatives"), finished=False, notes=[note],
    )  # fmt: skip


def _checkpoints(path: Path, name: str, label: str | None) -> Document:
    """Return the page content for a probe of checkpoints, with the checkpoints that are completely measured."""
    folder = SeriesFolder.open(path)
    if (path / TRAJECTORY).is_file():
        return CheckpointSeries.load(path).document(name, label)
    summary = {"config": folder.read_json("config.json")["config"], **summarize_series(folder)}
    if not summary["checkpoints"]:
        raise NothingFinishedError(path, "no checkpoint of this run", continued=True)
    return CheckpointSeries(summary, path).document(name, label, finished=False)


def _training(path: Path, name: str, group: str | None) -> Document:
    """Return the page content for the folder of a training run."""
    from antiphase.training.kept_folder import read_kept
    from antiphase.training.trajectory import read_times, read_trajectory

    summary = read_object(path / "summary.json") if (path / "summary.json").is_file() else None
    settings = read_object(path / "recipe.json") if (path / "recipe.json").is_file() else {}
    settings = settings or (summary or {}).get("config", {})
    rows = read_trajectory(path) if (path / "trajectory.jsonl").is_file() else []
    if not rows:
        raise NothingFinishedError(path, "no step of this training run")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("step"), int) or "kind" not in row:
            raise InvalidInputError(f"{path / 'trajectory.jsonl'}, line {number + 1}: not a row of a trajectory.")
    last = max(row["step"] for row in rows)
    notes = [] if summary is not None else [f"{name} is unfinished: this is its trajectory up to step {last}."]
    kept = read_kept(path, notes)
    times = read_times(path)
    return training_document(name, rows, settings, summary, group=group, kept=kept, times=times, notes=notes)


def _comparison(path: Path, name: str) -> Document:
    """Return the page content for a comparison: its tables, if they are there already, and its evaluations."""
    from antiphase.evaluation.comparison import Comparison
    from antiphase.evaluation.evaluation_pages import comparison_tables, rivals_tables

    finished = (path / "comparison.json").is_file()
    tables = []
    if finished:
        found = read_object(path / "comparison.json")
        comparison = Comparison(found["tasks"], found["points"], found["options"])
        tables = [*comparison_tables(comparison), *rivals_tables(comparison)]
    documents = [Document(name, [Run(name, "compare", finished)], tables=tables)]
    for folder in sorted((path / "evals").glob("*/")):
        with contextlib.suppress(NothingFinishedError):
            documents.append(read_run(folder))
    if not finished and len(documents) == 1:
        raise NothingFinishedError(path, "nothing of this comparison")
    return joined(documents, name)
