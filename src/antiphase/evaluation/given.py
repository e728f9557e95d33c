"""Given rollouts: another engine's completions, matched to the problems that they answer."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from antiphase.data.rendering import end_token_ids
from antiphase.data.rollouts import token_ids
from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError
from antiphase.evaluation.config import EvalConfig
from antiphase.evaluation.plan import GREEDY, Batch, TaskPlan, rollout_name
from antiphase.probing.items import Item, Limits
from antiphase.tasks.problem import Problem

_ID_COLUMNS = ("problem_id", "id", "prompt_id")
_TEXT_COLUMNS = ("question", "problem", "prompt")
_COMPLETION_COLUMNS = ("completion", "response", "output")


@dataclass(frozen=True)
class GivenCompletion:
    """One completion of a problem, as text or as token ids."""

    place: str
    problem: Problem
    sample: int
    text: str | None
    completion_ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None
    finish: str


def load_given(
    source: str | Sequence[Mapping[str, Any]] | pd.DataFrame, plans: Sequence[TaskPlan]
) -> list[tuple[TaskPlan, list[GivenCompletion]]]:
    """The rollouts of a JSONL or Parquet file, a data frame or a list of mappings, by task.

    Args:
        source: rows with `problem_id` (or `id`), or the problem's text as `question`; and `completion` (or `response`,
            `output`) text or `completion_ids`; optionally `prompt_ids`, `task`, `finish` and `greedy`. The
            rollouts.parquet of an evaluation is of this form.
        plans: the tasks with their problems; those without a rollout drop out.

    Raises:
        InvalidInputError: a row that answers no problem of the tasks, or holds no completion (with its place).
    """
    if isinstance(source, str):
        from pathlib import Path

        rows = read_table(Path(source))
    else:
        records: Any = source.to_dict("records") if isinstance(source, pd.DataFrame) else source
        rows = [TableRow(f"rollout {index}", values) for index, values in enumerate(records)]
        if not rows:
            raise InvalidInputError("the list of rollouts is empty.")
    by_key: dict[tuple[str, str], tuple[int, Problem]] = {}
    for place, plan in enumerate(plans):
        for problem in plan.problems:
            by_key.setdefault(("id", problem.problem_id), (place, problem))
            by_key.setdefault(("text", problem.prompt.strip()), (place, problem))
    found: list[dict[tuple[str, int], GivenCompletion]] = [{} for _ in plans]
    counts: dict[str, int] = {}
    for row in rows:
        place, problem = _match(row, plans, by_key)
        given = _completion(row, problem, counts)
        known = found[place].setdefault((problem.problem_id, given.sample), given)
        # The table of an evaluation repeats a rollout for every estimator; other repeats are mistakes.
        if dataclasses.replace(known, place="") != dataclasses.replace(given, place=""):
            raise InvalidInputError(
                f"sample {given.sample} of the problem {problem.problem_id!r} stands twice ({known.place}; "
                f"{given.place}) with different tokens. Of a run with several models, keep one model's rows."
            )
    matched = []
    for plan, completions in zip(plans, found, strict=True):
        if completions:
            kept = {problem_id for problem_id, _ in completions}
            problems = tuple(problem for problem in plan.problems if problem.problem_id in kept)
            matched.append((dataclasses.replace(plan, problems=problems), list(completions.values())))
    return matched


def _match(
    row: TableRow, plans: Sequence[TaskPlan], by_key: Mapping[tuple[str, str], tuple[int, Problem]]
) -> tuple[int, Problem]:
    name, text = row.first_of(_ID_COLUMNS), row.first_of(_TEXT_COLUMNS)
    task = row.values.get("task")
    keys = [("id", str(name))] if name is not None else []
    keys += [("text", text.strip())] if isinstance(text, str) else []
    for key in keys:
        found = by_key.get(key)
        if found is not None and (task is None or plans[found[0]].task.spec == task or len(plans) == 1):
            return found
    raise InvalidInputError(
        f"{row.place}: answers no problem of {', '.join(plan.task.spec for plan in plans)} (problem_id {name!r}, "
        f"question {str(text)[:40]!r}). Name its task with --tasks, draw its problems with --num-problems all, or "
        "choose another --split."
    )


def _completion(row: TableRow, problem: Problem, counts: dict[str, int]) -> GivenCompletion:
    ids, text = row.values.get("completion_ids"), row.first_of(_COMPLETION_COLUMNS)
    if ids is None and not isinstance(text, str):
        raise InvalidInputError(
            f"{row.place}: expected 'completion' text or 'completion_ids'; found {', '.join(row.values) or 'nothing'}."
        )
    greedy = bool(row.values.get("greedy")) or row.values.get("sample") == GREEDY
    if not greedy and row.values.get("sample") is None:
        counts[problem.problem_id] = counts.get(problem.problem_id, -1) + 1
    sample = GREEDY if greedy else row.values.get("sample", counts.get(problem.problem_id))
    prompt_ids = row.values.get("prompt_ids")
    return GivenCompletion(
        row.place,
        problem,
        int(counts[problem.problem_id] if sample is None else sample),
        text if ids is None else None,
        None if ids is None else token_ids(ids, row, "completion_ids"),
        None if prompt_ids is None else token_ids(prompt_ids, row, "prompt_ids"),
        str(row.values.get("finish") or "given"),
    )


def given_batches(
    matched: Sequence[tuple[TaskPlan, Sequence[GivenCompletion]]], tokenizer: Any, limits: Limits, config: EvalConfig
) -> list[Batch]:
    """The given rollouts as batches that need no generation.

    Raises:
        InvalidInputError: ids that the model cannot take, or a row longer than its context.
    """
    batches = []
    for plan, completions in matched:
        form = plan.prompt_format(config.system_prompt)
        ends = tuple(end_token_ids(plan.end_tokens, tokenizer))
        for start in range(0, len(completions), config.batch_size):
            part = completions[start : start + config.batch_size]
            items = tuple(_item(plan, given, form, tokenizer) for given in part)
            for item, given in zip(items, part, strict=True):
                limits.check(item, given.place, 0)
            problems, samples = tuple(given.problem for given in part), tuple(given.sample for given in part)
            batches.append(Batch(plan, config.sampling(plan.max_new_tokens), ends, items, problems, samples))
    return batches


def _item(plan: TaskPlan, given: GivenCompletion, form: Any, tokenizer: Any) -> Item:
    prompt_ids = given.prompt_ids or tuple(form.encode(tokenizer, given.problem.prompt, given.place))
    ids = given.completion_ids
    if ids is None:
        ids = tuple(int(token) for token in tokenizer(given.text, add_special_tokens=False).input_ids)
    name = rollout_name(plan, given.problem, given.sample)
    text = given.text if given.text is not None else str(tokenizer.decode(list(ids)))
    return Item(given.problem.problem_id, name, given.problem.prompt, prompt_ids, ids, text, given.finish)
