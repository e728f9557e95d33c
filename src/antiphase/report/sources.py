"""A run's folder as a document: which kind it is, what it holds so far, or what is wrong with it."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.page.building import signals_document, training_document
from antiphase.page.document import Document, Run, joined
from antiphase.probing.run_folder import FORMAT as PROBE_FORMAT
from antiphase.probing.run_folder import RunFolder
from antiphase.probing.series_folder import FORMAT as SERIES_FORMAT
from antiphase.probing.series_folder import TRAJECTORY, SeriesFolder
from antiphase.probing.series_summary import CheckpointSeries, summarize_series
from antiphase.report.unfinished import summarize_unfinished

KINDS = "a probe, an evaluation, a comparison or a training run"
# What files of ours in form raise whose keys, columns or values are others: edited, or of a version in between.
_UNFIT = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


class NothingFinishedError(InvalidInputError):
    """A run of ours that has nothing to show yet."""


def read_run(path: Path, *, label: str | None = None, group: str | None = None) -> Document:
    """What a run's folder holds, finished or not.

    Args:
        path: of the folder.
        label: what the user calls the run.
        group: of a training run: the name that its seeds share.

    Raises:
        InvalidInputError: no folder, an empty or a foreign one, one without anything finished, or damaged files.
    """
    if not os.path.exists(path):
        raise InvalidInputError(f"{str(path)!r} does not exist. Name the folder of {KINDS}.")
    if not path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a file. Name the folder of {KINDS}.")
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
    name = path.resolve().name
    if (path / "comparison.json").is_file() or any((path / "evals").glob("*/config.json")):
        return _comparison(path, label or name)
    if (path / "trajectory.jsonl").is_file() or (path / "recipe.json").is_file():
        return _training(path, label or name, group)
    if (path / "config.json").is_file():
        if read_object(path / "config.json").get("format") == SERIES_FORMAT:
            return _checkpoints(path, name, label)
        return _signals(path, name, label)
    raise InvalidInputError(f"{str(path)!r} {_foreign(path)}")


def _foreign(path: Path) -> str:
    if not any(path.iterdir()):
        return f"is empty. Name the folder of {KINDS}."
    if (path / "study.json").is_file() or (path / "cells.jsonl").is_file():
        return "is the folder of a study, whose report is report.md. Name the evaluations or training runs in it."
    if (path / "summary.json").is_file():
        return "holds a summary.json, but not the config.json or trajectory.jsonl of a run. Was it copied in part?"
    return f"is not the folder of a run. Name the folder of {KINDS}."


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InvalidInputError: it cannot be read, or is none.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def _signals(path: Path, name: str, label: str | None) -> Document:
    from antiphase.evaluation.evaluation_folder import FORMAT as EVAL_FORMAT
    from antiphase.evaluation.evaluation_folder import EvalFolder

    marker = read_object(path / "config.json")
    if "model_type" in marker or "architectures" in marker:
        raise InvalidInputError(f"{str(path)!r} is a saved model. Probe it first: antiphase probe {path}.")
    kinds = {PROBE_FORMAT: ("probe", RunFolder), EVAL_FORMAT: ("eval", EvalFolder)}
    if marker.get("format") not in kinds:
        raise InvalidInputError(f"{str(path)!r} is not the folder of a run. Name the folder of {KINDS}.")
    kind, owner = kinds[marker["format"]]
    folder = owner.open(path)
    if not folder.complete:
        return _unfinished(folder, kind, name, label)
    summary = folder.read_summary()
    tokens, rollouts = folder.read_frames()
    return signals_document(
        kind, name, tokens, rollouts, summary, label=label, steps=folder.read_steps(),
        alternatives=folder.read_alternatives(),
    )  # fmt: skip


def _unfinished(folder: RunFolder, kind: str, name: str, label: str | None) -> Document:
    # Rollouts first: a batch that is finished meanwhile then has tokens without rollouts, which are left out.
    rollouts, tokens = folder.read_parts("rollouts"), folder.read_parts("tokens")
    if tokens is None or rollouts is None:
        raise NothingFinishedError(
            f"{str(folder.path)!r}: no batch of this run is finished yet. Continue it: repeat its command with "
            "--resume."
        )
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
    """The checkpoints that were measured to their end."""
    folder = SeriesFolder.open(path)
    if (path / TRAJECTORY).is_file():
        return CheckpointSeries.load(path).document(name, label)
    summary = {"config": folder.read_json("config.json")["config"], **summarize_series(folder)}
    if not summary["checkpoints"]:
        raise NothingFinishedError(
            f"{str(path)!r}: no checkpoint of this run is finished yet. Continue it: repeat its command with --resume."
        )
    return CheckpointSeries(summary, path).document(name, label, finished=False)


def _training(path: Path, name: str, group: str | None) -> Document:
    from antiphase.training.trajectory import read_trajectory

    settings = read_object(path / "recipe.json") if (path / "recipe.json").is_file() else {}
    summary = read_object(path / "summary.json") if (path / "summary.json").is_file() else None
    if not (path / "trajectory.jsonl").is_file():
        raise NothingFinishedError(f"{str(path)!r}: no step of this training run is finished yet.")
    rows = read_trajectory(path)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("step"), int) or "kind" not in row:
            raise InvalidInputError(f"{path / 'trajectory.jsonl'}, line {number + 1}: not a row of a trajectory.")
    if not rows:
        raise NothingFinishedError(f"{str(path)!r}: no step of this training run is finished yet.")
    if not settings and summary is not None:
        settings = summary.get("config", {})
    last = max(row["step"] for row in rows)
    notes = [] if summary is not None else [f"{name} is unfinished: this is its trajectory up to step {last}."]
    return training_document(name, rows, settings, summary, group=group, notes=notes)


def _comparison(path: Path, name: str) -> Document:
    """The tables, if the comparison is made, with the evaluations of its models."""
    from antiphase.evaluation.comparison import Comparison
    from antiphase.evaluation.evaluation_pages import comparison_tables

    finished = (path / "comparison.json").is_file()
    document = Document(name, [Run(name, "compare", finished)])
    if finished:
        found = read_object(path / "comparison.json")
        comparison = Comparison(found["tasks"], found["points"], found["options"])
        document = Document(name, document.runs, tables=comparison_tables(comparison))
    documents = [document]
    for folder in sorted((path / "evals").glob("*/")):
        with contextlib.suppress(NothingFinishedError):
            documents.append(read_run(folder))
    if not finished and len(documents) == 1:
        raise NothingFinishedError(f"{str(path)!r}: nothing of this comparison is finished yet.")
    return joined(documents, name)
