"""Match given rollouts, which another engine completed, to the problems that they answer."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from antiphase.data.given_rollouts import COMPLETION_COLUMNS, given_rows, token_ids
from antiphase.data.prompt_rendering import end_token_ids
from antiphase.data.tables import TableRow
from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.plan import GREEDY, ProblemBatch, TaskPlan, rollout_name
from antiphase.runs.items import Item, Limits
from antiphase.tasks.problem import Problem

# Maps (task, or None for any task; kind of key, `id` or `text`; key) to the problems with this key. The number before
# each problem is the index of its task.
_Keys = dict[tuple[str | None, str, str], list[tuple[int, Problem]]]
_ID_COLUMNS = ("problem_id", "id", "prompt_id")
_TEXT_COLUMNS = ("question", "problem", "prompt")


@dataclass(frozen=True)
class GivenCompletion:
    """One given completion of a problem, as text or as token ids.

    `place` says where the completion was read, for error messages. `sample` is the number of the completion among
    those of the problem, from 0; it is `GREEDY` for a greedy completion.
    """

    place: str
    problem: Problem
    sample: int
    text: str | None
    completion_ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None
    finish: str


def load_given(source: str | Any, plans: Sequence[TaskPlan]) -> list[tuple[TaskPlan, list[GivenCompletion]]]:
    """Read given rollouts from a JSONL or Parquet file, a data frame or a list of mappings, and find their problems.

    Args:
        source: the rows, one for each rollout. The column `problem_id` (or `id`) names the problem, or the column
            `question` has the problem's text. The completion is a text in `completion` (or `response`, `output`), or
            token ids in `completion_ids`. A row may also have `prompt_ids`, `task`, `finish` and `greedy`. The
            rollouts.parquet of an evaluation has this form.
        plans: the tasks with their problems.

    Returns:
        (task, completions) for each task. Tasks without a rollout are left out, and so are problems without one.

    Raises:
        InvalidInputError: a row answers no problem of the tasks, has no completion, or has the same problem and sample
            number as another row but other tokens. The message says where the row stands.
    """
    rows = given_rows(source)
    by_key: _Keys = {}
    for place, plan in enumerate(plans):
        for problem in plan.problems:
            for task in (plan.task.spec, None):
                by_key.setdefault((task, "id", problem.problem_id), []).append((place, problem))
                by_key.setdefault((task, "text", problem.prompt.strip()), []).append((place, problem))
    found: list[dict[tuple[str, int], GivenCompletion]] = [{} for _ in plans]
    counts: dict[str, int] = {}
    for row in rows:
        place, problem = _match(row, plans, by_key)
        given = _completion(row, problem, counts)
        known = found[place].setdefault((problem.problem_id, given.sample), given)
        # The table of an evaluation repeats a rollout for every estimator. A repeat with other content is a mistake.
        if dataclasses.replace(known, place="") != dataclasses.replace(given, place=""):
            raise InvalidInputError(
                f"sample {given.sample} of the problem {problem.problem_id!r} stands twice ({known.place}; "
                f"{given.place}) with different tokens. If the rows come from a run with several models, keep the "
                "rows of one model."
            )
    matched = []
    for plan, completions in zip(plans, found, strict=True):
        if completions:
            kept = {problem_id for problem_id, _ in completions}
            problems = tuple(problem for problem in plan.problems if problem.problem_id in kept)
            matched.append((dataclasses.replace(plan, problems=problems), list(completions.values())))
    return matched


def given_digest(matched: Sequence[tuple[TaskPlan, Sequence[GivenCompletion]]]) -> str:
    """Return a digest of all given completions. A continued run uses it to check that they are still the same."""
    content = [
        (given.problem, given.sample, given.text, given.completion_ids, given.prompt_ids, given.finish)
        for _, completions in matched
        for given in completions
    ]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _match(row: TableRow, plans: Sequence[TaskPlan], by_key: _Keys) -> tuple[int, Problem]:
    """Return the problem that a row answers, with the index of its task."""
    name, text, task = row.first_of(_ID_COLUMNS), row.first_of(_TEXT_COLUMNS), row.values.get("task")
    keys: list[tuple[str, str]] = [("id", str(name))] if name is not None else []
    keys += [("text", text.strip())] if isinstance(text, str) else []
    for kind, value in keys:
        # If there is one task, the task name of a row is ignored. Another run may have read the same data from a file.
        found = by_key.get((None if task is None or len(plans) == 1 else str(task), kind, value), [])
        if len(found) > 1:
            raise InvalidInputError(
                f"{row.place}: several tasks have a problem with the {kind} {value[:40]!r}. Add the column task, "
                "which says which one is meant."
            )
        if found:
            return found[0]
    raise InvalidInputError(
        f"{row.place}: the row answers no problem of {', '.join(plan.task.spec for plan in plans)} "
        f"(problem_id {name!r}, question {str(text)[:40]!r}). Name the task of this row with --tasks, use all "
        "problems of the task with --num-problems all, or choose another --split."
    )


def _completion(row: TableRow, problem: Problem, counts: dict[str, int]) -> GivenCompletion:
    ids, text = row.values.get("completion_ids"), row.first_of(COMPLETION_COLUMNS)
    if ids is None and not isinstance(text, str):
        raise InvalidInputError(
            f"{row.place}: expected 'completion' text or 'completion_ids'; found {', '.join(row.values) or 'nothing'}."
        )
    prompt_ids, finish = row.values.get("prompt_ids"), _present(row, "finish")
    if finish not in (None, "stop", "length", "given"):
        raise InvalidInputError(
            f"{row.place}: finish must be 'stop' or 'length'; got {finish!r}. If you do not know it, leave finish out."
        )
    if isinstance(prompt_ids, Sized) and not len(prompt_ids):
        raise InvalidInputError(
            f"{row.place}: prompt_ids is empty, so nothing predicts the first completion token. Give at least one "
            "prompt token."
        )
    return GivenCompletion(
        row.place,
        problem,
        _sample(row, problem, counts),
        text if ids is None else None,
        None if ids is None else token_ids(ids, row, "completion_ids"),
        None if prompt_ids is None else token_ids(prompt_ids, row, "prompt_ids"),
        "given" if finish is None else str(finish),
    )


def _present(row: TableRow, column: str) -> Any:
    """Return the value of a column; None if it is absent, null or NaN. Data frames write missing values as NaN."""
    value = row.values.get(column)
    return None if isinstance(value, float) and math.isnan(value) else value


def _sample(row: TableRow, problem: Problem, counts: dict[str, int]) -> int:
    """Return the sample number of a row, or `GREEDY` for a greedy completion.

    A row without a number gets the next number of its problem, from 0. `counts` holds the last number of each problem.
    """
    greedy, sample = _present(row, "greedy"), _present(row, "sample")
    if greedy is not None and type(greedy) is not bool and not isinstance(greedy, np.bool_):
        raise InvalidInputError(f"{row.place}: greedy must be true or false; got {greedy!r}.")
    if isinstance(sample, float) and sample.is_integer():  # In a column with missing values, numbers are floats.
        sample = int(sample)
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, Integral) or int(sample) < GREEDY):
        raise InvalidInputError(
            f"{row.place}: sample must be a number from 0, or -1 for the greedy one; got {sample!r}."
        )
    if greedy:
        return GREEDY
    if sample is not None:
        return int(sample)
    counts[problem.problem_id] = counts.get(problem.problem_id, -1) + 1
    return counts[problem.problem_id]


def given_batches(
    matched: Sequence[tuple[TaskPlan, Sequence[GivenCompletion]]],
    tokenizer: Any,
    limits: Limits,
    config: EvalConfig,
    moment: str,
) -> list[ProblemBatch]:
    """Divide given rollouts into batches. Their completions need not be generated.

    Args:
        matched: each task with the rollouts that answer its problems.
        tokenizer: the model's tokenizer.
        limits: the limits of the model: its vocabulary and its context length.
        config: the options of the evaluation.
        moment: the time that chat templates read, in ISO format.

    Raises:
        InvalidInputError: the model's vocabulary lacks a token id, or a row is longer than the model's context.
    """
    batches = []
    for plan, completions in matched:
        form = plan.prompt_format(config, moment)
        ends = tuple(end_token_ids(plan.end_tokens, tokenizer))
        for start in range(0, len(completions), config.batch_size):
            part = completions[start : start + config.batch_size]
            items = tuple(_item(plan, given, form, tokenizer) for given in part)
            for item, given in zip(items, part, strict=True):
                limits.check(item, given.place, 0)
            problems, samples = tuple(given.problem for given in part), tuple(given.sample for given in part)
            batches.append(ProblemBatch(items, config.sampling(plan.max_new_tokens), ends, plan, problems, samples))
    return batches


def _item(plan: TaskPlan, given: GivenCompletion, form: Any, tokenizer: Any) -> Item:
    prompt_ids = given.prompt_ids or tuple(form.encode(tokenizer, given.problem.prompt, given.place))
    ids = given.completion_ids
    if ids is None:
        ids = tuple(int(token) for token in tokenizer(given.text, add_special_tokens=False).input_ids)
    name = rollout_name(plan, given.problem, given.sample)
    text = given.text if given.text is not None else str(tokenizer.decode(list(ids)))
    return Item(given.problem.problem_id, name, given.problem.prompt, prompt_ids, ids, text, given.finish)
