"""Run the cells of the study: train, measure at each checkpoint, and store the numbers at once.

A cell that was stopped goes on from its last checkpoint, in the work folder. What the cell stores is bitwise the same
as without the stop.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from answers_sft import Training
from checkpoint_measures import (
    Materials,
    is_measured_on_texts,
    materials_of,
    measure_checkpoint,
    measure_full,
    sets_of,
)
from corpora import Answer, Corpus, digest_of
from emergence_budget import check_stored, is_done, note_seconds
from emergence_settings import UNTRAINED, Cell, Settings

from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel, inspect_model, load_model, resolve_device
from antiphase.models.weights import weights_digest
from antiphase.runs.folder_lock import InUseError, locked
from antiphase.runs.versions import commit, versions
from antiphase.training.out_folder import write_whole

FORMAT = 1


class Study:
    """A study in its folder. Everything that can be wrong is checked before a model is loaded.

    Args:
        settings: the settings.
        out: the folder of the results.
        work: the folder of the checkpoints of unfinished trainings.
        say: a function that prints one line.

    Raises:
        AntiphaseError: a corpus cannot be read or is too small, the model does not exist, or the folder holds the
            results of other settings.
    """

    def __init__(self, settings: Settings, out: Path, work: Path, say: Callable[[str], None] = print) -> None:
        self.settings, self.out, self.work, self._say = settings, out, work, say
        self._commit = commit()
        check_stored(settings, out)

    @cached_property
    def _skeleton_tokenizer(self) -> Any:
        return inspect_model(self.settings.model)[1]

    @cached_property
    def materials(self) -> Materials:
        """What every checkpoint is measured on."""
        return materials_of(self.settings, self._skeleton_tokenizer)

    def answers(self, corpus: str) -> list[Answer]:
        """Return the training part of a corpus.

        Raises:
            InvalidInputError: the corpus cannot be read, or has no answer that is long enough.
        """
        tokens = int(self.settings.train["answer_tokens"])
        held_out, longest = self.settings.held_out, self.settings.train["prompt_tokens"]
        found = Corpus(corpus, self._skeleton_tokenizer, held_out, longest).answers(
            held_out=False, num_tokens=tokens, least=self.settings.least_tokens(corpus, tokens)
        )
        if not found:
            raise InvalidInputError(
                f"{corpus}: no answer of the training part has enough tokens. Lower answer_tokens or least_tokens, or "
                "raise prompt_tokens."
            )
        return found

    def check(self, cells: list[Cell]) -> None:
        """Read everything that the cells need, except the model's weights.

        Raises:
            AntiphaseError: as the class says.
        """
        resolve_device(self.settings.device)
        data = {cell.corpus: self.data(cell.corpus) for cell in cells}
        for cell in self.settings.cells():
            for step in cell.steps:
                if cell.corpus in data and is_done(self.out, cell, step):
                    _check_data(self.out / "cells" / cell.file(step), data[cell.corpus])

    def data(self, corpus: str) -> dict[str, str | None]:
        """Return digests of what a cell is measured on, and of what it is trained on."""
        texts = [answer for answers in self.materials.texts.values() for answer in answers]
        trained = None if corpus == UNTRAINED else digest_of(self.answers(corpus))
        return {"texts": digest_of(texts), "answers": trained}

    def is_done(self, cell: Cell) -> bool:
        """Return whether everything of a cell is stored."""
        return all(is_done(self.out, cell, step) for step in cell.steps)

    def run(self, cells: list[Cell]) -> None:
        """Run what is left of the cells, one after another. A cell that another process runs is left to it."""
        for cell in self.settings.cells():
            if self.is_done(cell):  # A kill at the very end of a cell leaves its checkpoint, of 1.6 GB.
                shutil.rmtree(self.work / cell.name, ignore_errors=True)
        for cell in cells:
            if self.is_done(cell):
                continue
            (self.out / "cells").mkdir(parents=True, exist_ok=True)
            try:
                with locked(self.out / "cells" / f".{cell.name}.lock", f"the cell {cell.name} is run"):
                    # Another process may have finished it a moment ago.
                    if not self.is_done(cell):
                        self._run(cell)
            except InUseError as error:
                self._say(str(error))

    def _run(self, cell: Cell) -> None:
        """Run what is left of one cell, whose lock is held."""
        loaded = load_model(self.settings.model, dtype="float32", device=self.settings.device)
        if loaded.device.type == "cpu":
            torch.set_num_threads(self.settings.threads)
        if cell.corpus == UNTRAINED:
            self._measure(cell, 0, loaded, None)
            return
        training = Training(loaded, self.answers(cell.corpus), self.settings.train, cell.seed)
        kept = self.work / cell.name / "checkpoint.pt"
        key = json.dumps([self.settings.stored(), cell.corpus, cell.seed, self.data(cell.corpus)], sort_keys=True)
        if kept.is_file():
            training.load(kept, key)
        for before, step in zip((0, *cell.steps), cell.steps, strict=False):
            if training.step > step:
                continue
            began, first = time.monotonic(), training.step
            while training.step < step:
                training.advance()
            if training.step > first:
                note_seconds(self.out, "step", cell, step, training.step - first, time.monotonic() - began)
                training.save(kept, key)
            if not is_done(self.out, cell, step):
                self._measure(cell, step, loaded, {**_facts(training, before), "answers": len(training.answers)})
        shutil.rmtree(self.work / cell.name, ignore_errors=True)

    def _measure(self, cell: Cell, step: int, loaded: LoadedModel, trained: dict[str, Any] | None) -> None:
        """Measure the model as it is now, and store the numbers."""
        began = time.monotonic()
        whole = is_measured_on_texts(cell, self.settings)
        sets = sets_of(loaded, self.settings, self.materials, cell.seed, texts=whole)
        found = measure_checkpoint(loaded, self.settings, sets, self.materials.sums)
        seconds = time.monotonic() - began
        note_seconds(self.out, "measurement" if whole else "rollouts", cell, step, 1, seconds)
        if self.settings.is_full(cell, step):
            began = time.monotonic()
            found["entries"] += measure_full(loaded, self.settings, sets)
            note_seconds(self.out, "full", cell, step, 1, time.monotonic() - began)
        content = {
            "format": FORMAT,
            "cell": {**dataclasses.asdict(cell), "step": step},
            "settings": self.settings.stored(),
            "model": {"revision": loaded.revision, "weights": weights_digest(loaded.model), "dtype": loaded.dtype},
            "device": loaded.devices,
            "versions": versions(),
            "commit": self._commit,
            "data": self.data(cell.corpus),
            "training": trained,
            **found,
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
        write_whole(self.out / "cells" / cell.file(step), text)
        self._say(f"{cell.file(step)}: measured in {seconds:.0f} s, pass@1 {found['sums']['pass@1']:.2f}")


def _facts(training: Training, before: int) -> dict[str, Any]:
    """Return facts about a training: tokens so far, and the mean loss of the steps since the last measurement."""
    losses = training.losses[before:]
    return {"num_tokens": training.num_tokens, "loss": round(sum(losses) / len(losses), 6)}


def _check_data(path: Path, data: dict[str, str | None]) -> None:
    """Refuse a stored measurement that was made with other texts or other training answers."""
    if json.loads(path.read_text(encoding="utf-8"))["data"] != data:
        raise InvalidInputError(
            f"{path} was measured with other data. The files that ANTIPHASE_TRACES, ANTIPHASE_GSM8K_SOLUTIONS and "
            "ANTIPHASE_PROSE name must be the same as then; or choose another --out."
        )
