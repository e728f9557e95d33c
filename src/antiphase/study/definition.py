"""Read a study from STUDY.yaml, and make the list of its cells. A cell is one model, setting, method and seed.

    name: my-study
    models:                         # name: hub id or directory, or a mapping
      tiny: {make: "python sft.py {setting} --seed {seed} --out {out}", stages: {sft-40: checkpoint-40}, train: {…}}
      smollm2: demo
    settings:                       # optional axis of shared changes, such as tasks
      sums: {make: "--task sums", train: {tasks: ["sums"]}, eval: {tasks: ["sums"]}}
    methods:                        # name: changes to the recipe; {} is the unchanged recipe
      grpo: {preset: grpo}
    seeds: [0, 1, 2]
    train: {…}                      # keys of antiphase train
    eval: {…}                       # options of antiphase eval
    compare: {reference: grpo}      # also: smallest, the smallest difference that matters; and tuned, a list

A cell is trained and then evaluated. For every model there are also cells that are only evaluated: one for the model
before training (the method `base`), and one for each of the model's `stages`. A stage is a checkpoint that the command
`make` leaves in the model's folder.
"""

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from antiphase.data.yaml_mapping import read_mapping
from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean
from antiphase.study.grid import BASE, TUNABLE, Cell, Made, Study
from antiphase.study.launch import overridden

_KEYS = ("name", "models", "settings", "methods", "seeds", "train", "eval", "compare")
_MODEL_KEYS = ("path", "make", "stages", "train", "eval", "methods", "seeds", "settings")
_SETTING_KEYS = ("make", "train", "eval")
_COMPARE_KEYS = ("reference", "smallest", "tuned")
# The keys that a study sets itself, so that its file may not.
_OWN_KEYS = {"train": ("model", "model_name_or_path", "seed", "output_dir"), "eval": ("models", "seed", "rollouts")}
_NAME = re.compile(r"[A-Za-z0-9][\w+=-]*")


def read_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read a study from the file STUDY.yaml, and check it.

    Args:
        path: the file.
        changes: changes of the shared `train` keys, each of the form `KEY=VALUE`.

    Raises:
        InvalidInputError: the file cannot be read or is not YAML, a key is unknown, a value is invalid, two cells have
            the same name, or `models`, `methods` or `seeds` is empty.
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
            f"{path}: compare: the reference {reference!r} is not a method.{did_you_mean(str(reference), known)} "
            f"The methods are {', '.join(known)}."
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
        _tuned(compare.get("tuned"), path),
    )


def _check_keys(content: Any, known: tuple[str, ...], where: str) -> None:
    """Raise InvalidInputError if a value is no mapping or has an unknown key. The message begins with `where`."""
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"{where}: expected a mapping; got {type(content).__name__}.")
    for key in content:
        if key not in known:
            raise InvalidInputError(
                f"{where}: unknown key {str(key)!r}.{did_you_mean(str(key), known)} Possible keys: {', '.join(known)}."
            )


def _mapping(value: Any, key: str, path: Path) -> Mapping[str, Any]:
    """Return a value of STUDY.yaml, after a check that it is a mapping whose keys can be names of files.

    If the check fails, an InvalidInputError is raised. Its message contains `key` and `path`, which say where the
    value stands.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            f"{path}: {key} must be a mapping with a name for each entry; got {type(value).__name__}."
        )
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{path}: {key}: the name {name!r} must consist of letters, digits, '_', '-', '+' and '=', because it "
                "becomes the name of files."
            )
    return value


def _cells(
    content: Mapping[str, Any], path: Path, model: str, setting: str, settings: Mapping[str, Any]
) -> list[Cell]:
    """Make the cells of one model and setting: one for each method and seed, and those that are only evaluated.

    Args:
        content: the content of STUDY.yaml.
        path: the file.
        model, setting: the names of the model and the setting.
        settings: the mapping `settings` of STUDY.yaml.
    """
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
    for part, options in (("train", recipe), ("eval", evaluation)):
        for key in _OWN_KEYS[part]:
            if key in options:
                raise InvalidInputError(f"{where}: {part}: the study itself sets {key}; remove the key.")
    if stages and "make" not in entry and not Path(str(entry["path"])).is_dir():
        raise InvalidInputError(
            f"{where}: stages are folders in the model's directory, but {entry['path']!r} is not a directory."
        )
    # The method, stage and recipe of every cell, which are the same for all seeds.
    runs: list[tuple[str, str | None, dict[str, Any]]] = [(name, str(folder), {}) for name, folder in stages.items()]
    runs += [(BASE, ".", {}), *((name, None, {**recipe, **(methods[name] or {})}) for name in chosen)]
    cells = []
    # A model that no command makes is the same for all seeds, but its evaluation samples differently for each seed.
    for seed in _seeds(entry.get("seeds") or content["seeds"], where):
        made = _made(entry.get("make"), model, setting, str(change.get("make", setting)), seed)
        cells += [
            Cell(model, setting, method, seed, entry.get("path"), made, stage, train, evaluation)
            for method, stage, train in runs
        ]
    return cells


def _merged(parts: Sequence[Mapping[str, Any]], key: str, where: str) -> dict[str, Any]:
    """Return one mapping that joins the mappings under `key` of all parts. A later part overrides an earlier one.

    Error messages begin with `where`.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        values = part.get(key) or {}
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"{where}: {key} must map keys to values; got {values!r}.")
        merged |= values
    return merged


def _list(value: Any, default: list[str], where: str) -> list[str]:
    """Return a value if it is a list, and the default if it is None.

    Any other value raises InvalidInputError, with a message that begins with `where`.
    """
    if value is None:
        return default
    if not isinstance(value, list):
        raise InvalidInputError(f"{where} must be a list of names; got {value!r}.")
    return value


def _seeds(seeds: Any, where: str) -> list[int]:
    """Return the seeds if they are a list of whole numbers; raise InvalidInputError for any other value."""
    numbers = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not numbers or len(set(seeds)) < len(seeds):
        raise InvalidInputError(f"{where}: seeds must be a list of different whole numbers, 0 or more; got {seeds!r}.")
    return list(seeds)


def _smallest(value: Any, path: Path) -> float:
    """Return the smallest difference that matters; raise InvalidInputError if the value is not in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InvalidInputError(f"{path}: compare: smallest must be a difference between 0 and 1; got {value!r}.")
    return float(value)


def _tuned(value: Any, path: Path) -> tuple[str, ...]:
    """Return the parts of the budget in which methods may differ; raise InvalidInputError for any other value."""
    names = _list(value, [], f"{path}: compare: tuned")
    for name in names:
        if name not in TUNABLE:
            raise InvalidInputError(
                f"{path}: compare: tuned: {name!r} is not an option in which methods may differ."
                f"{did_you_mean(str(name), TUNABLE)} Methods may differ in {', '.join(TUNABLE)}."
            )
    return tuple(names)


def _made(command: Any, model: str, setting: str, words_of_setting: str, seed: int) -> Made | None:
    """Return the model that a command makes, with the command filled in; None if there is no command.

    The model's name contains the setting and the seed only if the command does, so that cells can share a model.

    Args:
        command: the command, as one text or as a list of words.
        model, setting, seed: the texts that replace `{model}`, `{setting}` and `{seed}` within a word.
        words_of_setting: the words that replace the word `{setting}`.
    """
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
