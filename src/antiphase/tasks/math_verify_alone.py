"""math-verify as it comes, on the whole completion: the rule that many evaluations use, for comparison."""

from dataclasses import dataclass

from antiphase.errors import MissingExtraError
from antiphase.tasks.problem import Problem, Split, Task

SPEC = "math-verify"


@dataclass(frozen=True)
class MathVerifyAlone(Task):
    """A verifier without problems: `verify(parse(reference), parse(completion))`."""

    @property
    def reads_thoughts(self) -> bool:
        """The rule reads the whole completion."""
        return True

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """None: the rule judges rows of a file."""
        return []

    def verify(self, completion: str, problem: Problem) -> bool:
        """What math-verify says."""
        try:
            from math_verify import parse, verify
        except ImportError:
            raise MissingExtraError("math-verify", "train", "comparing mathematical answers") from None
        # No timeouts here: they need signals and the main thread. The pool kills what takes too long.
        reference = parse(f"${problem.answer}$", parsing_timeout=None)
        return bool(verify(reference, parse(completion, parsing_timeout=None), timeout_seconds=None))

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """None: math-verify is always asked."""
        return None

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """The completion: math-verify extracts by itself."""
        return completion

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Whether there is anything."""
        return bool(completion.strip())
