"""The base of tasks whose problems are generated: different problems are drawn from an endless stream."""

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
    """A task whose problems are generated. The answer must equal the reference character by character.

    Args:
        size: how many problems `problems` gives when no number is asked for.
        size_given: whether it is an error if fewer problems exist than `size`.
    """

    size: int
    size_given: bool

    @abstractmethod
    def stream(self, seed: int) -> Iterator[Problem]:
        """An endless stream of problems, which may repeat."""

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """The first different problems of the stream."""
        check_request(self.spec, split, num)
        exact = num is not None or self.size_given
        return draw_distinct(self.stream(seed), split, num or self.size, spec=self.spec, exact=exact)

    def verify(self, completion: str, problem: Problem) -> bool:
        """Whether the answer is the reference, character by character."""
        return self.answer_in(completion, problem) == problem.answer

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """The same as `verify`, which is never slow here."""
        return self.verify(completion, problem)


def shared_fields(spec: Spec, options: Mapping[str, Any], extract: ExtractMode) -> dict[str, Any]:
    """The fields of a `GeneratedTask` that its options set; `extract` is the default where they set none.

    Raises:
        InvalidInputError: the size is not positive.
    """
    size = options.get("size", DEFAULT_SIZE)
    if size < 1:
        raise InvalidInputError(f"task {spec.text!r}: size must be at least 1; got {size}.")
    return {"size": size, "size_given": "size" in options, "extract": options.get("extract", extract)}
