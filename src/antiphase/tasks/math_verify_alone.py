"""The verdict of the package math-verify on the whole completion, without rules of antiphase.

Many other evaluations use this verdict. `antiphase check` shows it beside the verdict of antiphase. Trainings and
evaluations of antiphase do not use it.
"""

from dataclasses import dataclass

from antiphase.errors import MissingExtraError
from antiphase.tasks.problem import Problem, Split, Task

SPEC = "math-verify"


@dataclass(frozen=True)
class MathVerifyAlone(Task):
    """A task without problems, whose verdict is math-verify's `verify(parse(reference), parse(completion))`."""

    @property
    def reads_thoughts(self) -> bool:
        """Return True, because math-verify reads the whole completion, with its thought."""
        return True

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Return no problems. The rows of a file are verified instead."""
        return []

    def verify(self, completion: str, problem: Problem) -> bool:
        """Return the verdict of math-verify on the whole completion.

        Raises:
            MissingExtraError: math-verify is not installed.
        """
        try:
            from math_verify import parse, verify
        except ImportError:
            raise MissingExtraError("math-verify", "train", "comparing mathematical answers") from None
        # No timeouts here, since they need signals and the main thread. The pool kills a process that takes too long.
        reference = parse(f"${problem.answer}$", parsing_timeout=None)
        return bool(verify(reference, parse(completion, parsing_timeout=None), timeout_seconds=None))

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """Return None, because strings alone cannot tell what math-verify says."""
        return None

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """Return the whole completion, because math-verify itself finds the answer in it."""
        return completion

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion has any text."""
        return bool(completion.strip())
