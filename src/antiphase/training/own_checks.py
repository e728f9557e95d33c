"""Checks antiphase's own options of a training before the import of TRL, since that import takes seconds.

An option is a key of the recipe's file or a flag. TRL's options are skipped, since only TRL knows them. Later the
module `recipe` reads all options again, and reports errors with the same messages.
"""

import argparse
import dataclasses
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from antiphase.data.yaml_mapping import read_mapping
from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import PREFIX, InversionSpec
from antiphase.runs.folder_lock import check_unused
from antiphase.tasks.problem import check_request
from antiphase.tasks.registry import load_task
from antiphase.training.kept_rule import check_keep
from antiphase.training.launch import check_launch
from antiphase.training.out_folder import check_folder
from antiphase.training.presets import resolve_preset
from antiphase.training.recipe_file import typed
from antiphase.training.reward_choices import check_reward
from antiphase.training.run_options import RunOptions, check_options

# Keys of TRL that every run needs.
_NEEDED_OF_HOST = ("model_name_or_path", "output_dir")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(f"antiphase train: {message}.")


def check_command(words: Sequence[str]) -> None:
    """Check the options, tasks, reward functions and output folder of an `antiphase train` command.

    Only options that antiphase itself defines are checked. Without this check, the same errors would be raised after
    the import of TRL.

    Args:
        words: the words after `antiphase train`.

    Raises:
        AntiphaseError: the error that `parse_recipe`, `load_task`, `check_reward` or `prepared` would raise.
    """
    if "-h" in words or "--help" in words:
        return
    check_launch(os.environ)
    parser = _own_parser()
    parser.add_argument("--config")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--dry-run", "--dry_run", action="store_true")
    namespace, others = parser.parse_known_args(list(words))
    if others and others[0] == words[0] and not words[0].startswith("-"):
        raise InvalidInputError(f"unexpected argument {words[0]!r}; flags begin with --.")
    flags = vars(namespace)
    path, resume, dry_run = (flags.pop(name) for name in ("config", "resume", "dry_run"))
    stored = {} if path is None else _own_values(read_mapping(Path(path), "recipe"), f"{path}: ")
    values = {**stored, **flags}
    options = _checked(values)
    for spec in options.tasks:
        task = load_task(spec)
        if options.eval_problems:
            check_request(task.spec, options.eval_split, None)
    for name in options.reward_funcs:
        check_reward(name)
    if not dry_run:
        check_unused(Path(values["output_dir"]))
        check_folder(Path(values["output_dir"]), resume=resume)


def check_recipe(content: Mapping[Any, Any]) -> None:
    """Check the values of those keys of a recipe that antiphase itself defines.

    `parse_recipe` would raise the same error later.

    Args:
        content: keys and values of the recipe's file.

    Raises:
        InvalidInputError: a value is of the wrong type, or values do not fit together.
    """
    _checked(_own_values(content, ""))


def _own_values(content: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return those values of a recipe file whose keys antiphase itself defines, converted to the types of the flags.

    `where` is the beginning of error messages, such as `recipe.yaml: `.
    """
    actions = {action.dest: action for action in _own_parser()._actions if action.nargs != 0}
    return {key: typed(key, value, actions[key], where) for key, value in content.items() if key in actions}


def _checked(values: Mapping[str, Any]) -> RunOptions:
    """Check that the values of antiphase's own options fit together. Return the `RunOptions` among them."""
    pinned: Mapping[str, Any] = {}
    if values.get("preset") is not None:
        pinned = resolve_preset(values["preset"])[0].arguments
    inversion = {**pinned, **values}
    InversionSpec(**{key.removeprefix(PREFIX): inversion[key] for key in inversion if key.startswith(PREFIX)})
    check_keep(values.get("keep_rollouts", 0))
    own = {field.name for field in dataclasses.fields(RunOptions)}
    options = RunOptions(**{name: value for name, value in values.items() if name in own})
    check_options(options, values.get("model_name_or_path"), values.get("output_dir"))
    return options


def _own_parser() -> _Parser:
    """Return a parser of the flags that antiphase itself defines. It reads them as `HfArgumentParser` would."""
    parser = _Parser(prog="antiphase train", allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS)
    hints = get_type_hints(RunOptions)
    for field in dataclasses.fields(RunOptions):
        _add(parser, field.name, hints[field.name], switched_on=field.default is True)
    kinds = get_type_hints(InversionSpec)
    for field in dataclasses.fields(InversionSpec):
        if field.name != "seed":  # TRL has this option
            _add(parser, PREFIX + field.name, kinds[field.name])
    _add(parser, "keep_rollouts", int)
    for name in _NEEDED_OF_HOST:
        _add(parser, name, str)
    parser.add_argument("--out", dest="output_dir")
    parser.set_defaults(config=None, resume=False, dry_run=False)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, kind: Any, *, switched_on: bool = False) -> None:
    names = [f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else [])]
    if kind is bool:
        parser.add_argument(*names, type=_truth, nargs="?", const=True)
        if switched_on:
            off = name.replace("_", "-")
            parser.add_argument(f"--no_{name}", f"--no-{off}", action="store_false", dest=name)
    elif get_origin(kind) is list:
        parser.add_argument(*names, type=get_args(kind)[0], nargs="+")
    else:
        optional = get_origin(kind) in (Union, types.UnionType)
        parser.add_argument(*names, type=get_args(kind)[0] if optional else kind)


def _truth(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(
        f"Truthy value expected: got {text} but expected one of yes/no, true/false, t/f, y/n, 1/0 (case insensitive)."
    )
