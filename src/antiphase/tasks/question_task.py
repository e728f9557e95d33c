"""A base for tasks of your own: it gives questions their ids, splits and order, and extracts the answers."""

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

    A subclass defines `questions` and `is_right`. If it is a data class, its own fields are options of the spec.

    Args:
        extract: where the answer stands in a completion (see `extract_answer`).
    """

    @abstractmethod
    def questions(self) -> Iterable[tuple[str, str]]:
        """Every (prompt, reference answer), the same at each call. A question's text decides its split and its id."""

    @abstractmethod
    def is_right(self, answer: str, problem: Problem) -> bool:
        """Whether the answer that was found in a completion is right.

        This is called in a process that can be killed, and only for completions that have an answer.
        """

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """The split's questions, shuffled by `seed`; the first `num` of them."""
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
                f"task {self.spec!r}: asked for {num or 'all'} problems of the split {split!r}, but only "
                f"{len(chosen)} of {len(answers)} questions are in it. Ask for fewer, or for the split 'all'."
            )
        random.Random(seed).shuffle(chosen)
        return [
            Problem(f"{self.name}-{text_key(prompt)}", self.spec, prompt, answers[prompt]) for prompt in chosen[:num]
        ]

    def verify(self, completion: str, problem: Problem) -> bool:
        """Whether the completion has an answer and it is right."""
        answer = self.answer_in(completion, problem)
        return answer is not None and self.is_right(answer, problem)

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """False if the completion has no answer, else None."""
        return False if self.answer_in(completion, problem) is None else None

    def found(self, completion: str, problem: Problem) -> Found | None:
        """The answer as it stands in the completion, and where it stands."""
        return find_answer(completion, self.extract, problem.answer)
