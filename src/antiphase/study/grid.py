"""The cells of a study, and the study as a whole. A cell is one model, setting, method and seed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean
from antiphase.tasks.own_task import file_digests

# The method of a cell that evaluates the model before any training.
BASE = "base"
# The parts of a training's budget in which methods may differ if the study says that each method was tuned.
TUNABLE = ("learning_rate",)


@dataclass(frozen=True)
class Made:
    """A model that a command of the study makes.

    Args:
        name: the name of the model's folder in `models/`.
        command: the words of the command; `{out}` in a word stands for the model's folder.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One model, setting, method and seed of a study.

    Args:
        model, setting, method: the names of the model, the setting and the method in STUDY.yaml.
        seed: the seed.
        path: hub id or directory of the model; None if a command makes the model.
        made: the command that makes the model; None if no command makes it.
        stage: the folder in the model's directory that is evaluated without training; None if the cell trains.
        recipe: keys of `antiphase train`, without model, seed and output_dir.
        evaluation: options of `antiphase eval`.
    """

    model: str
    setting: str
    method: str
    seed: int
    path: str | None
    made: Made | None
    stage: str | None
    recipe: Mapping[str, Any] = field(hash=False)
    evaluation: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """Return the cell's name, which is unique in the study."""
        return f"{self.model}.{self.setting}.{self.method}.s{self.seed}"

    @property
    def trained(self) -> bool:
        """Return whether the cell trains before it evaluates."""
        return self.stage is None

    def digest(self) -> str:
        """Return a sha256 of everything that the cell's results depend on.

        This includes the present content of the files that define the user's own tasks.

        Raises:
            InvalidInputError: a file of a task does not exist.
        """
        made = None if self.made is None else list(self.made.command)
        values: list[Any] = [self.seed, self.path, made, self.stage, dict(self.recipe), dict(self.evaluation)]
        code = file_digests({*_specs(self.recipe), *_specs(self.evaluation)})
        if code:
            values.append(code)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _specs(options: Mapping[str, Any]) -> list[str]:
    """Return the task specs in some options. Values that are not text are left out; a later check refuses them."""
    tasks = options.get("tasks") or []
    return [tasks] if isinstance(tasks, str) else [task for task in tasks if isinstance(task, str)]


@dataclass(frozen=True)
class Study:
    """A study: a grid of cells that are compared. A cell is one model, setting, method and seed.

    Args:
        name: the study's name.
        path: the file STUDY.yaml.
        cells: the cells, in the order in which they run.
        methods: the names of the methods that train.
        reference: the method that every other method is compared with; None if the study has no reference.
        smallest: the smallest difference in accuracy that matters.
        tuned: the parts of the budget in which the methods may differ, because each method was tuned; see `TUNABLE`.
    """

    name: str
    path: Path
    cells: tuple[Cell, ...]
    methods: tuple[str, ...]
    reference: str | None
    smallest: float
    tuned: tuple[str, ...] = ()

    def cell(self, name: str) -> Cell:
        """Return the cell of this name.

        Raises:
            InvalidInputError: there is no such cell. The message suggests the most similar name.
        """
        by_name = {cell.name: cell for cell in self.cells}
        if name not in by_name:
            raise InvalidInputError(
                f"the study has no cell {name!r}.{did_you_mean(name, by_name)} It has {len(by_name)} cells."
            )
        return by_name[name]

    def digest(self) -> str:
        """Return a sha256 of everything that the study's tables depend on, except the name of the study's file.

        Raises:
            InvalidInputError: a file of a task does not exist.
        """
        cells = [[cell.name, cell.digest()] for cell in self.cells]
        values: list[Any] = [self.name, cells, self.methods, self.reference, self.smallest]
        if self.tuned:
            values.append(self.tuned)
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def made(self) -> dict[str, Made]:
        """Return a mapping from the name of each model that a command makes to this model."""
        return {cell.made.name: cell.made for cell in self.cells if cell.made is not None}
