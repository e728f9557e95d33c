"""The base of tasks whose problems are the rows of a file or a hub data set: their splits and their ids."""

import hashlib
import random
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from antiphase.data.tables import TableRow
from antiphase.errors import InvalidInputError
from antiphase.tasks.distinct_problems import in_split
from antiphase.tasks.extracting_task import ExtractingTask
from antiphase.tasks.problem import Problem, Split, check_request

Ids = Literal["own", "row", "text"]
ID_COLUMNS = ("id", "problem_id", "prompt_id", "unique_id")


@dataclass(frozen=True)
class Rows:
    """Rows that were read from one place.

    Args:
        rows: the rows, each with its place in the file.
        prefix: the text that ids begin with, for rows that have no id of their own.
        official: whether the rows are exactly the wanted split. If not, a row's prompt decides its split.
        ids: how problems get their ids: `own` uses the row's own id if it has one, `row` numbers the rows, `text`
            hashes the prompt, so that a problem has the same id in every copy of a data set.
    """

    rows: Sequence[TableRow]
    prefix: str
    official: bool
    ids: Ids


class Origin(ABC):
    """Where rows come from."""

    @abstractmethod
    def read(self, split: Split) -> list[Rows]:
        """The rows of a split, or all rows if there are no official splits."""

    def at_hand(self) -> list[Rows]:
        """The rows that need no download. Raises the errors of `read` that can be found without a download."""
        return self.read("all")

    def for_training(self) -> "Origin":
        """Where training reads. This differs only for files, which can be a copy of either split."""
        return self


@dataclass(frozen=True)
class RowTask(ExtractingTask):
    """A task whose problems are rows.

    Args:
        origin: where the rows come from.
    """

    origin: Origin

    @abstractmethod
    def parse(self, row: TableRow) -> tuple[str, str]:
        """(prompt, reference answer) of a row.

        Raises:
            InvalidInputError: the row lacks one of them. The message names the row and the columns.
        """

    def keeps(self, row: TableRow) -> bool:
        """Whether a row is a problem that can be verified. Other rows are left out silently."""
        del row
        return True

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
        """Read the rows that need no download."""
        for part in self.origin.at_hand():
            self._problems(part)

    def for_training(self) -> "RowTask":
        """The same task, except that a local copy of a known set is read as its train split."""
        return replace(self, origin=self.origin.for_training())

    def _problems(self, part: Rows) -> list[Problem]:
        problems = []
        places: dict[str, str] = {}
        repeats: Counter[str] = Counter()
        for index, row in enumerate(part.rows):
            if not self.keeps(row):
                continue
            prompt, answer = self.parse(row)
            given = row.first_of(ID_COLUMNS) if part.ids == "own" else None
            problem_id = f"{part.prefix}-{index}" if given is None else str(given)
            if part.ids == "text":
                problem_id = f"{part.prefix}-{text_key(prompt)}"
                repeats[problem_id] += 1
                if repeats[problem_id] > 1:
                    problem_id += f"-{repeats[problem_id]}"
            if problem_id in places:
                raise InvalidInputError(
                    f"{row.place}: the id {problem_id!r} stands in {places[problem_id]} already; ids must be unique."
                )
            places[problem_id] = row.place
            problems.append(Problem(problem_id, self.spec, prompt, answer))
        return problems


def text_key(text: str) -> str:
    r"""Ten hexadecimal digits that identify a text, independent of its white space.

    >>> text_key("What is 1 + 1?") == text_key(" What is\n1 +1?")
    True
    """
    normal = "".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def text_of(row: TableRow, columns: Sequence[str], what: str, option: str | None = None) -> str:
    """The text in the first of `columns` that the row has. The message names the `option` that chooses another column.

    Raises:
        InvalidInputError: the row has none of the columns, or the value is empty or no text.
    """
    value = row.first_of(columns)
    if value is None:
        raise missing(row, what, columns, option)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{row.place}: the {what} must be text that is not empty; got {value!r}.")
    return value


def missing(row: TableRow, what: str, asked: Sequence[str], option: str | None = None) -> InvalidInputError:
    """The error for a row without one of its columns."""
    return InvalidInputError(
        f"{row.place}: no {what}. Looked for the column {' or '.join(asked)}; found "
        f"{', '.join(row.values) or 'none'}." + (f" Name it with {option}=." if option else "")
    )
