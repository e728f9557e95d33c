"""Find the checkpoints of one training, in a trainer's output folder or in a list of directories and hub revisions.

No model is loaded here: only the names and the files of checkpoints are checked. `family` checks whether the
checkpoints can come from one training.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.models.demo import DEMO
from antiphase.models.gguf import is_gguf
from antiphase.models.saved import (
    check_saved,
    has_config,
    has_weights,
    saved_digest,
    saved_step,
    step_in,
    summary_step,
    trainer_step,
)

_LOOKED_FOR = "folders named checkpoint-N, and no saved model (config.json or adapter_config.json)"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FOLDER = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a training.

    Args:
        name: a directory or a hub id, as `load_model` takes it.
        revision: the revision on the hub; None for a directory or the default revision.
        label: the name of the checkpoint in tables, such as `checkpoint-200`, `final` or `step1000`.
        step: the training step of the checkpoint, or its index in the list if the training steps are not known.
    """

    name: str
    revision: str | None
    label: str
    step: int


@dataclass(frozen=True)
class Found:
    """The checkpoints of one training, in order.

    Args:
        checkpoints: the checkpoints in ascending order of their steps. No two have the same step.
        numbered: whether the field `step` of each checkpoint is its training step. If not, `step` is the index in the
            list.
        notes: sentences that say which checkpoints were left out and why, or how the steps were counted.
    """

    checkpoints: tuple[Checkpoint, ...]
    numbered: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Item:
    """A checkpoint of a list. Its step is None as long as the step is unknown."""

    name: str
    revision: str | None
    label: str
    step: int | None


def find_checkpoints(what: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Found:
    """Find the checkpoints that a user names.

    Args:
        what: one name; or several, as a list or as one text with commas. A name is a trainer's output folder, a
            directory of a saved model, `HUB-ID@REVISION`, a hub id, or `demo`. An output folder stands for the
            checkpoints in its `checkpoint-N` folders. If the folder itself also holds a model of a later step, this
            model is the last checkpoint.

    Returns:
        The checkpoints in the order of their steps. A step is read from the name, from `trainer_state.json` or from
        the revision. If only the step of the first checkpoint is not known, and no other step is 0, the first step
        is 0. With any other unknown step, all keep the order of the list, and the steps are 0, 1, 2, ….

    Raises:
        InvalidInputError: a folder is empty or contains no checkpoint, a checkpoint is a GGUF file, a revision is
            given for a local directory, a checkpoint is named twice, or two checkpoints have the same step.
        ModelNotFoundError: a checkpoint lacks its configuration, weights or tokenizer.
    """
    given = _given(what)
    alone = len(given) == 1 and isinstance(what, str | os.PathLike)
    notes: list[str] = []
    items: list[_Item] = []
    for text in given:
        items += _expanded(text, notes, alone=alone)
    _check_distinct(items)
    for item in items:
        if item.revision is None and Path(item.name).is_dir():
            check_saved(Path(item.name))
    return _in_order(items, notes)


def _given(what: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    if isinstance(what, str | os.PathLike):
        text = os.fspath(what)
        # A comma may also be part of the name of one folder.
        given = [text] if os.path.isdir(text) else [part.strip() for part in text.split(",")]
    else:
        given = [os.fspath(part) for part in what]
    if not given or not all(given):
        raise InvalidInputError(
            "name a trainer's output folder, or several checkpoints separated by commas; got an empty name."
        )
    return given


def _expanded(text: str, notes: list[str], *, alone: bool) -> list[_Item]:
    """Return the checkpoints that one name stands for, and add sentences for the user to `notes`.

    `alone` says whether the user gave only this name.
    """
    path = Path(text)
    if path.is_dir():
        return _of_folder(path, notes, alone=alone)
    if is_gguf(text):
        raise InvalidInputError(
            f"{text!r} is a GGUF file, which does not say at which step of a training it was saved, so it cannot be "
            "one of the checkpoints. Measure GGUF files as models: antiphase probe A.gguf B.gguf."
        )
    if path.exists():
        raise InvalidInputError(f"{text!r} is a file. Name a folder with checkpoints.")
    name, at, revision = text.rpartition("@")
    if at:
        if Path(name).is_dir():
            raise InvalidInputError(
                f"{text!r}: {name!r} is a local directory, which has no revisions. A revision belongs to a hub id."
            )
        if not revision or not _HUB_ID.fullmatch(name):
            raise InvalidInputError(f"{text!r}: expected HUB-ID@REVISION, such as EleutherAI/pythia-70m@step1000.")
        return [_Item(name, revision, revision, step_in(revision))]
    if alone:
        raise InvalidInputError(
            f"there is no folder {text!r}. Name a trainer's output folder, or several checkpoints separated by commas."
        )
    if text != DEMO and not _HUB_ID.fullmatch(text):
        raise InvalidInputError(
            f"there is no folder {text!r}, and it is no hub id either. Give folders, HUB-ID@REVISION or demo, "
            "separated by commas."
        )
    return [_Item(text, None, text, None)]


def _of_folder(path: Path, notes: list[str], *, alone: bool) -> list[_Item]:
    numbers = {int(match[1]): child for child in path.iterdir() if (match := _FOLDER.fullmatch(child.name))}
    if not numbers:
        if not any(path.iterdir()):
            raise InvalidInputError(f"{str(path)!r} is empty: it has no {_LOOKED_FOR}.")
        if not has_config(path):
            raise InvalidInputError(f"{str(path)!r} holds no checkpoint: it has no {_LOOKED_FOR}.")
        if alone:
            raise InvalidInputError(
                f"{str(path)!r} is a saved model without folders named checkpoint-N. To measure it alone: antiphase "
                f"probe {path}; or name several, separated by commas."
            )
        return [_Item(str(path), None, path.resolve().name, saved_step(path))]
    items = [_Item(str(child), None, child.name, number) for number, child in sorted(numbers.items())]
    return items + _final(path, items[-1], notes)


def _final(path: Path, last: _Item, notes: list[str]) -> list[_Item]:
    """Return the model that lies in the trainer's folder itself, as a list of one checkpoint.

    The list is empty if the folder has no model, or if the model has the same step or the same weights as `last`. If
    the step of the model is not known or below that of `last`, the list is empty too, and a sentence about it is added
    to `notes`.

    Args:
        path: the trainer's folder.
        last: the checkpoint in the folder with the highest step.
        notes: sentences for the user.
    """
    if not (has_config(path) and has_weights(path)):
        return []
    assert last.step is not None
    step = trainer_step(path)
    step = summary_step(path) if step is None else step
    # A trainer saves the model in its folder after its last step.
    step = trainer_step(Path(last.name), "max_steps") if step is None else step
    if step == last.step or saved_digest(str(path)) == saved_digest(last.name):
        return []
    if step is None or step < last.step:
        notes.append(
            f"the model in {str(path)!r} itself is left out, since its step is not known; name it in a list to "
            "include it."
        )
        return []
    return [_Item(str(path), None, "final", step)]


def _check_distinct(items: Iterable[_Item]) -> None:
    seen: dict[tuple[str, str | None], str] = {}
    for item in items:
        path = Path(item.name)
        key = (str(path.resolve()) if path.is_dir() else item.name, item.revision)
        named = item.name if item.revision is None else f"{item.name}@{item.revision}"
        if key in seen:
            raise InvalidInputError(f"the checkpoint {named!r} is named twice.")
        seen[key] = named


def _in_order(items: list[_Item], notes: list[str]) -> Found:
    """Return the checkpoints sorted by their steps.

    If only the step of the first checkpoint is not known, and no other step is 0, the first step is set to 0. With any
    other unknown step, the checkpoints keep the given order and are numbered from 0.
    """
    first, *others = items
    if first.step is None and others and all(item.step is not None and item.step > 0 for item in others):
        items = [dataclasses.replace(first, step=0), *others]  # The first one is the model before the training.
    unknown = [item for item in items if item.step is None]
    if unknown:
        if len(items) > 1:
            notes.append(
                f"steps are places in the list, since {unknown[0].label!r} carries no number of a step in its name."
            )
        placed = [Checkpoint(item.name, item.revision, item.label, place) for place, item in enumerate(items)]
        return Found(tuple(_labelled(placed)), False, tuple(notes))
    known = [Checkpoint(i.name, i.revision, i.label, i.step) for i in items if i.step is not None]
    known.sort(key=lambda checkpoint: checkpoint.step)
    for left, right in itertools.pairwise(known):
        if left.step == right.step:
            raise InvalidInputError(
                f"{left.name!r} and {right.name!r} are both of step {left.step}; give one checkpoint for each step."
            )
    return Found(tuple(_labelled(known)), True, tuple(notes))


def _labelled(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints with distinct labels. Checkpoints with the same label get their whole name as label."""
    labels = [checkpoint.label for checkpoint in checkpoints]
    return [
        checkpoint
        if labels.count(checkpoint.label) == 1
        else dataclasses.replace(
            checkpoint, label=checkpoint.name + ("" if checkpoint.revision is None else f"@{checkpoint.revision}")
        )
        for checkpoint in checkpoints
    ]
