"""The interface of a task: problems with reference answers, and a verifier. Other modules define the tasks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, get_args

from antiphase.errors import InvalidInputError
from antiphase.tasks.extraction import Found

Split = Literal["train", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Problem:
    """A prompt with its reference answer.

    Args:
        problem_id: unique within the task.
        task: the spec of its task, as `load_task` reads it. Verifying needs only this and the other fields.
        prompt: the question as plain text.
        answer: the reference answer.
        metadata: JSON with what the task's verifier needs besides the answer; `{}` if it needs nothing.
    """

    problem_id: str
    task: str
    prompt: str
    answer: str
    metadata: str = "{}"


@dataclass(frozen=True)
class Task(ABC):
    """Problems and their verifier.

    Args:
        spec: the string that this task was made from.
        name: a short name, such as `gsm8k`.
        source: one line that says where the problems come from.
        licence: the licence of the problems.
        prompt_template: a text with `{prompt}` in it, which evaluation puts around the prompts unless the user gives
            another; None leaves them as they are. Training does not use it.
    """

    spec: str
    name: str
    source: str
    licence: str
    prompt_template: str | None = field(default=None, kw_only=True)

    @property
    def reads_thoughts(self) -> bool:
        """Whether the verifier reads the whole completion, and not only what follows its thought."""
        return False

    @property
    def has_two_scores(self) -> bool:
        """Whether a strict and a flexible score can stand beside the verdict; see `strict_and_flexible`."""
        return False

    @abstractmethod
    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Draw `num` problems of a split, in an order that `seed` decides. None draws all, or a generator's `size`.

        Raises:
            InvalidInputError: there are fewer problems, there is no such split, or a row is malformed.
        """

    @abstractmethod
    def verify(self, completion: str, problem: Problem) -> bool:
        """Whether the completion is right.

        A hostile completion can make this slow, hang or raise, so callers use `VerifierPool`.
        """

    @abstractmethod
    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """The verdict of `verify` if a few string operations can find it; None if it could take longer."""

    @abstractmethod
    def extracted(self, completion: str, problem: Problem) -> str | None:
        """The answer that `verify` would judge, written for majority votes; None if the completion has no answer.

        Answers that are plainly the same are written the same: `0.5`, `1/2` and `.50` are one answer. This uses only a
        few string operations, never algebra, and returns at most 20,000 characters.
        """

    def found(self, completion: str, problem: Problem) -> Found | None:
        """The answer as it stands in the completion, and where it stands; None where there is none."""
        answer = self.extracted(completion, problem)
        return None if answer is None else Found(answer, "asked")

    @abstractmethod
    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Whether the completion presents an answer, right or wrong, in the form that the task asks for."""

    def for_training(self) -> "Task":
        """The task as training reads it."""
        return self

    def check_source(self) -> None:  # noqa: B027 (tasks without a source have nothing to check)
        """Raise those errors of `problems` that can be found without a download."""

    def warm_up(self) -> None:  # noqa: B027
        """Import and build what `verify` needs, so that the first check is as fast as the others."""


def check_request(spec: str, split: str, num: int | None) -> None:
    """Raise InvalidInputError unless `split` is known and `num` is positive."""
    if split not in SPLITS:
        raise InvalidInputError(f"task {spec!r}: split must be one of {', '.join(SPLITS)}; got {split!r}.")
    if num is not None and num < 1:
        raise InvalidInputError(f"task {spec!r}: num must be at least 1; got {num}. Use None for all.")
