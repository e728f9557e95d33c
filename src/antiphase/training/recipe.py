"""Reads a recipe, the YAML file and the flags of `antiphase train`, and resolves it into the options of a run.

The keys are the fields of `RunOptions`, of TRL's `ModelConfig` and of `CorRPOConfig`, so every argument of TRL's GRPO
is a key. A key can have values in several places. The first of these places that has a value is used: the flag, the
file, the preset, the default of antiphase.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser
from trl import ModelConfig

from antiphase.data.yaml_mapping import read_mapping
from antiphase.errors import InvalidInputError
from antiphase.models.demo import DEMO, demo_model_path
from antiphase.tasks.own_task import file_digests, recorded_code
from antiphase.training.presets import CORR_PO, CORR_PO_FAST, LATER, Preset, resolve_preset
from antiphase.training.recipe_file import nearest, typed
from antiphase.training.run_options import RunOptions, check_options
from antiphase.training.trainer_config import BEFORE_THE_FIELD, CorRPOConfig

# Defaults that differ from TRL's: a log line for each step, and checkpoints to resume from.
DEFAULTS: dict[str, Any] = {"logging_steps": 1, "save_steps": 0.1, "save_total_limit": 2, "disable_tqdm": True}
# Options that may change when a run is continued. Of the three batch sizes, the checkpoint keeps the product.
FREE_ON_RESUME = (
    "output_dir",
    "inversion_token_budget",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "disable_tqdm",
    "keep_rollouts",
)


@dataclass(frozen=True)
class Recipe:
    """A recipe after its file, the flags, the preset and the defaults were merged.

    Args:
        options: antiphase's own options.
        model: TRL's options of the model. If the model is `demo`, its name here is the path of its folder.
        config: the trainer's arguments.
        preset: the preset that the recipe names, or None.
        given: every key that was set in the file or by a flag, with its value.
        resume: whether the run in the output directory is to be continued.
        dry_run: whether the command only prints what it would do.
    """

    options: RunOptions
    model: ModelConfig
    config: CorRPOConfig
    preset: Preset | None
    given: Mapping[str, Any]
    resume: bool
    dry_run: bool

    @property
    def resolved(self) -> dict[str, Any]:
        """All options that are needed to repeat a run, as values that JSON can hold.

        Options that TRL computes from other options are left out. If the user has tasks of their own, the digests of
        the tasks' files are included.
        """
        merged = {**dataclasses.asdict(self.options), **dataclasses.asdict(self.model)}
        merged |= json.loads(self.config.to_json_string())
        return {key: value for key, value in merged.items() if key not in _DERIVED} | self._code

    @functools.cached_property
    def _code(self) -> dict[str, Any]:
        return recorded_code(file_digests(self.options.tasks))


_DERIVED = ("logging_dir", "run_name", "_n_gpu", "local_rank")


class _Parser(HfArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(f"antiphase train: {message}.")


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """Read the flags and the file that `--config` names, and return the resolved recipe.

    Args:
        arguments: the words after `antiphase train`.

    Raises:
        InvalidInputError: a key or flag is unknown (the message suggests the most similar one), a value is of the
            wrong type, or values do not fit together.
    """
    parser = _Parser((RunOptions, ModelConfig, CorRPOConfig), prog="antiphase train", allow_abbrev=False)
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    # A switch that is on by default has a second action, `--no_…`, which takes no value.
    actions = {action.dest: action for action in parser._actions if action.nargs != 0}
    parser.add_argument("--config", metavar="FILE", help="recipe (YAML)")
    parser.add_argument("--out", metavar="DIR", dest="output_dir", default=argparse.SUPPRESS, help="as --output_dir")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output directory")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print what would be done, and stop")
    namespace, unknown = parser.parse_known_args(list(arguments))
    flags = vars(namespace)
    for flag in unknown:
        if flag.startswith("-"):
            raise InvalidInputError(
                f"unknown flag {flag.split('=')[0]}.{nearest(flag.strip('-').split('=')[0], actions)}"
            )
        raise InvalidInputError(f"unexpected argument {flag!r}; flags begin with --.")
    path, resume, dry_run = (flags.pop(name) for name in ("config", "resume", "dry_run"))
    stored = {} if path is None else _read_file(Path(path), actions)
    return _resolve({**stored, **flags}, resume=resume, dry_run=dry_run)


def _read_file(path: Path, actions: Mapping[str, argparse.Action]) -> dict[str, Any]:
    values = {}
    for key, value in read_mapping(path, "recipe").items():
        if key not in actions:
            raise InvalidInputError(f"{path}: unknown key {str(key)!r}.{nearest(str(key), actions)}")
        values[key] = typed(key, value, actions[key], f"{path}: ")
    return values


def _resolve(given: dict[str, Any], *, resume: bool, dry_run: bool) -> Recipe:
    values = dict(given)
    preset = None
    if values.get("preset") is not None:
        preset, with_inversion = resolve_preset(values["preset"])
        pinned = dict(preset.arguments)
        if not with_inversion:
            if values.get("inversion_weight", 0.0) != 0:
                raise InvalidInputError(
                    f"preset {values['preset']!r} is a baseline without inversion, but inversion_weight is "
                    f"{values['inversion_weight']}. Ask for '{values['preset']}+corr-po'."
                )
            pinned["inversion_weight"] = 0.0
        values = {**pinned, **_own_rewards(preset, values), **values}
    if is_former(given):
        values |= {key: given.get(key, value) for key, value in FIRST_RELEASE.items()}
    if not torch.accelerator.is_available():
        # TRL's default, bf16, is refused on a CPU.
        values.setdefault("bf16", False)
    values = {**DEFAULTS, **values}
    parts = []
    for kind in (RunOptions, ModelConfig, CorRPOConfig):
        names = {f.name for f in dataclasses.fields(kind) if f.init}
        parts.append({name: value for name, value in values.items() if name in names})
    _check_host_arguments(parts[2])
    options = RunOptions(**parts[0])
    check_options(options, parts[1].get("model_name_or_path"), parts[2].get("output_dir"))
    name = options.model or parts[1]["model_name_or_path"]
    options.model = name
    parts[1]["model_name_or_path"] = demo_model_path() if name == DEMO else name
    try:
        return Recipe(
            options, ModelConfig(**parts[1]), CorRPOConfig(**parts[2]), preset, given, resume=resume, dry_run=dry_run
        )
    except InvalidInputError:
        raise
    except (ValueError, TypeError) as error:
        # TRL and transformers check their own arguments, and their message says what is wrong.
        raise InvalidInputError(" ".join(str(error).split())) from error


FORMER_COMBINES = ("sum", "centered", "gated", "only")
# Values for a recipe of the first release; they replace those that its preset has now.
FIRST_RELEASE = {"inversion_unit": "token", "inversion_estimator": "own"}


def is_former(given: Mapping[str, Any]) -> bool:
    """Return whether a recipe was written for the first release. It must then be read as the first release read it.

    The first release computed ρ over tokens, by the estimator `own`. A recipe is taken as one for that
    release if `inversion_combine` has one of the values that existed then, and no option is set that was added later.
    """
    names = str(given.get("preset") or "").split("+")
    later = (
        names == [CORR_PO]
        or not {CORR_PO_FAST, *LATER}.isdisjoint(names)
        or not BEFORE_THE_FIELD.keys().isdisjoint(given)
    )
    return given.get("inversion_combine") in FORMER_COMBINES and not later


def _own_rewards(preset: Preset, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `reward_funcs` and `reward_weights` for a preset that has its own reward functions; else an empty dict.

    `accuracy` is added to the functions of the preset with the weight 0, so that it is logged.

    Raises:
        InvalidInputError: the recipe names reward functions too.
    """
    if not preset.rewards:
        return {}
    for key in ("reward_funcs", "reward_weights"):
        if key in given:
            raise InvalidInputError(
                f"preset {preset.name!r} trains on its own reward, {' + '.join(preset.rewards)}, and logs accuracy "
                f"with weight 0. The recipe also names {key}. Remove {key}, or name another preset, such as grpo, and "
                "give both reward_funcs and reward_weights."
            )
    return {
        "reward_funcs": ["accuracy", *preset.rewards],
        "reward_weights": [0.0, *(1.0 for _ in preset.rewards)],
    }


def _check_host_arguments(config: Mapping[str, Any]) -> None:
    if config.get("resume_from_checkpoint"):
        raise InvalidInputError(
            "resume_from_checkpoint is not used here. To continue a run from its last checkpoint, use --resume."
        )
    if str(getattr(config.get("eval_strategy"), "value", config.get("eval_strategy") or "no")) != "no":
        raise InvalidInputError(
            "eval_strategy needs an evaluation set, and antiphase train gives none to TRL. To evaluate the held-out "
            "problems during training, set eval_every."
        )
