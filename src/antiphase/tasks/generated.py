"""The base of tasks that generate their problems.

The stream of such a task yields problems without end, and may repeat them. Repeated problems are skipped until there
are enough different ones.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.tasks.distinct_problems import draw_distinct
from antiphase.tasks.extracting_task import ExtractingTask
from antiphase.tasks.extraction import ExtractMode
from antiphase.tasks.problem import Problem, Split, check_request
from antiphase.tasks.specs import Spec

SHARED_OPTIONS = {"size": int, "extract": ExtractMode}
DEFAULT_SIZE = 500


@dataclass(frozen=True)
class GeneratedTask(ExtractingTask):
    """A task that generates its problems. An answer is right if it equals the reference answer exactly, as text.

    Args:
        size: how many problems `problems` returns if it is called without a number.
        size_given: whether the user chose `size`. It is then an error if fewer problems exist.
    """

    size: int
    size_given: bool

    @abstractmethod
    def stream(self, seed: int) -> Iterator[Problem]:
        """Yield problems without end. The same problem may come more than once."""

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Return the first problems of the stream that belong to the split, each only once.

        Args:
            split: the split that the problems belong to.
            num: how many problems are returned; None returns as many as the field `size` says.
            seed: seed of the stream.

        Raises:
            InvalidInputError: `num` is below 1, there is no such split, or fewer different problems exist than the
                user asked for.
        """
        check_request(self.spec, split, num)
        exact = num is not None or self.size_given
        return draw_distinct(self.stream(seed), split, num or self.size, spec=self.spec, exact=exact)

    def verify(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion's answer equals the reference answer, character by character."""
        return self.answer_in(completion, problem) == problem.answer

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """Return the verdict of `verify`, which is always fast for this task."""
        return self.verify(completion, problem)


def shared_fields(spec: Spec, options: Mapping[str, Any], extract: ExtractMode) -> dict[str, Any]:
    """Return the fields of a `GeneratedTask` that the options of its spec can set.

    Args:
        spec: the spec of the task, for the error message.
        options: the options of the spec, as `parse_options` returns them.
        extract: the value of the field `extract` if the options do not set it.

    Raises:
        InvalidInputError: the size is not positive.
    """
    size = options.get("size", DEFAULT_SIZE)
    if size < 1:
        raise InvalidInputError(f"task {spec.text!r}: size must be at least 1; got {size}.")
    return {"size": size, "size_given": "size" in options, "extract": options.get("extract", extract)}
