"""Verify the completions in a file, for the command `antiphase check`.

Each row of the file has a `reference` and a `completion`, and may have an `id`, a `finish`, a `task` and an `expected`
verdict. Each row gets the verdict of its task, and the verdicts of two other rules in wide use, so that the user can
look at the rows on which the rules disagree. This module does not import torch.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError
from antiphase.tasks.math_verify_alone import SPEC as MATH_VERIFY
from antiphase.tasks.plain_numbers import decimal_text
from antiphase.tasks.pool import DEFAULT_TIMEOUT, VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task
from antiphase.tasks.verdict import Outcome, answer_part

# From lm-eval's task gsm8k, filter flexible-extract: the last match of _LM_EVAL in a completion is its answer. Then
# whatever _LM_EVAL_IGNORED matches is removed from the answer and from the reference, and the two are compared.
_LM_EVAL = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# End tokens that some files of rollouts keep in their texts.
_END = re.compile(
    r"(?:<\|(?:im_end|endoftext|eot_id|end|return)\|>|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>)+\s*\Z"
)
_LM_EVAL_IGNORED = re.compile(r",|\\$|\$|(?s:.*)#### |\.$")


@dataclass(frozen=True)
class Checked:
    """The verdicts on one row of a file: by the task of the row, by math-verify, and by lm-eval.

    Args:
        id: the id of the row. If the row has no id, this is the number of the row in the file, counted from 0.
        extracted: the answer that was judged; None if the completion has no answer.
        correct, outcome, reason: the task's verdict. `correct` says whether the completion is right, `outcome` is a
            name such as `wrong` or `no answer`, and `reason` explains the outcome in a few words.
        math_verify: whether the package math-verify accepts the completion. It judges all of the text.
        lm_eval: whether lm-eval's rule for GSM8K accepts the completion; None if the reference answer is not a
            number.
        expected: the value of the row's column `expected`; None if the row has no such column.
    """

    id: str
    extracted: str | None
    correct: bool
    outcome: Outcome
    reason: str
    math_verify: bool
    lm_eval: bool | None
    expected: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary. `antiphase check --json` prints this dictionary for each row."""
        return asdict(self)


def read_rows(path: Path, spec: str) -> list[tuple[TableRow, Problem]]:
    """Read the rows of a file, and return each row together with the problem that its completion answers.

    Args:
        path: a .jsonl, .json or .parquet file.
        spec: the spec (name and options) of a task. It is used for each row that has no `task`.

    Raises:
        InvalidInputError: the file cannot be read or has no rows; a row has no text in `reference` or `completion`; a
            row's `finish` or `task` is unknown; or a row's `expected` is neither true nor false.
    """
    found = []
    for place, row in enumerate(read_table(path)):
        for name in ("reference", "completion"):
            if not isinstance(row.values.get(name), str):
                raise InvalidInputError(
                    f"{row.place}: {name} must be text; got {row.values.get(name)!r}. A row needs 'reference' and "
                    "'completion'."
                )
        if row.values.get("finish") not in (None, "stop", "length", "given"):
            raise InvalidInputError(
                f"{row.place}: finish must be 'stop' or 'length'; got {row.values['finish']!r}. Leave it out where it "
                "is not known."
            )
        if row.values.get("expected") not in (None, True, False):  # 0 and 1 equal False and True
            raise InvalidInputError(
                f"{row.place}: expected must be true or false; got {row.values['expected']!r}. Leave it out where it "
                "is not known."
            )
        task = row.values.get("task") or spec
        if not isinstance(task, str):
            raise InvalidInputError(f"{row.place}: task must be text, such as 'gsm8k'; got {task!r}.")
        try:
            build_task(task)
        except InvalidInputError as error:
            raise InvalidInputError(f"{row.place}: {error}") from None
        row_id = row.values.get("id")
        found.append((row, Problem(str(place if row_id is None else row_id), task, "", row.values["reference"])))
    if not found:
        raise InvalidInputError(f"{path} has no rows.")
    return found


def check_rows(
    rows: Sequence[tuple[TableRow, Problem]], timeout: float = DEFAULT_TIMEOUT, think_tags: Sequence[str] | None = None
) -> list[Checked]:
    """Verify the completions of the rows, and return one `Checked` for each row, in the same order.

    Args:
        rows: the rows with their problems, as `read_rows` returns them.
        timeout: the seconds that one verification may take. If it takes longer, the completion counts as wrong.
        think_tags: further pairs of tags around a thought, in addition to `thoughts.TAGS`. Each text is an opening and
            a closing tag, such as `<plan> </plan>`.

    Raises:
        InvalidInputError: a text in `think_tags` is not two tags.
    """
    completions = [_END.sub("", row.values["completion"]) for row, _ in rows]
    problems = [problem for _, problem in rows]
    alone = [replace(problem, task=MATH_VERIFY) for problem in problems]
    with VerifierPool(think_tags=think_tags) as pool:
        finishes = [row.values.get("finish") for row, _ in rows]
        verdicts = pool.check(list(zip(completions, problems, strict=True)), timeout, finishes)
        others = pool.check(list(zip(completions, alone, strict=True)), timeout)
    found = []
    for (row, problem), text, verdict, other in zip(rows, completions, verdicts, others, strict=True):
        task = build_task(problem.task)
        answer = answer_part(task, text, pool.tags)
        shown = None if answer is None else task.found(answer, problem)
        found.append(
            Checked(
                problem.problem_id,
                None if shown is None else shown.text,
                verdict.correct,
                verdict.outcome,
                verdict.reason,
                other.correct,
                lm_eval_verdict(text, problem.answer),
                None if row.values.get("expected") is None else bool(row.values["expected"]),
            )
        )
    return found


def lm_eval_verdict(completion: str, reference: str) -> bool | None:
    """Return the verdict of lm-eval's rule for GSM8K, the filter `flexible-extract`.

    The rule takes the last number of the completion, and compares it with the reference answer. If the reference
    answer is not a number, the verdict is None.

    Source: lm_eval/tasks/gsm8k/gsm8k.yaml of EleutherAI/lm-evaluation-harness, 0.4.

    >>> lm_eval_verdict("The answer is 18. She does this 3 times.", "18"), lm_eval_verdict("$1,234", "1234")
    (False, True)
    """
    if decimal_text(reference) is None:
        return None
    found = [first or second for first, second in _LM_EVAL.findall(completion)]
    if not found:
        return False
    return _LM_EVAL_IGNORED.sub("", found[-1]) == _LM_EVAL_IGNORED.sub("", reference)
