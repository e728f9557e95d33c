"""Turn a document into the JSON that the page reads, and into the packed columns that the JSON refers to.

The columns together have a size limit. The main columns (tokens, entropies, strengths) are packed first. If the main
columns of all rollouts take more than four fifths of the limit, the page keeps only some rollouts, at even distances.
If even one rollout is too long, the page keeps the beginning of this rollout. The rest of the limit is used for the
details (strengths by layer, alternatives) of some rollouts of each model. The page says which rollouts it holds. The
statistics that it reports are those of all rollouts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from antiphase.page.document import Document, Steps, Subject, Training
from antiphase.page.packing import LOGPROB_STEP, Blobs, log_coded, logprob_coded, packed, smallest_unsigned

MAX_CHARACTERS = 22_500_000
# The characters that one packed float32 takes. Measured: 5 to 6.
_CHARACTERS_PER_FLOAT = 6
# The share of the limit that the main columns may take if there are details too.
_MAIN_SHARE = 0.8
# The facts of a rollout that are true or false.
_TRUTHS = ("correct", "strict", "flexible")
_TRAJECTORY_KINDS = ("step", "eval", "probe")
# The most characters that all prompts of a model may take together. A single prompt is cut to a length between
# _SHORTEST and _LONGEST. An answer or a reference is cut to _LONGEST.
_PROMPT_CHARACTERS, _SHORTEST, _LONGEST = 2_000_000, 500, 20_000


def payload_of(document: Document, max_characters: int = MAX_CHARACTERS) -> tuple[dict[str, Any], list[str]]:
    """Turn a document into values for JSON, and into the packed columns that these values refer to.

    Args:
        document: what the page shows.
        max_characters: the most characters that the columns may take together. Empty columns may add a few more.

    Returns:
        (the values, the texts of the columns).
    """
    blobs = Blobs()
    kept, subjects = _fitting_main(document.subjects, max_characters, blobs)
    room = max(0, max_characters - blobs.size)
    total = sum(len(s.tokens) for s in document.subjects)
    for subject, own, entry in zip(document.subjects, kept, subjects, strict=True):
        share = room * len(subject.tokens) / max(1, total)
        entry.update(_fitting_details(subject, own, share, blobs))
    values = {
        "title": document.title,
        "markers": list(document.markers),
        "forkingShare": document.forking_share,
        "runs": [{"name": run.name, "kind": run.kind} for run in document.runs],
        "subjects": subjects,
        "trainings": [_training(training) for training in document.trainings],
        "vocabulary": list(blobs.words),
    }
    return finite(values), blobs.texts


@dataclass(frozen=True)
class _Kept:
    """The rollouts and tokens that the page keeps of one subject (a model, on one task in an evaluation).

    Args:
        rollouts: the indices of the rollouts.
        longest: how many tokens of each rollout are kept, from its beginning; None keeps all of them.
    """

    rollouts: np.ndarray
    longest: int | None = None

    def counts(self, subject: Subject) -> np.ndarray:
        """Return the number of kept tokens of each kept rollout."""
        lengths: np.ndarray = np.diff(subject.starts)[self.rollouts]
        return lengths if self.longest is None else np.minimum(lengths, self.longest)

    def tokens(self, subject: Subject) -> np.ndarray:
        """Return the indices of the kept tokens."""
        return _places(subject.starts[self.rollouts], self.counts(subject))


def _places(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return, for each start, as many consecutive indices as its count says, all in one array.

    >>> _places(np.array([0, 10]), np.array([2, 3])).tolist()
    [0, 1, 10, 11, 12]
    """
    parts = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _fitting_main(
    subjects: Sequence[Subject], max_characters: int, blobs: Blobs
) -> tuple[list[_Kept], list[dict[str, Any]]]:
    """Pack the main columns of as many rollouts as fit into the limit.

    Args:
        subjects: the models or checkpoints with their rollouts.
        max_characters: the most characters that all columns of the page may take together.
        blobs: the packed columns, to which the columns are added.

    Returns:
        For each subject, the rollouts and tokens that are kept; and for each subject, its entry in the JSON.
    """
    detailed = any(subject.cells or subject.alternatives is not None for subject in subjects)
    room = max_characters * (_MAIN_SHARE if detailed else 1)
    needed = sum(len(s.tokens) * _CHARACTERS_PER_FLOAT * (3 + len(s.strengths)) for s in subjects)
    # Only packing shows how well a column compresses, so up to twice the estimated room is tried first.
    share = min(1.0, 2 * room / max(1, needed))
    while True:
        kept = [_kept(subject, share) for subject in subjects]
        entries = [_main(subject, own, blobs) for subject, own in zip(subjects, kept, strict=True)]
        holding = any(own.counts(subject).any() for subject, own in zip(subjects, kept, strict=True))
        if blobs.size <= room or not holding:
            return kept, entries
        share *= 0.97 * room / blobs.size
        blobs.forget()


def _kept(subject: Subject, share: float) -> _Kept:
    """Choose which rollouts of a subject (a model with its rollouts) the page keeps.

    `share` is the share of the rollouts to keep, which are taken at even distances. If this is less than one rollout,
    only the beginning of the first one is kept.
    """
    number = len(subject.rollouts)
    if share >= 1 or number == 0:
        return _Kept(np.arange(number))
    if number * share >= 1:
        return _Kept(evenly(number, int(number * share)))
    return _Kept(np.zeros(1, dtype=np.int64), int(share * len(subject.tokens)))


def evenly(number: int, kept: int) -> np.ndarray:
    """Choose `kept` evenly spaced indices out of `number`.

    >>> evenly(5, 2).tolist()
    [0, 2]
    """
    return np.unique(np.arange(min(kept, number)) * number // max(1, min(kept, number)))


def _main(subject: Subject, kept: _Kept, blobs: Blobs) -> dict[str, Any]:
    """Add the main columns of the kept rollouts to `blobs`, and return what the JSON holds of this subject.

    The main columns hold tokens, entropies, log-probabilities, strengths and steps.
    """
    chosen, counts = kept.tokens(subject), kept.counts(subject)
    tokens = subject.tokens.iloc[chosen]
    rollouts = subject.rollouts.iloc[kept.rollouts]
    prompts = list(dict.fromkeys(rollouts.prompt.astype(str))) if "prompt" in rollouts else []
    numbers = {text: number for number, text in enumerate(prompts)}
    longest = max(_SHORTEST, min(_LONGEST, _PROMPT_CHARACTERS // max(1, len(prompts))))
    cut = np.diff(subject.starts)[kept.rollouts] - counts
    return {
        "label": subject.label,
        "run": subject.run,
        "rewardUnit": subject.reward_unit,
        "readings": [dict(reading) for reading in subject.readings],
        "numRollouts": len(subject.rollouts),
        "prompts": [_clipped(text, longest) for text in prompts],
        "rollouts": [
            _rollout(row, numbers, int(lacking)) for row, lacking in zip(rollouts.to_dict("records"), cut, strict=True)
        ],
        "correlations": {name: values[kept.rollouts].tolist() for name, values in subject.correlations.items()},
        "byUnit": {
            column: {name: blobs.add(values[kept.rollouts]) for name, values in found.items()}
            for column, found in subject.by_unit.items()
        },
        "steps": None if subject.steps is None else _steps(subject.steps, kept.rollouts, blobs),
        "starts": [0, *counts.cumsum().tolist()],
        "token": blobs.add_words(tokens.token),
        "entropy": blobs.add(tokens.entropy.to_numpy(dtype=np.float32)),
        "logprob": blobs.add(tokens.logprob.to_numpy(dtype=np.float32)),
        "spaced": blobs.add(tokens.spaced.to_numpy(dtype=np.uint8)),
        "strengths": {name: blobs.add(values[chosen]) for name, values in subject.strengths.items()},
    }


def _steps(steps: Steps, rollouts: np.ndarray, blobs: Blobs) -> dict[str, Any]:
    """Pack all steps of these rollouts into `blobs`, and return the part of the JSON that refers to them.

    All steps of a rollout are packed, even if the page holds only the beginning of the rollout.
    """
    counts = np.diff(steps.starts)[rollouts]
    chosen = _places(steps.starts[rollouts], counts)
    return {
        "starts": [0, *counts.cumsum().tolist()],
        "start": blobs.add(smallest_unsigned(steps.start[chosen])),
        "tokens": blobs.add(smallest_unsigned(steps.num_tokens[chosen])),
        "position": blobs.add(steps.position[chosen]),
        "entropy": {name: blobs.add(values[chosen]) for name, values in steps.entropies.items()},
        "strength": {name: blobs.add(values[chosen]) for name, values in steps.strengths.items()},
    }


def _clipped(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} […{len(text) - longest:,} more characters]"


def _rollout(row: Mapping[Any, Any], prompts: Mapping[str, int], cut: int) -> dict[str, Any]:
    """Return what the page shows of a rollout besides its tokens: its prompt, verdict, length and so on.

    `cut` is the number of tokens that the page leaves out at the end of the rollout.
    """
    found = {"id": str(row["rollout_id"]), "prompt": prompts.get(str(row.get("prompt"))), "finish": row.get("finish")}
    if cut:
        found["cut"] = cut
    if row.get("num_thought_tokens"):
        found["thought"] = int(row["num_thought_tokens"])
    if row.get("kept") is not None:
        found["kept"] = row["kept"]
    for name in ("correct", "outcome", "reason", "answer", "reference", "strict", "flexible"):
        value = row.get(name)
        if value is not None and not (isinstance(value, float) and math.isnan(value)) and value is not pd.NA:
            found[name] = bool(value) if name in _TRUTHS else _clipped(str(value), _LONGEST)
    return found


def _fitting_details(subject: Subject, kept: _Kept, share: float, blobs: Blobs) -> dict[str, Any]:
    """Add the details of as many rollouts as fit into `share` characters to `blobs`.

    The details are the strengths by layer and the alternatives of each token. The result is the part of the subject's
    entry in the JSON that refers to these columns.
    """
    number = len(kept.rollouts)
    if not subject.cells and subject.alternatives is None:
        return {"detailed": []}
    trial = _Kept(kept.rollouts[evenly(number, 4)], kept.longest).tokens(subject)
    spent = sum(len(packed(log_coded(values[trial])[0].T)) for values in subject.cells.values())
    if subject.alternatives is not None:
        spent += trial.size * subject.alternatives[0].shape[1] * _CHARACTERS_PER_FLOAT
    fitting = 0.9 * share / max(1.0, spent / max(1, trial.size))  # tokens
    mean_length = max(1.0, kept.counts(subject).sum() / max(1, number))
    places = evenly(number, int(fitting / mean_length))
    before, held = blobs.size, (len(blobs.texts), len(blobs.words))
    while len(places):
        found = _details(subject, _Kept(kept.rollouts[places], kept.longest), blobs)
        spent = blobs.size - before
        if spent <= share:
            return {"detailed": places.tolist(), **found}
        places = evenly(number, min(len(places) - 1, int(0.9 * len(places) * share / spent)))
        blobs.forget(*held)
    return {"detailed": []}


def _details(subject: Subject, kept: _Kept, blobs: Blobs) -> dict[str, Any]:
    """Add the details (strengths by layer, alternatives) of the kept rollouts to `blobs`.

    The result is the part of the JSON that refers to these columns.
    """
    chosen = kept.tokens(subject)
    found: dict[str, Any] = {"cells": {}}
    for name, values in subject.cells.items():
        levels, low, high = log_coded(values[chosen])
        found["cells"][name] = {"low": low, "high": high, **blobs.add(levels.T)}
    if subject.alternatives is not None:
        texts, logprobs = (column[chosen] for column in subject.alternatives)
        found["alternatives"] = {
            "count": int(texts.shape[1]),
            "step": LOGPROB_STEP,
            "token": blobs.add_words(texts.ravel()),
            "logprob": blobs.add(logprob_coded(logprobs)),
        }
    return found


def _training(training: Training) -> dict[str, Any]:
    """Return a trajectory as columns for JSON, for each kind of row (`step`, `eval`, `probe`, `alarm`).

    The columns that hold no number are left out; the key `undefined` of the result lists their names.
    """
    found: dict[str, Any] = {"label": training.label, "group": training.group, "run": training.run, "undefined": []}
    for kind in _TRAJECTORY_KINDS:
        rows = [row for row in training.rows if row.get("kind") == kind]
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [_number(row.get(name)) for row in rows] for name in names if name not in ("kind", "step")}
        found[kind] = {
            "step": [row["step"] for row in rows],
            **{name: column for name, column in columns.items() if any(value is not None for value in column)},
        }
        found["undefined"] += [name for name in columns if name not in found[kind]]
    # A `step` row is written before its optimizer step, and every other row after it.
    done = max((row["step"] + (row.get("kind") == "step") for row in training.rows), default=0)
    found["steps"] = done if training.num_steps is None else training.num_steps
    found["alarms"] = [row["step"] for row in training.rows if row.get("kind") == "alarm"]
    return found


def _number(value: Any) -> float | None:
    """Return a value as a float; None if it is not a number, or is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, and with Python numbers in place of NumPy ones."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
