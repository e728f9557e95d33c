"""A recipe: the YAML file and flags of `antiphase train`, resolved into what the runner needs.

Keys are the fields of `RunOptions`, of TRL's `ModelConfig` and of `CorRPOConfig` (so every argument of TRL's GRPO,
verbatim). Flags win over the file, the file over the preset, the preset over our defaults.
"""

import argparse
import dataclasses
import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from transformers import HfArgumentParser
from trl import ModelConfig

from antiphase.errors import InvalidInputError
from antiphase.models.demo import DEMO, demo_model_path
from antiphase.tasks.own_task import file_digests, recorded_code
from antiphase.training.presets import CORR_PO, CORR_PO_FAST, Preset, resolve_preset
from antiphase.training.trainer_config import BEFORE_THE_FIELD, CorRPOConfig

# What `antiphase train` sets where nobody else does: a log line a step, and checkpoints to resume from.
DEFAULTS: dict[str, Any] = {"logging_steps": 1, "save_steps": 0.1, "save_total_limit": 2, "disable_tqdm": True}
# What may change when a run is continued.
FREE_ON_RESUME = (
    "output_dir",
    "inversion_token_budget",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "disable_tqdm",
)


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class RunOptions:
    """What to train on, and what to report, beside the arguments of TRL.

    Args:
        model: hub id, local directory, or `demo` (the same as TRL's model_name_or_path).
        tasks: specs of the task registry, such as `gsm8k`, `chain_sum:min_terms=2,max_terms=2` or `mine.py:MyTask`.
        reward_funcs: names (see `functions.NAMES`), or your own as module:function or file.py:function.
        preset: `corr-po`, `corr-po-fast`, or a baseline's name, alone or with one of them, as `dapo+corr-po`.
        num_problems: training problems of each task; all of them by default.
        eval_problems: held-out problems, shared among the tasks; 0 evaluates nothing.
        eval_samples: completions of each held-out problem, besides the greedy one.
        eval_every: evaluate every so many steps, besides the beginning and the end.
        eval_split: `test`, the split that no training problem is in.
        system_prompt: put before every problem.
        prompt_template: text around every problem, with {prompt} in it.
        chat_template: apply the model's chat template where it has one.
        end_tokens: texts of one token each that end a completion, besides the model's own end tokens.
    """

    model: str | None = _option(None, "hub id, local directory, or 'demo' (same as --model_name_or_path)")
    tasks: list[str] = _option([], "task specs, such as gsm8k, chain_sum:max_terms=2 or mine.py:MyTask")
    reward_funcs: list[str] = _option(["accuracy"], "accuracy, format, self_certainty, …, or module:function")
    preset: str | None = _option(None, "corr-po, corr-po-fast, or a baseline, alone or as dapo+corr-po")
    num_problems: int | None = _option(None, "training problems of each task (default: all)")
    eval_problems: int = _option(64, "held-out problems; 0 evaluates nothing")
    eval_samples: int = _option(4, "completions of each held-out problem, besides the greedy one")
    eval_every: int = _option(0, "evaluate every so many steps, besides the beginning and the end")
    eval_split: str = _option("test", "split that the held-out problems come from")
    system_prompt: str | None = _option(None, "put before every problem")
    prompt_template: str | None = _option(None, "text around every problem, with {prompt} in it")
    chat_template: bool = _option(True, "apply the model's chat template where it has one")
    end_tokens: list[str] = _option([], "texts of one token each that end a completion, besides the model's own")

    def __post_init__(self) -> None:
        for name in ("eval_problems", "eval_every"):
            if getattr(self, name) < 0:
                raise InvalidInputError(f"{name} must be 0 or positive; got {getattr(self, name)}.")
        if self.eval_samples < 1:
            raise InvalidInputError(f"eval_samples must be at least 1; got {self.eval_samples}.")
        if self.num_problems is not None and self.num_problems < 1:
            raise InvalidInputError(f"num_problems must be at least 1; got {self.num_problems}.")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise InvalidInputError(f"the prompt template must contain {{prompt}}; got {self.prompt_template!r}.")


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    Args:
        options: ours.
        model: of TRL's ModelConfig, its name resolved.
        config: of the trainer.
        preset: the baseline it builds on.
        given: every key that the file or a flag set, with its value.
        resume: continue the run in the output directory.
        dry_run: print and stop.
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
        """All settings that a run can be repeated from, JSON-ready, without what TRL derives.

        With the digests of the files of the user's own tasks, where there are any.
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
    """Read the flags, and the file of `--config`.

    Args:
        arguments: what follows `antiphase train`.

    Raises:
        InvalidInputError: an unknown key or flag (naming the nearest), a value of the wrong type, or values that do
            not fit together.
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
                f"unknown flag {flag.split('=')[0]}.{_nearest(flag.strip('-').split('=')[0], actions)}"
            )
        raise InvalidInputError(f"unexpected argument {flag!r}; flags begin with --.")
    path, resume, dry_run = (flags.pop(name) for name in ("config", "resume", "dry_run"))
    stored = {} if path is None else _read_file(Path(path), actions)
    return _resolve({**stored, **flags}, resume=resume, dry_run=dry_run)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else " See antiphase train --help."


def _read_file(path: Path, actions: Mapping[str, argparse.Action]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"the recipe {str(path)!r} cannot be read ({error.strerror or error}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the recipe {str(path)!r} is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"the recipe {str(path)!r} must map keys to values; got {type(content).__name__}.")
    values = {}
    for key, value in content.items():
        if key not in actions:
            raise InvalidInputError(f"{path}: unknown key {str(key)!r}.{_nearest(str(key), actions)}")
        values[key] = _typed(key, value, actions[key], path)
    return values


def _typed(key: str, value: Any, action: argparse.Action, path: Path) -> Any:
    """A YAML value as the flag would give it: `1e-5` is a string in YAML, and lists may have one item."""
    if value is None or isinstance(value, dict):
        return value
    several = action.nargs in ("+", "*")
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not several:
        raise InvalidInputError(f"{path}: {key} takes one value; got a list.")
    convert: Any = action.type if callable(action.type) else str
    typed = []
    for item in items:
        try:
            typed.append(convert(str(item)))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise InvalidInputError(f"{path}: {key}: {item!r} is no valid value ({error}).") from None
    for item in typed:
        if action.choices is not None and item not in action.choices:
            raise InvalidInputError(
                f"{path}: {key} must be one of {', '.join(map(str, action.choices))}; got {item!r}."
            )
    return typed if several else typed[0]


def _resolve(given: dict[str, Any], *, resume: bool, dry_run: bool) -> Recipe:
    values = dict(given)
    preset = None
    if values.get("preset") is not None:
        preset, with_inversion = resolve_preset(values["preset"])
        pinned = dict(preset.arguments)
        if not with_inversion:
            if values.get("inversion_weight", 0.0) != 0:
                raise InvalidInputError(
                    f"preset {values['preset']!r} is the baseline alone, and inversion_weight is "
                    f"{values['inversion_weight']}. Ask for '{values['preset']}+corr-po'."
                )
            pinned["inversion_weight"] = 0.0
        values = {**pinned, **values}
    if is_former(given):
        values |= _as_before(given)
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
    _check_options(options, parts[1])
    name = options.model or parts[1]["model_name_or_path"]
    options.model = name
    if "output_dir" not in parts[2]:
        raise InvalidInputError("say where to write: output_dir in the recipe, or --out.")
    parts[1]["model_name_or_path"] = demo_model_path() if name == DEMO else name
    try:
        return Recipe(
            options, ModelConfig(**parts[1]), CorRPOConfig(**parts[2]), preset, given, resume=resume, dry_run=dry_run
        )
    except InvalidInputError:
        raise
    except (ValueError, TypeError) as error:
        # TRL and transformers check their own arguments; their message says which.
        raise InvalidInputError(" ".join(str(error).split())) from error


FORMER_COMBINES = ("sum", "centered", "gated", "only")
# What holds in a recipe of the first release, whatever its preset says now.
FIRST_RELEASE = {"inversion_unit": "token", "inversion_estimator": "own"}


def is_former(given: Mapping[str, Any]) -> bool:
    """Whether a recipe is read as the first release read it: over tokens, by `own`.

    That release had no units; its recipes name one of its combine modes, no unit, and nothing else that came later.
    """
    names = str(given.get("preset") or "").split("+")
    later = names == [CORR_PO] or CORR_PO_FAST in names or not BEFORE_THE_FIELD.keys().isdisjoint(given)
    return given.get("inversion_combine") in FORMER_COMBINES and not later


def _as_before(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given.get(key, value) for key, value in FIRST_RELEASE.items()}


def _check_host_arguments(config: Mapping[str, Any]) -> None:
    if config.get("resume_from_checkpoint"):
        raise InvalidInputError("resume_from_checkpoint is not used here: --resume takes the run's last checkpoint.")
    if str(getattr(config.get("eval_strategy"), "value", config.get("eval_strategy") or "no")) != "no":
        raise InvalidInputError(
            "eval_strategy needs an evaluation set of TRL's; antiphase train evaluates held-out problems: eval_every."
        )


def _check_options(options: RunOptions, model: Mapping[str, Any]) -> None:
    if options.model is not None and model.get("model_name_or_path") not in (None, options.model):
        raise InvalidInputError("model and model_name_or_path name two models; give one of them.")
    if options.model is None and model.get("model_name_or_path") is None:
        raise InvalidInputError("name a model: model in the recipe, or --model (a hub id, a directory, or 'demo').")
    if not options.tasks:
        raise InvalidInputError("name at least one task: tasks in the recipe, or --tasks gsm8k.")
    for what, names in (("task", options.tasks), ("reward function", options.reward_funcs)):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInputError(f"the {what} {twice!r} is named twice.")
