"""The task of questions with mathematical answers: the rows of a file, or of a data set on the hub."""

import importlib.util
from dataclasses import dataclass

from antiphase.data.tables import TableRow
from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.tasks.canonical import canonical_math
from antiphase.tasks.extraction import Found, find_answer
from antiphase.tasks.marked_answers import boxed
from antiphase.tasks.math_equality import Compare, Order, quick_same, same_answer
from antiphase.tasks.problem import Problem
from antiphase.tasks.row_task import RowTask, missing, text_of

QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")


@dataclass(frozen=True)
class Columns:
    """The names of the columns that hold the question and the answer of a row.

    If several columns are named for one purpose, the first one that the row has is read.

    Args:
        question: the columns of the question.
        answer: the columns of the answer.
        context: the columns of a text that belongs before the question, in rows that have such a text.
        joined: whether a list of several items counts as one answer, with commas between the items.
    """

    question: tuple[str, ...] = QUESTION_COLUMNS
    answer: tuple[str, ...] = ANSWER_COLUMNS
    context: tuple[str, ...] = ()
    joined: bool = False


@dataclass(frozen=True)
class TableTask(RowTask):
    """A task of questions with mathematical answers. Each row of a file or data set is one question.

    Args:
        columns: the columns that hold the question and the answer.
        order: whether the order of the items matters in an answer that is a list without brackets; see `same_answer`.
        compare: `math` lets math-verify compare expressions; `exact` compares numbers exactly and other answers as
            text.
        boxed_only: whether rows without a box in the answer column are left out. Such rows are proofs, or solutions
            without a final answer.
    """

    columns: Columns
    order: Order
    compare: Compare
    boxed_only: bool = False

    @property
    def has_two_scores(self) -> bool:
        """Whether each completion also gets a strict and a flexible score beside the verdict.

        The task has both scores if it looks for the answer in several places, since the place then makes a difference.
        """
        return self.extract == "auto"

    def keeps(self, row: TableRow) -> bool:
        """Return whether the row has a boxed answer, or the task needs no box."""
        if not self.boxed_only:
            return True
        answer = row.first_of(self.columns.answer)
        return isinstance(answer, str) and bool((boxed(answer) or "").strip())

    def parse(self, row: TableRow) -> tuple[str, str]:
        """Return (question, answer) of a row. If the row has a context, it stands before the question."""
        question = text_of(row, self.columns.question, "question", "question_column")
        context = row.first_of(self.columns.context)
        if isinstance(context, str) and context.strip():
            question = f"{context.strip()}\n{question}"
        return question, self._answer(row)

    def check_source(self) -> None:
        """Check that math-verify is installed if it is needed, and check the rows that need no download.

        Raises:
            MissingExtraError: math-verify is needed but not installed.
            InvalidInputError: a file cannot be read, or a row is malformed.
        """
        if self.compare == "math" and importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError(
                "math-verify", "train", f"verifying the task {self.name!r} (unless its spec says compare=exact)"
            )
        super().check_source()

    def warm_up(self) -> None:
        """Import math-verify and parse a text, because the first parse is slow (it builds the grammar)."""
        same_answer("x+1", "1+x", compare=self.compare)

    def verify(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion's answer equals the reference answer."""
        answer = self.answer_in(completion, problem)
        return answer is not None and same_answer(answer, problem.answer, self.order, self.compare)

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """Return the verdict for plain numbers, equal strings and completions without an answer, else None."""
        answer = self.answer_in(completion, problem)
        return False if answer is None else quick_same(answer, problem.answer)

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """Return the answer in a common form, so that majority votes can count it; None if there is no answer."""
        answer = self.answer_in(completion, problem)
        return None if answer is None else canonical_math(answer)

    def found(self, completion: str, problem: Problem) -> Found | None:
        """Return the answer as it is written in the completion, and where it was found; None if there is no answer."""
        return find_answer(completion, self.extract, problem.answer)

    def _answer(self, row: TableRow) -> str:
        """Return the reference answer of a row; raise InvalidInputError if the row has no answer."""
        answer = row.first_of(self.columns.answer)
        if answer is None:
            raise missing(row, "answer", self.columns.answer, "answer_column")
        if isinstance(answer, list) and answer and (len(answer) == 1 or self.columns.joined):
            answer = ", ".join(map(str, answer)) if len(answer) > 1 else answer[0]
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise InvalidInputError(f"{row.place}: the answer must be text or a number; got {str(answer)[:60]!r}.")
        text = final_answer(str(answer))
        if not text:
            raise InvalidInputError(f"{row.place}: the answer is empty.")
        return text


def final_answer(solution: str) -> str:
    r"""Return the final answer of a worked solution.

    The final answer is the text after `####`. If there is no `####`, it is the content of the last box. If there is no
    box either, it is the whole text.

    >>> final_answer("9 * 2 = 18\n#### 18"), final_answer(r"Thus $x=\boxed{\frac12}$."), final_answer(" 7 ")
    ('18', '\\frac12', '7')
    """
    if "####" in solution:
        return solution.rpartition("####")[2].strip()
    return (boxed(solution) or solution).strip()
