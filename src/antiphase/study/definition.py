"""Reads a study, STUDY.yaml, and makes its cells.

    name: my-study
    models:                         # name: hub id or directory, or a mapping
      tiny: {make: "python sft.py {setting} --seed {seed} --out {out}", stages: {sft-40: checkpoint-40}, train: {…}}
      smollm2: demo
    settings:                       # optional axis of shared changes, such as tasks
      sums: {make: "--task sums", train: {tasks: ["sums"]}, eval: {tasks: ["sums"]}}
    methods:                        # name: changes to the recipe; {} is the recipe as it is
      grpo: {preset: grpo}
    seeds: [0, 1, 2]
    train: {…}                      # keys of antiphase train
    eval: {…}                       # options of antiphase eval
    compare: {reference: grpo}

A cell is one model, setting, method and seed. It is trained, then evaluated. The model before any training, and the
`stages` that `make` leaves behind, are cells that are only evaluated.
"""

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antiphase.data.yaml_mapping import read_mapping
from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean
from antiphase.study.launch import overridden
from antiphase.tasks.own_task import file_digests

BASE = "base"
_KEYS = ("name", "models", "settings", "methods", "seeds", "train", "eval", "compare")
_MODEL_KEYS = ("path", "make", "stages", "train", "eval", "methods", "seeds", "settings")
_SETTING_KEYS = ("make", "train", "eval")
_COMPARE_KEYS = ("reference", "smallest")
_NAME = re.compile(r"[A-Za-z0-9][\w+=-]*")


@dataclass(frozen=True)
class Made:
    """A model that a command makes.

    Args:
        name: the model's folder under `models/`.
        command: the words of the command; `{out}` in them stands for that folder.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One model, setting, method and seed.

    Args:
        model, setting, method, seed: the cell's place in the grid.
        path: hub id or directory of the model; None if a command makes the model.
        made: the command that makes the model; None if there is none.
        stage: folder within the model's directory that is evaluated without training; None where the cell trains.
        recipe: keys of antiphase train, without model, seed and output_dir.
        evaluation: options of antiphase eval.
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
        """The cell's name, which is unique in the study."""
        return f"{self.model}.{self.setting}.{self.method}.s{self.seed}"

    @property
    def trained(self) -> bool:
        """Whether the cell trains before it evaluates."""
        return self.stage is None

    def digest(self) -> str:
        """A digest of everything that decides the cell's numbers, the current files of the user's own tasks included.

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
    tasks = options.get("tasks") or []
    return [tasks] if isinstance(tasks, str) else [task for task in tasks if isinstance(task, str)]


@dataclass(frozen=True)
class Study:
    """A study and its cells, in the order in which they run."""

    name: str
    path: Path
    cells: tuple[Cell, ...]
    methods: tuple[str, ...]
    reference: str | None
    smallest: float

    def cell(self, name: str) -> Cell:
        """The cell of this name.

        Raises:
            InvalidInputError: there is no such cell; the message names the nearest.
        """
        by_name = {cell.name: cell for cell in self.cells}
        if name not in by_name:
            raise InvalidInputError(
                f"the study has no cell {name!r}.{did_you_mean(name, by_name)} It has {len(by_name)} cells."
            )
        return by_name[name]

    def made(self) -> dict[str, Made]:
        """The models that commands make, by name."""
        return {cell.made.name: cell.made for cell in self.cells if cell.made is not None}


def read_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read STUDY.yaml.

    Args:
        path: the file.
        changes: changes of its shared `train` keys, each `KEY=VALUE`.

    Raises:
        InvalidInputError: the file cannot be read or is not YAML, a key is unknown (the message names the nearest), or
            an axis is empty.
    """
    content = overridden(read_mapping(path, "study"), changes)
    _check_keys(content, _KEYS, str(path))
    for key in ("models", "methods", "seeds"):
        if not content.get(key):
            raise InvalidInputError(f"{path}: {key} is empty; a study needs at least one.")
    _seeds(content["seeds"], str(path))
    settings = content.get("settings") or {"all": {}}
    compare = content.get("compare") or {}
    _check_keys(compare, _COMPARE_KEYS, f"{path}: compare")
    cells: list[Cell] = []
    models = _mapping(content["models"], "models", path)
    for model, setting in itertools.product(models, _mapping(settings, "settings", path)):
        cells += _cells(content, path, model, setting, settings)
    methods = tuple(dict.fromkeys(cell.method for cell in cells if cell.trained))
    reference = compare.get("reference")
    known = list(dict.fromkeys(cell.method for cell in cells))
    if reference is not None and reference not in known:
        raise InvalidInputError(
            f"{path}: compare: reference {reference!r} is no method.{did_you_mean(str(reference), known)} "
            f"There are {', '.join(known)}."
        )
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{path}: two cells are called {twice}; rename a stage or a method.")
    return Study(
        str(content.get("name") or path.stem),
        path,
        tuple(cells),
        methods,
        reference,
        _smallest(compare.get("smallest", 0.05), path),
    )


def _check_keys(content: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"{where}: expected a mapping; got {type(content).__name__}.")
    for key in content:
        if key not in known:
            raise InvalidInputError(
                f"{where}: unknown key {str(key)!r}.{did_you_mean(str(key), known)} It may hold {', '.join(known)}."
            )


def _mapping(value: Any, key: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{path}: {key} must map names to what they are; got {type(value).__name__}.")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{path}: {key}: the name {name!r} must be of letters, digits, '_', '-', '+' and '='; it names files."
            )
    return value


def _cells(
    content: Mapping[str, Any], path: Path, model: str, setting: str, settings: Mapping[str, Any]
) -> list[Cell]:
    entry = content["models"][model]
    entry = {"path": entry} if isinstance(entry, str) else entry
    where = f"{path}: models: {model}"
    _check_keys(entry, _MODEL_KEYS, where)
    if ("path" in entry) == ("make" in entry):
        raise InvalidInputError(f"{where}: give either path (a hub id or directory) or make (a command).")
    change = settings[setting] or {}
    _check_keys(change, _SETTING_KEYS, f"{path}: settings: {setting}")
    if setting not in _list(entry.get("settings"), [setting], f"{where}: settings"):
        return []
    methods = _mapping(content["methods"], "methods", path)
    stages = _mapping(entry.get("stages") or {}, "stages", path)
    chosen = _list(entry.get("methods"), list(methods), f"{where}: methods")
    for name in chosen:
        if name not in methods:
            raise InvalidInputError(f"{where}: unknown method {name!r}.{did_you_mean(str(name), methods)}")
        if not isinstance(methods[name] or {}, Mapping):
            raise InvalidInputError(f"{path}: methods: {name} must map keys to values; got {methods[name]!r}.")
    recipe = _merged([content, entry, change], "train", where)
    evaluation = _merged([content, entry, change], "eval", where)
    for key in ("model", "model_name_or_path", "seed", "output_dir"):
        if key in recipe:
            raise InvalidInputError(f"{where}: train: {key} is the study's to set; remove it.")
    for key in ("models", "seed", "rollouts"):
        if key in evaluation:
            raise InvalidInputError(f"{where}: eval: {key} is the study's to set; remove it.")
    if stages and "make" not in entry and not Path(str(entry["path"])).is_dir():
        raise InvalidInputError(
            f"{where}: stages are folders within a model's directory, and {entry['path']!r} is none."
        )
    # The method, the stage and the recipe of each cell of a seed.
    runs: list[tuple[str, str | None, dict[str, Any]]] = [(name, str(folder), {}) for name, folder in stages.items()]
    runs += [(BASE, ".", {}), *((name, None, {**recipe, **(methods[name] or {})}) for name in chosen)]
    cells = []
    # A model that no command makes is the same for all seeds. Each seed still samples it anew.
    for seed in _seeds(entry.get("seeds") or content["seeds"], where):
        made = _made(entry.get("make"), model, setting, str(change.get("make", setting)), seed)
        cells += [
            Cell(model, setting, method, seed, entry.get("path"), made, stage, train, evaluation)
            for method, stage, train in runs
        ]
    return cells


def _merged(parts: Sequence[Mapping[str, Any]], key: str, where: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        values = part.get(key) or {}
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"{where}: {key} must map keys to values; got {values!r}.")
        merged |= values
    return merged


def _list(value: Any, default: list[str], where: str) -> list[str]:
    if value is None:
        return default
    if not isinstance(value, list):
        raise InvalidInputError(f"{where} must be a list of names; got {value!r}.")
    return value


def _seeds(seeds: Any, where: str) -> list[int]:
    numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not numbers or len(set(seeds)) < len(seeds):
        raise InvalidInputError(f"{where}: seeds must be a list of different whole numbers from 0; got {seeds!r}.")
    return list(seeds)


def _smallest(value: Any, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InvalidInputError(f"{path}: compare: smallest must be a difference between 0 and 1; got {value!r}.")
    return float(value)


def _made(command: Any, model: str, setting: str, words_of_setting: str, seed: int) -> Made | None:
    if command is None:
        return None
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    name = model
    for part, value in (("{setting}", setting), ("{seed}", f"s{seed}")):
        if any(part in word for word in words):
            name += f".{value}"
    filled: list[str] = []
    for word in words:
        if word == "{setting}":
            filled += shlex.split(words_of_setting)
        else:
            filled.append(word.replace("{model}", model).replace("{setting}", setting).replace("{seed}", str(seed)))
    return Made(name, tuple(filled))
