"""Define what a task is: problems with reference answers, and a verifier.

Other modules define the tasks themselves.
"""

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
        problem_id: the id of the problem, unique within its task.
        task: the spec (name and options) of the task, as `load_task` reads it. The process that verifies makes the
            task from this spec.
        prompt: the question as plain text.
        answer: the reference answer.
        metadata: JSON text with what the verifier needs in addition to the answer; `{}` if it needs nothing.
    """

    problem_id: str
    task: str
    prompt: str
    answer: str
    metadata: str = "{}"


@dataclass(frozen=True)
class Task(ABC):
    """The base of all tasks: problems, and the verifier that judges completions of them.

    Args:
        spec: the text that this task was made from, such as `chain_sum:max_terms=3`.
        name: a short name, such as `gsm8k`.
        source: one line that says where the problems come from.
        licence: the licence of the problems.
        prompt_template: a text with `{prompt}` in it. Evaluation puts it around each prompt, unless the user gives
            another template. None leaves the prompts as they are. Training does not use it.
    """

    spec: str
    name: str
    source: str
    licence: str
    prompt_template: str | None = field(default=None, kw_only=True)

    @property
    def reads_thoughts(self) -> bool:
        """Whether the verifier reads the whole completion. If not, it reads only what follows the model's thought."""
        return False

    @property
    def has_two_scores(self) -> bool:
        """Whether each completion also gets a strict and a flexible score beside the verdict.

        `strict_and_flexible` explains the two scores.
        """
        return False

    @abstractmethod
    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Draw problems of a split.

        Args:
            split: the split that the problems belong to.
            num: how many problems are drawn. None draws all problems of the split. A task that generates problems
                has no fixed number of them; None then draws as many as its field `size` says.
            seed: seed of the random generator that decides which problems are drawn, and their order.

        Raises:
            InvalidInputError: the split has fewer problems, there is no such split, or a row of the task's data
                cannot be read as a problem.
        """

    @abstractmethod
    def verify(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion is right.

        A hostile completion can make this method hang or raise an error, so callers use `VerifierPool`.
        """

    @abstractmethod
    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """Return the verdict of `verify` if a few string operations can decide it, else None."""

    @abstractmethod
    def extracted(self, completion: str, problem: Problem) -> str | None:
        """Return the answer that `verify` judges, in a form for majority votes; None if the completion has no answer.

        Answers that are plainly equal must have the same form, so `0.5`, `1/2` and `.50` count as one answer. The
        method must be fast: it uses string operations, no algebra. The answer has at most 20,000 characters.
        """

    def found(self, completion: str, problem: Problem) -> Found | None:
        """Return the answer as it is written in the completion, and where it was found; None if there is no answer."""
        answer = self.extracted(completion, problem)
        return None if answer is None else Found(answer, "asked")

    @abstractmethod
    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion gives an answer, right or wrong, in the form that the task asks for."""

    def for_training(self) -> "Task":
        """Return the task that training uses, which usually is this task itself.

        The exception is a task that reads a local copy of a known data set with a train split, such as `gsm8k`. The
        returned task then reads the copy as the train split.
        """
        return self

    def check_source(self) -> None:  # noqa: B027 (tasks without a source have nothing to check)
        """Check the data of the task without a download, and raise the errors that `problems` would raise later."""

    def warm_up(self) -> None:  # noqa: B027
        """Import and prepare what `verify` needs, so that the first call of `verify` is as fast as later calls."""


def check_request(spec: str, split: str, num: int | None) -> None:
    """Raise InvalidInputError unless `split` is known and `num` is positive."""
    if split not in SPLITS:
        raise InvalidInputError(f"task {spec!r}: split must be one of {', '.join(SPLITS)}; got {split!r}.")
    if num is not None and num < 1:
        raise InvalidInputError(f"task {spec!r}: num must be at least 1; got {num}. Use None for all.")
