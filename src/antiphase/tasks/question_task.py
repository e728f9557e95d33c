"""The class `QuestionTask`: a base class for a user's own task.

The class makes an id for each question. It divides the questions into splits, shuffles them, and finds the answer in a
completion. A subclass returns the questions, and decides whether an answer is right.
"""

import random
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from antiphase.errors import InvalidInputError
from antiphase.tasks.distinct_problems import in_split
from antiphase.tasks.extracting_task import ExtractingTask
from antiphase.tasks.extraction import Found, find_answer
from antiphase.tasks.problem import Problem, Split, check_request
from antiphase.tasks.row_task import text_key


@dataclass(frozen=True)
class QuestionTask(ExtractingTask):
    """A task made of questions with reference answers.

    A subclass defines `questions` and `is_right`. If the subclass is a data class, its fields become options that a
    user can set in the spec.

    Args:
        extract: the place in a completion where the answer is looked for, such as `auto`, `boxed` or `last-number`.
            `extract_answer` explains these modes.
    """

    @abstractmethod
    def questions(self) -> Iterable[tuple[str, str]]:
        """Return all questions as (prompt, reference answer), the same ones at each call.

        The text of a prompt decides the split and the id of the question.
        """

    @abstractmethod
    def is_right(self, answer: str, problem: Problem) -> bool:
        """Return whether the answer that was found in a completion is right.

        This method is called in a process that can be killed, and only for completions that have an answer.
        """

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Return `num` questions of the split as problems; None returns all. `seed` decides their order.

        Raises:
            InvalidInputError: the split has fewer questions, or a question has two different answers.
        """
        check_request(self.spec, split, num)
        answers: dict[str, str] = {}
        for prompt, answer in self.questions():
            if answers.setdefault(prompt, answer) != answer:
                raise InvalidInputError(
                    f"task {self.spec!r}: the question {prompt[:60]!r} has two answers, {answers[prompt]!r} and "
                    f"{answer!r}."
                )
        chosen = [prompt for prompt in answers if in_split(prompt, split)]
        if len(chosen) < (num or 1):
            raise InvalidInputError(
                f"task {self.spec!r}: the number of questions in the split {split!r} is {len(chosen)} (of "
                f"{len(answers)}), but must be at least {num or 1}. Add questions, ask for the split "
                "'all', or ask for fewer."
            )
        random.Random(seed).shuffle(chosen)
        return [
            Problem(f"{self.name}-{text_key(prompt)}", self.spec, prompt, answers[prompt]) for prompt in chosen[:num]
        ]

    def verify(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion has an answer that is right."""
        answer = self.answer_in(completion, problem)
        return answer is not None and self.is_right(answer, problem)

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """Return False if the completion has no answer, else None."""
        return False if self.answer_in(completion, problem) is None else None

    def found(self, completion: str, problem: Problem) -> Found | None:
        """Return the answer as it is written in the completion, and where it was found; None if there is no answer."""
        return find_answer(completion, self.extract, problem.answer)
