"""A document as the JSON that the page reads, with its packed columns.

The file has a size limit. Main columns of all rollouts come first; if even they are too many, evenly spaced rollouts
are kept. What room is left goes to details (layer by layer strengths, alternatives), for evenly spaced rollouts of
each subject. The page says what it holds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from antiphase.page.document import Document, Subject, Training
from antiphase.page.packing import LOGPROB_STEP, Blobs, log_coded, logprob_coded, packed, smallest_unsigned

MAX_CHARACTERS = 22_500_000
# Of the columns of one token, deflated, in base64: measured 5 to 6 characters a float32.
_CHARACTERS_PER_FLOAT = 6
_TRAJECTORY_KINDS = ("step", "eval", "probe")


def payload_of(document: Document, max_characters: int = MAX_CHARACTERS) -> tuple[dict[str, Any], list[str]]:
    """The document as JSON-ready values, and the packed columns that it refers to.

    Args:
        document: to be shown.
        max_characters: what columns may take together.

    Returns:
        (values, texts of the columns).
    """
    words = _Vocabulary()
    blobs = Blobs()
    rows = [_kept_rollouts(document.subjects, subject, max_characters) for subject in document.subjects]
    subjects = [_main(s, kept, words, blobs) for s, kept in zip(document.subjects, rows, strict=True)]
    room = max(0, max_characters - blobs.size)
    total = sum(len(s.tokens) for s in document.subjects)
    for subject, kept, entry in zip(document.subjects, rows, subjects, strict=True):
        share = room * len(subject.tokens) / max(1, total)
        entry.update(_details(subject, kept, share, words, blobs))
    values = {
        "title": document.title,
        "created": document.created,
        "markers": list(document.markers),
        "forkingShare": document.forking_share,
        "runs": [{"name": run.name, "kind": run.kind} for run in document.runs],
        "subjects": subjects,
        "trainings": [_training(training) for training in document.trainings],
        "tables": [{"title": t.title, "header": t.header, "rows": t.rows} for t in document.tables],
        "vocabulary": words.texts,
    }
    return finite(values), blobs.texts


class _Vocabulary:
    """Distinct texts, numbered in order of first use."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def places(self, texts: Sequence[str]) -> np.ndarray:
        known = self._places
        return np.fromiter((known.setdefault(text, len(known)) for text in texts), dtype=np.int64, count=len(texts))

    @property
    def texts(self) -> list[str]:
        return list(self._places)


def _kept_rollouts(subjects: Sequence[Subject], subject: Subject, max_characters: int) -> np.ndarray:
    """Rollouts whose tokens the page holds: all, or evenly spaced ones where all would not fit."""
    needed = sum(len(s.tokens) * _CHARACTERS_PER_FLOAT * (3 + len(s.strengths)) for s in subjects)
    number = len(subject.rollouts)
    if needed <= 0.8 * max_characters:
        return np.arange(number)
    return evenly(number, max(1, int(number * 0.8 * max_characters / needed)))


def evenly(number: int, kept: int) -> np.ndarray:
    """`kept` of `number` places, evenly spaced.

    >>> evenly(5, 2).tolist()
    [0, 2]
    """
    return np.unique(np.arange(min(kept, number)) * number // max(1, min(kept, number)))


def _places(subject: Subject, rollouts: np.ndarray) -> np.ndarray:
    parts = [np.arange(subject.starts[i], subject.starts[i + 1]) for i in rollouts]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _main(subject: Subject, kept: np.ndarray, words: _Vocabulary, blobs: Blobs) -> dict[str, Any]:
    chosen = _places(subject, kept)
    tokens = subject.tokens.iloc[chosen]
    rollouts = subject.rollouts.iloc[kept]
    prompts = list(dict.fromkeys(rollouts.prompt.astype(str))) if "prompt" in rollouts else []
    numbers = {text: number for number, text in enumerate(prompts)}
    counts = np.diff(subject.starts)[kept]
    return {
        "label": subject.label,
        "run": subject.run,
        "readings": [dict(reading) for reading in subject.readings],
        "numRollouts": len(subject.rollouts),
        "prompts": prompts,
        "rollouts": [_rollout(row, numbers) for row in rollouts.to_dict("records")],
        "correlations": {name: values[kept].tolist() for name, values in subject.correlations.items()},
        "starts": [0, *counts.cumsum().tolist()],
        "token": blobs.add(smallest_unsigned(words.places(tokens.token.tolist()))),
        "entropy": blobs.add(tokens.entropy.to_numpy(dtype=np.float32)),
        "logprob": blobs.add(tokens.logprob.to_numpy(dtype=np.float32)),
        "spaced": blobs.add(tokens.spaced.to_numpy(dtype=np.uint8)),
        "strengths": {name: blobs.add(values[chosen]) for name, values in subject.strengths.items()},
    }


def _rollout(row: Mapping[Any, Any], prompts: Mapping[str, int]) -> dict[str, Any]:
    found = {"id": str(row["rollout_id"]), "prompt": prompts.get(str(row.get("prompt"))), "finish": row.get("finish")}
    for name in ("correct", "outcome", "answer", "reference"):
        value = row.get(name)
        if value is not None and not (isinstance(value, float) and math.isnan(value)) and value is not pd.NA:
            found[name] = bool(value) if name == "correct" else str(value)
    return found


def _details(subject: Subject, kept: np.ndarray, share: float, words: _Vocabulary, blobs: Blobs) -> dict[str, Any]:
    """Layer by layer strengths and alternatives of as many rollouts as fit into `share` characters."""
    if (not subject.cells and subject.alternatives is None) or not len(kept):
        return {"detailed": []}
    trial = _places(subject, evenly(len(kept), 4))
    spent = sum(len(packed(log_coded(values[trial])[0].T)) for values in subject.cells.values())
    if subject.alternatives is not None:
        spent += trial.size * subject.alternatives[0].shape[1] * _CHARACTERS_PER_FLOAT
    fitting = int(0.9 * share / max(1.0, spent / max(1, trial.size)))  # tokens
    mean_length = max(1.0, len(_places(subject, kept)) / len(kept))
    places = evenly(len(kept), int(min(len(kept), fitting / mean_length)))
    if not len(places):
        return {"detailed": []}
    chosen = _places(subject, kept[places])
    found: dict[str, Any] = {"detailed": places.tolist(), "cells": {}}
    for name, values in subject.cells.items():
        levels, low, high = log_coded(values[chosen])
        found["cells"][name] = {"low": low, "high": high, **blobs.add(levels.T)}
    if subject.alternatives is not None:
        texts, logprobs = (column[chosen] for column in subject.alternatives)
        found["alternatives"] = {
            "count": int(texts.shape[1]),
            "step": LOGPROB_STEP,
            "token": blobs.add(smallest_unsigned(words.places(texts.ravel().tolist()))),
            "logprob": blobs.add(logprob_coded(logprobs)),
        }
    return found


def _training(training: Training) -> dict[str, Any]:
    """A trajectory by kind of row, as columns."""
    found: dict[str, Any] = {"label": training.label, "group": training.group, "run": training.run}
    for kind in _TRAJECTORY_KINDS:
        rows = [row for row in training.rows if row.get("kind") == kind]
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [_number(row.get(name)) for row in rows] for name in names if name not in ("kind", "step")}
        found[kind] = {
            "step": [row["step"] for row in rows],
            **{name: column for name, column in columns.items() if any(value is not None for value in column)},
        }
    found["alarms"] = [row["step"] for row in training.rows if row.get("kind") == "alarm"]
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, and plain numbers for NumPy's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
