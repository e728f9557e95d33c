"""Tasks whose problems are rows: a file, a hub data set, or one of the known sets of mathematics."""

import importlib.util
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from antiphase.data.tables import TableRow
from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.tasks.extraction import ExtractMode, boxed, extract_answer
from antiphase.tasks.math_equality import Order, quick_same, same_answer
from antiphase.tasks.problem import Problem, Split, Task, check_request
from antiphase.tasks.sampling import in_split

QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")
_ID_COLUMNS = ("id", "problem_id", "prompt_id", "unique_id")


@dataclass(frozen=True)
class Rows:
    """Rows that were read.

    Args:
        rows: each with its place.
        prefix: of the ids of rows that bring none.
        official: whether the rows are the wanted split already; otherwise the prompt decides.
        own_ids: whether the rows' own ids are taken.
    """

    rows: Sequence[TableRow]
    prefix: str
    official: bool
    own_ids: bool


class Origin(ABC):
    """Where rows come from."""

    @abstractmethod
    def read(self, split: Split) -> list[Rows]:
        """The rows of a split, or all of them where there are no official splits."""

    @abstractmethod
    def at_hand(self) -> list[Rows]:
        """The rows that need no download; raises what `read` would raise, as far as that can be known without one."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold the question and the answer; the first that is there."""

    question: tuple[str, ...] = QUESTION_COLUMNS
    answer: tuple[str, ...] = ANSWER_COLUMNS


@dataclass(frozen=True)
class TableTask(Task):
    """Questions with mathematical answers, from rows.

    Args:
        origin: where the rows come from.
        columns: that hold the question and the answer.
        extract: where the answer stands in a completion.
        order: of the items of lists without brackets.
    """

    origin: Origin
    columns: Columns
    extract: ExtractMode
    order: Order

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """The split's problems, shuffled by `seed`; the first `num` of them."""
        check_request(self.spec, split, num)
        found: list[Problem] = []
        for part in self.origin.read(split):
            problems = self._problems(part)
            if not part.official:
                distinct = {problem.prompt: problem for problem in reversed(problems)}
                problems = [problem for problem in reversed(distinct.values()) if in_split(problem.prompt, split)]
            found += problems
        random.Random(seed).shuffle(found)
        if len(found) < (num or 1):
            raise InvalidInputError(
                f"task {self.spec!r}: asked for {num or 'all'} problems of the split {split!r}, but only {len(found)} "
                "different ones exist. Ask for fewer, or for the split 'all'."
            )
        return found[:num]

    def check_source(self) -> None:
        """Look for math-verify, and read the rows that need no download."""
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("math-verify", "train", f"verifying the task {self.name!r}")
        for part in self.origin.at_hand():
            self._problems(part)

    def warm_up(self) -> None:
        """Import math-verify and parse once, which builds its grammar."""
        same_answer("x+1", "1+x")

    def verify(self, completion: str, problem: Problem) -> bool:
        """Whether the extracted answer equals the reference."""
        answer = extract_answer(completion, self.extract, problem.answer)
        return answer is not None and same_answer(answer, problem.answer, self.order)

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """The verdict on plain numbers, equal strings and completions without an answer."""
        answer = extract_answer(completion, self.extract, problem.answer)
        return False if answer is None else quick_same(answer, problem.answer)

    def _problems(self, part: Rows) -> list[Problem]:
        problems = []
        places: dict[str, str] = {}
        for index, row in enumerate(part.rows):
            given = row.first_of(_ID_COLUMNS) if part.own_ids else None
            problem_id = f"{part.prefix}-{index}" if given is None else str(given)
            if problem_id in places:
                raise InvalidInputError(
                    f"{row.place}: the id {problem_id!r} stands in {places[problem_id]} already; ids must be unique."
                )
            places[problem_id] = row.place
            problems.append(Problem(problem_id, self.spec, self._question(row), self._answer(row)))
        return problems

    def _question(self, row: TableRow) -> str:
        question = row.first_of(self.columns.question)
        if question is None:
            raise _missing(row, "question", self.columns.question)
        if not isinstance(question, str) or not question.strip():
            raise InvalidInputError(f"{row.place}: the question must be text that is not empty; got {question!r}.")
        return question

    def _answer(self, row: TableRow) -> str:
        answer = row.first_of(self.columns.answer)
        if answer is None:
            raise _missing(row, "answer", self.columns.answer)
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise InvalidInputError(f"{row.place}: the answer must be text or a number; got {str(answer)[:60]!r}.")
        text = final_answer(str(answer))
        if not text:
            raise InvalidInputError(f"{row.place}: the answer is empty.")
        return text


def final_answer(solution: str) -> str:
    r"""The answer of a worked solution: after `####`, else in its last box, else all of it.

    >>> final_answer("9 * 2 = 18\n#### 18"), final_answer(r"Thus $x=\boxed{\frac12}$."), final_answer(" 7 ")
    ('18', '\\frac12', '7')
    """
    if "####" in solution:
        return solution.rpartition("####")[2].strip()
    return (boxed(solution) or solution).strip()


def _missing(row: TableRow, what: str, asked: Sequence[str]) -> InvalidInputError:
    return InvalidInputError(
        f"{row.place}: no {what}. Looked for the column {' or '.join(asked)}; found "
        f"{', '.join(row.values) or 'none'}. Name it with {what}_column=."
    )
