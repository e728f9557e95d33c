r"""The strict and the flexible score of a completion, which are shown beside the verdict.

The verdict takes the answer from tags, a box, an announcement, or else the last number or line. The strict score
accepts an answer only in tags, in a box or after an announcement. The flexible score takes the last number, wherever
it stands, as the filter `flexible-extract` of lm-eval does. The difference of the two scores shows how much an
accuracy depends on the rule that finds the answer. Neither score needs a process that verifies: the strict one follows
from the verdict, and the flexible one compares plain numbers.
"""

from dataclasses import dataclass

from antiphase.tasks.extraction import MAX_LENGTH, How, last_number
from antiphase.tasks.plain_numbers import exact_number
from antiphase.tasks.problem import Problem, Task

_PRESENTED: tuple[How, ...] = ("tags", "box", "announced")


@dataclass(frozen=True)
class TwoScores:
    """The strict and the flexible score of a completion.

    Args:
        strict: whether the completion is right and its answer stood in tags, in a box or after an announcement. None
            for a task whose verifier looks in one place only.
        flexible: whether the last number equals the reference answer. None for a task whose verifier looks in one
            place only, and None if the reference answer is not a number.
    """

    strict: bool | None = None
    flexible: bool | None = None


def strict_and_flexible(task: Task, answer: str, problem: Problem, *, correct: bool) -> TwoScores:
    r"""Return the strict and the flexible score of a completion.

    The strict score is True if the verifier accepted the completion, and the answer stood in tags, in a box or after
    an announcement. The flexible score is True if the last number of the completion equals the reference
    answer.

    Args:
        task: the task of the problem.
        answer: the completion without its thought; empty if the thought does not end.
        problem: the problem.
        correct: whether the verifier of the task accepted the completion.

    >>> from antiphase.tasks.registry import build_task
    >>> task, problem = build_task("gsm8k"), Problem("p", "gsm8k", "", "18")
    >>> strict_and_flexible(task, "9 + 9 makes 18", problem, correct=True)
    TwoScores(strict=False, flexible=True)
    >>> strict_and_flexible(task, r"\boxed{18}, that is 3 times 6", problem, correct=True)
    TwoScores(strict=True, flexible=False)
    """
    if not task.has_two_scores:
        return TwoScores()
    found = task.found(answer, problem)
    strict = correct and found is not None and found.how in _PRESENTED
    wanted, last = exact_number(problem.answer), last_number(answer[-MAX_LENGTH:])
    if wanted is None:
        return TwoScores(strict)
    return TwoScores(strict, last is not None and exact_number(last) == wanted)
