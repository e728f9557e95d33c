"""Plan an evaluation: load the tasks with their problems and options, and divide a model's rollouts into batches.

The problems depend only on the task. So all models, seeds and methods answer the same problems.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from antiphase.data.prompt_rendering import PromptFormat, end_token_ids
from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig, num_samples
from antiphase.rollouts.sampling_spec import rollout_seeds
from antiphase.runs.items import Batch, Item, Limits
from antiphase.tasks.own_task import OwnTask
from antiphase.tasks.problem import Problem, Task
from antiphase.tasks.registry import load_task
from antiphase.tasks.suites import EVALUATION_OPTIONS, SuiteEntry

PROBLEM_SEED = 0
GREEDY = -1


@dataclass(frozen=True)
class TaskPlan:
    """One task with its problems, and how a model is asked to solve them.

    Args:
        task: the task, with its verifier.
        problems: the problems, in order.
        template: a text with `{prompt}` in it, which is put around each prompt.
        chat_template: whether the model's chat template is applied, if the model has one.
        max_new_tokens: the greatest number of tokens of a completion.
        end_tokens: texts of tokens that end a completion, in addition to the model's own end tokens.
        samples: the number of sampled completions of each problem.
    """

    task: Task
    problems: tuple[Problem, ...]
    template: str
    chat_template: bool
    max_new_tokens: int
    end_tokens: tuple[str, ...]
    samples: int

    def prompt_format(self, config: EvalConfig, moment: str) -> PromptFormat:
        """Return the options for making prompts. `moment` is the time, in ISO format, that chat templates read."""
        return PromptFormat(self.template, config.system_prompt, self.chat_template, config.chat_options(moment))

    def identity(self, config: EvalConfig) -> dict[str, Any]:
        """Return the values that must be the same in two results of this task, so that they can be compared.

        They describe the prompts, the budget (numbers of samples and tokens) and the verifier.
        """
        chat = {"chat_template_kwargs": config.chat_template_kwargs, "fold_system": config.fold_system}
        asked = [[p.problem_id, p.prompt, p.answer, p.metadata] for p in self.problems]
        return {
            "task": self.task.spec,
            "problems_sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
            "num_problems": len(self.problems),
            "split": config.split,
            "prompt_template": self.template,
            "system_prompt": config.system_prompt,
            "chat_template": self.chat_template,
            # Only options that are set are included. So a run from before these options existed has the same identity.
            **{name: value for name, value in chat.items() if value},
            "max_new_tokens": None if config.rollouts else self.max_new_tokens,
            "end_tokens": list(self.end_tokens),
            "samples": None if config.rollouts else self.samples,
            "temperature": None if config.rollouts else config.temperature,
            "top_p": None if config.rollouts else config.top_p,
        }


def plan_tasks(config: EvalConfig) -> list[TaskPlan]:
    """Load the tasks of an evaluation with their problems.

    Raises:
        InvalidInputError: a task or suite is unknown (the message suggests the most similar name), a task has too few
            problems, or a row of a data set has no answer.
        MissingExtraError: a package that a task needs is not installed.
    """
    entries = config.entries()
    # All tasks are looked up before problems are drawn, since drawing may download a data set.
    tasks = [load_task(entry.spec) for entry in entries]
    for task in tasks:
        _check_options(task)
    return [plan_entry(entry, task, config) for entry, task in zip(entries, tasks, strict=True)]


def _check_options(task: Task) -> None:
    """Raise InvalidInputError if a user's own task has an option that the evaluation reads itself."""
    both = sorted(task.option_names & set(EVALUATION_OPTIONS)) if isinstance(task, OwnTask) else []
    if both:
        raise InvalidInputError(
            f"task {task.spec!r}: antiphase eval reads the option {both[0]!r} of every spec itself, so a task cannot "
            f"have an option of this name. Rename the parameter {both[0]!r} of {task.name}."
        )


def plan_entry(entry: SuiteEntry, task: Task, config: EvalConfig) -> TaskPlan:
    """Return the plan of one task: its problems, and its options combined with those of the evaluation."""
    wanted = config.num_problems if config.num_problems is not None else entry.num_problems
    number = None if wanted == "all" else wanted
    template = config.prompt_template or entry.prompt_template or task.prompt_template or "{prompt}"
    chat = config.chat_template if config.chat_template is not None else entry.chat_template
    return TaskPlan(
        task,
        tuple(task.problems(config.split_name, number, PROBLEM_SEED)),
        template,
        chat is not False,
        config.sampling(entry.max_new_tokens).max_new_tokens,
        entry.end_tokens if config.end_tokens is None else config.end_tokens,
        num_samples(entry),
    )


@dataclass(frozen=True)
class ProblemBatch(Batch):
    """Rollouts of one task that are completed, verified, measured and written together.

    Args:
        plan: the task of the rollouts.
        problems: the problem of each rollout.
        samples: for each rollout, its number among the samples of its problem, from 0; `GREEDY` for a greedy rollout.
    """

    plan: TaskPlan
    problems: tuple[Problem, ...]
    samples: tuple[int, ...]

    @property
    def label(self) -> str:
        """The task's spec (its name with options) for the progress bar. A long spec is cut."""
        spec = self.plan.task.spec
        return spec if len(spec) <= 32 else f"{spec[:31]}…"


def batches_of(
    plans: Sequence[TaskPlan], tokenizer: Any, limits: Limits, config: EvalConfig, moment: str
) -> list[ProblemBatch]:
    """Return all rollouts that a model has to complete, in batches. The prompts are tokenised.

    All rollouts of a batch belong to one task, and all are sampled or all are greedy. The seed of a rollout does
    not depend on other tasks.

    Args:
        plans: the tasks with their problems.
        tokenizer: the model's tokenizer.
        limits: the limits of the model: its vocabulary and its context length.
        config: the options of the evaluation.
        moment: the time that chat templates read, in ISO format.

    Raises:
        InvalidInputError: a prompt has no tokens, or does not fit the model's context.
    """
    batches = []
    for plan in plans:
        form = plan.prompt_format(config, moment)
        ends = tuple(end_token_ids(plan.end_tokens, tokenizer))
        encoded = []
        for problem in plan.problems:
            place = f"{plan.task.spec}, problem {problem.problem_id}"
            encoded.append(tuple(form.encode(tokenizer, problem.prompt, place)))
            limits.check(_item(plan, problem, 0, encoded[-1]), place, plan.max_new_tokens)
        kinds = [(list(range(plan.samples)), False), ([GREEDY], True)][: 2 if config.greedy else 1]
        for samples, greedy in kinds:
            rows = [(p, i, s) for p, i in zip(plan.problems, encoded, strict=True) for s in samples]
            sampling = config.sampling(plan.max_new_tokens, greedy=greedy)
            seeds = tuple(rollout_seeds(sampling.seed, [ids for _, ids, _ in rows]))
            for start in range(0, len(rows), config.batch_size):
                within = slice(start, start + config.batch_size)
                part = rows[within]
                items = tuple(_item(plan, problem, sample, ids) for problem, ids, sample in part)
                problems, numbers = tuple(p for p, _, _ in part), tuple(s for _, _, s in part)
                batches.append(ProblemBatch(items, sampling, ends, plan, problems, numbers, seeds=seeds[within]))
    return batches


def _item(plan: TaskPlan, problem: Problem, sample: int, prompt_ids: tuple[int, ...]) -> Item:
    return Item(problem.problem_id, rollout_name(plan, problem, sample), problem.prompt, prompt_ids)


def rollout_name(plan: TaskPlan, problem: Problem, sample: int) -> str:
    """Return the rollout id of one sample of a problem."""
    return f"{plan.task.spec}/{problem.problem_id}/{'greedy' if sample == GREEDY else sample}"


def check_distinct(plans: Sequence[TaskPlan]) -> None:
    """Raise InvalidInputError if a task repeats a problem id, or two tasks have the same problems."""
    asked: dict[tuple[Problem, ...], str] = {}
    for plan in plans:
        key = tuple(replace(problem, task="") for problem in plan.problems)
        if key in asked:
            raise InvalidInputError(
                f"the tasks {asked[key]!r} and {plan.task.spec!r} have the same problems. Keep one of them."
            )
        asked[key] = plan.task.spec
        ids = [problem.problem_id for problem in plan.problems]
        twice = next((name for name in ids if ids.count(name) > 1), None) if len(set(ids)) < len(ids) else None
        if twice is not None:
            raise InvalidInputError(f"task {plan.task.spec!r}: the problem id {twice!r} stands twice.")
