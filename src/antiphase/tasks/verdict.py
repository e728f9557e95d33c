"""The verdict on a completion: the part of the completion that is read, the outcome, and the reason in a few words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from antiphase.errors import AntiphaseError
from antiphase.steps.thoughts import TAGS, spoken
from antiphase.tasks.extraction import PLACES
from antiphase.tasks.problem import Problem, Task
from antiphase.tasks.registry import build_task

Outcome = Literal["right", "wrong", "no answer", "cut off", "timeout", "error"]
# The outcomes of a completion that has not given its answer.
NO_ANSWER: tuple[Outcome, ...] = ("no answer", "cut off")
# The version of the rules by which answers are found and verified. It goes up whenever a verdict can change.
VERDICT_RULES = "3"


class VerifierError(AntiphaseError, RuntimeError):
    """Raised when no completion can be verified, because a process does not start or a package is missing."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one completion. Every outcome other than `right` counts as wrong.

    Args:
        correct: whether the completion is right.
        outcome: `right`; `wrong`; `no answer` (the completion has no answer, or its thought does not end); `cut off`
            (the completion reached its length limit before it gave an answer); `timeout` (verifying took too long);
            `error` (the verifier raised an error, or its process ended).
        reason: a few words that explain the outcome.
    """

    correct: bool
    outcome: Outcome
    reason: str = field(default="", compare=False)


def answer_part(task: Task, completion: str, tags: Sequence[tuple[str, str]] = TAGS) -> str | None:
    """Return the part of a completion that the task's verifier reads.

    This part is the text after the thought. If the thought does not end, None is returned. If the task's
    `reads_thoughts` is True, the part is the whole completion.
    """
    return completion if task.reads_thoughts else spoken(completion, tags).answer


def quick_verdict(answer: str | None, problem: Problem) -> Verdict | None:
    """Return the verdict that a few string operations can decide; None if a process is needed."""
    if answer is None:
        return Verdict(False, "no answer", "the thought was begun and not ended")
    task = build_task(problem.task)
    correct = task.quick_verdict(answer, problem)
    if correct is False and task.found(answer, problem) is None:
        return Verdict(False, "no answer", "no answer was found")
    return None if correct is None else verdict_of(correct)


def explained(verdict: Verdict, answer: str, problem: Problem, finish: str | None) -> Verdict:
    """Return the verdict with its reason, a few words that explain it.

    The outcome becomes `cut off` if the completion reached its length limit before it gave an answer.

    Args:
        verdict: the verdict without a reason.
        answer: the text that was verified.
        problem: the problem.
        finish: how the completion ended; `length` means that it reached its length limit.
    """
    if verdict.outcome == "no answer":
        return replace(verdict, outcome="cut off") if finish == "length" else verdict
    if verdict.outcome not in ("right", "wrong"):
        return verdict
    found = build_task(problem.task).found(answer, problem)
    if finish == "length" and found is not None and found.how in ("number", "line"):
        # The text would have gone on, so its last number and its last line are not its answer.
        return Verdict(False, "cut off", f"the completion was cut off, so {PLACES[found.how]} is not its answer")
    place = "" if found is None else f" ({PLACES[found.how]})"
    return replace(verdict, reason=f"the answer{place} {'equals' if verdict.correct else 'is not'} the reference")


def verdict_of(correct: bool) -> Verdict:
    """Return the verdict `right` or `wrong`, without a reason."""
    return Verdict(correct, "right" if correct else "wrong")
