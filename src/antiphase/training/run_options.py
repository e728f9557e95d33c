"""Defines the options of `antiphase train` that are not arguments of TRL. This module imports no torch and no TRL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.steps.thoughts import thought_tags


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class RunOptions:
    """antiphase's own options of a training: what to train on, and what to evaluate.

    Args:
        model: hub id, local directory, or `demo` (the same as TRL's model_name_or_path).
        tasks: specs of the task registry, such as `gsm8k`, `chain_sum:min_terms=2,max_terms=2` or `mine.py:MyTask`.
        reward_funcs: names of reward functions (see `reward_choices.NAMES`), or your own functions as module:function
            or file.py:function.
        preset: the published training method: `corr-po`, `corr-po-fast`, a baseline such as `dapo`, or a baseline with
            `corr-po` or `corr-po-fast`, as in `dapo+corr-po`.
        num_problems: number of training problems of each task; all of them by default.
        eval_problems: number of held-out problems of all tasks together; 0 evaluates nothing.
        eval_samples: number of sampled completions of each held-out problem, besides the greedy one.
        eval_every: number of steps between two evaluations. The model is also evaluated at the beginning and the end.
        eval_split: the split of each task from which the held-out problems are taken. The split `test` has no problem
            that is trained on.
        system_prompt: text before every problem.
        prompt_template: text around every problem, with {prompt} in it.
        chat_template: whether to apply the model's chat template, if the model has one.
        fold_system: whether to put the system message before the first question, for templates that refuse a system
            role.
        end_tokens: texts that end a completion, besides the model's own end tokens. Each text must be a single token.
        think_tags: further tags between which the model thinks. Each text holds an opening and a closing tag, as in
            `<plan> </plan>`.
    """

    model: str | None = _option(None, "hub id, local directory, or 'demo' (same as --model_name_or_path)")
    tasks: list[str] = _option([], "task specs, such as gsm8k, chain_sum:max_terms=2 or mine.py:MyTask")
    reward_funcs: list[str] = _option(["accuracy"], "accuracy, format, self_certainty, …, or module:function")
    preset: str | None = _option(None, "corr-po, corr-po-fast, or a baseline, alone or as dapo+corr-po")
    num_problems: int | None = _option(None, "training problems of each task (default: all)")
    eval_problems: int = _option(64, "held-out problems; 0 evaluates nothing")
    eval_samples: int = _option(4, "completions of each held-out problem, besides the greedy one")
    eval_every: int = _option(0, "steps between two evaluations, beside those at the beginning and the end; 0: none")
    eval_split: str = _option("test", "split that the held-out problems come from")
    system_prompt: str | None = _option(None, "text before every problem")
    prompt_template: str | None = _option(None, "text around every problem, with {prompt} in it")
    chat_template: bool = _option(True, "apply the model's chat template where it has one")
    fold_system: bool = _option(False, "put the system message before the first question")
    end_tokens: list[str] = _option([], "texts of one token each that end a completion, besides the model's own")
    think_tags: list[str] = _option([], "tags of thoughts besides the known ones, each text as in '<plan> </plan>'")

    def __post_init__(self) -> None:
        thought_tags(self.think_tags)
        for name in ("eval_problems", "eval_every"):
            if getattr(self, name) < 0:
                raise InvalidInputError(f"{name} must be 0 or positive; got {getattr(self, name)}.")
        if self.eval_samples < 1:
            raise InvalidInputError(f"eval_samples must be at least 1; got {self.eval_samples}.")
        if self.num_problems is not None and self.num_problems < 1:
            raise InvalidInputError(f"num_problems must be at least 1; got {self.num_problems}.")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise InvalidInputError(f"the prompt template must contain {{prompt}}; got {self.prompt_template!r}.")


# The values of these options in runs that were made before the options existed.
BEFORE_THE_OPTION: Mapping[str, object] = {"think_tags": [], "fold_system": False}


def check_options(options: RunOptions, model_name_or_path: str | None, output_dir: str | None) -> None:
    """Raise an error if options do not fit together, or if an option that every run needs is missing.

    Args:
        options: antiphase's own options.
        model_name_or_path, output_dir: TRL's options of these names, or None.

    Raises:
        InvalidInputError: no model, two models, no task or no output folder is named, or a task or reward function is
            named twice.
    """
    if options.model is not None and model_name_or_path not in (None, options.model):
        raise InvalidInputError("model and model_name_or_path name two models; give one of them.")
    if options.model is None and model_name_or_path is None:
        raise InvalidInputError("name a model: model in the recipe, or --model (a hub id, a directory, or 'demo').")
    if not options.tasks:
        raise InvalidInputError("name at least one task: tasks in the recipe, or --tasks gsm8k.")
    for what, names in (("task", options.tasks), ("reward function", options.reward_funcs)):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInputError(f"the {what} {twice!r} is named twice.")
    if output_dir is None:
        raise InvalidInputError("name the folder to write to: output_dir in the recipe, or --out.")
