"""Verdicts on rows of a file: what `antiphase check` shows. Imports no torch.

A row holds a `reference` and a `completion`, and optionally `id`, `finish` and `task`. Beside our verdict stands what
two rules in wide use say, so that a disagreement can be looked at.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError
from antiphase.tasks.math_verify_alone import SPEC as MATH_VERIFY
from antiphase.tasks.plain_numbers import decimal_text
from antiphase.tasks.pool import DEFAULT_TIMEOUT, Outcome, VerifierPool, answer_part
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task

# lm-eval's task gsm8k, filter flexible-extract: the last match counts, then these are removed from both sides.
_LM_EVAL = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# End tokens of models, as tables of rollouts store them.
_END = re.compile(
    r"(?:<\|(?:im_end|endoftext|eot_id|end|return)\|>|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>)+\s*\Z"
)
_LM_EVAL_IGNORED = re.compile(r",|\\$|\$|(?s:.*)#### |\.$")


@dataclass(frozen=True)
class Checked:
    """The verdict on one row.

    Args:
        id: of the row, or its place in the file.
        extracted: the answer that was judged; None if there is none.
        correct, outcome, reason: see `Verdict`.
        math_verify: whether math-verify alone, on the whole completion, calls it right.
        lm_eval: the same of lm-eval's rule for GSM8K; None where the reference is no number.
        expected: what the row says, if it says anything.
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
        """What a line of `--json` holds."""
        names = ("id", "extracted", "correct", "outcome", "reason", "math_verify", "lm_eval", "expected")
        return {name: getattr(self, name) for name in names}


def read_rows(path: Path, spec: str) -> list[tuple[TableRow, Problem]]:
    """The rows of a file, each with its problem.

    Args:
        path: a .jsonl, .json or .parquet file.
        spec: the task that verifies rows that name none.

    Raises:
        InvalidInputError: the file cannot be read, is empty, or a row lacks `reference` or `completion`.
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
        task = row.values.get("task") or spec
        build_task(task)
        row_id = row.values.get("id")
        found.append((row, Problem(str(place if row_id is None else row_id), task, "", row.values["reference"])))
    if not found:
        raise InvalidInputError(f"{path} has no rows.")
    return found


def check_rows(
    rows: Sequence[tuple[TableRow, Problem]], timeout: float = DEFAULT_TIMEOUT, think_tags: Sequence[str] | None = None
) -> list[Checked]:
    """The verdicts on rows, in order.

    Args:
        rows: from `read_rows`.
        timeout: seconds that one verification may take.
        think_tags: tags of thoughts besides the known ones; see `VerifierPool`.

    Raises:
        InvalidInputError: a text in `think_tags` is not two tags.
    """
    completions = [_END.sub("", row.values["completion"]) for row, _ in rows]
    problems = [problem for _, problem in rows]
    alone = [Problem(problem.problem_id, MATH_VERIFY, "", problem.answer) for problem in problems]
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
                row.values.get("expected"),
            )
        )
    return found


def lm_eval_verdict(completion: str, reference: str) -> bool | None:
    """What the filter `flexible-extract` of lm-eval's GSM8K says; None where the reference is no number.

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
