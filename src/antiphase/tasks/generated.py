"""What the tasks that antiphase generates share: distinct prompts from a stream, answers compared exactly."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from antiphase.errors import InvalidInputError
from antiphase.tasks.canonical import writable
from antiphase.tasks.distinct_problems import draw_distinct
from antiphase.tasks.extraction import ExtractMode, extract_answer, presents_answer
from antiphase.tasks.problem import Problem, Split, Task, check_request
from antiphase.tasks.specs import Spec

SHARED_OPTIONS = {"size": int, "extract": ExtractMode}
DEFAULT_SIZE = 500


@dataclass(frozen=True)
class GeneratedTask(Task):
    """A procedural task of ours.

    Args:
        size: problems that `problems` gives when no number is asked for.
        size_given: whether it is an error if there are fewer.
        extract: where the answer stands.
    """

    size: int
    size_given: bool
    extract: ExtractMode

    @abstractmethod
    def stream(self, seed: int) -> Iterator[Problem]:
        """Problems without end, drawn uniformly; they may repeat."""

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Different problems of the stream."""
        check_request(self.spec, split, num)
        exact = num is not None or self.size_given
        return draw_distinct(self.stream(seed), split, num or self.size, spec=self.spec, exact=exact)

    def verify(self, completion: str, problem: Problem) -> bool:
        """Whether the answer is the reference, character by character."""
        return extract_answer(completion, self.extract, problem.answer) == problem.answer

    def quick_verdict(self, completion: str, problem: Problem) -> bool:
        """The same: it cannot be slow."""
        return self.verify(completion, problem)

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """The answer as it is compared."""
        answer = extract_answer(completion, self.extract, problem.answer)
        return None if answer is None else writable(answer)

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Whether the answer stands where the task's `extract` says."""
        del problem
        return presents_answer(completion, self.extract)


def checked_size(spec: Spec, size: int) -> int:
    """The size, if it is positive.

    Raises:
        InvalidInputError: it is not.
    """
    if size < 1:
        raise InvalidInputError(f"task {spec.text!r}: size must be at least 1; got {size}.")
    return size
