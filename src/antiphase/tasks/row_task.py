"""The base of tasks whose problems are the rows of a file or of a data set on the hub.

It gives each row an id and a split. `origins` reads the rows, and a subclass finds the question and the answer in a
row.
"""

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
    """Rows that were read from one place, and how they become problems.

    Args:
        rows: the rows. Each knows its place in the file, for error messages.
        prefix: the text that a problem's id begins with, unless the row has an id of its own.
        official: whether the rows are exactly the split that was asked for. If not, the prompt of each row decides its
            split (see `distinct_problems`).
        ids: how problems get their ids. `own` takes the row's own id, or the row's number if it has no id. `row` takes
            the row's number. `text` takes a hash of the prompt, so a problem has the same id in every copy of a data
            set.
    """

    rows: Sequence[TableRow]
    prefix: str
    official: bool
    ids: Ids


class Origin(ABC):
    """The place that the rows of a task are read from, such as a file."""

    @abstractmethod
    def read(self, split: Split) -> list[Rows]:
        """Return the rows of a split; all rows if the data are not divided into splits."""

    def at_hand(self) -> list[Rows]:
        """Return the rows that can be read without a download.

        If a reason why `read` would fail can be found without a download, the error of `read` is raised here.
        """
        return self.read("all")

    def for_training(self) -> "Origin":
        """Return the origin that training reads, which usually is this origin itself.

        The exception is a local copy of a known data set with a train split, such as `gsm8k`. The returned origin then
        reads the copy as the train split.
        """
        return self


@dataclass(frozen=True)
class RowTask(ExtractingTask):
    """A task that makes each problem from a row.

    Args:
        origin: where the rows come from.
    """

    origin: Origin

    @abstractmethod
    def parse(self, row: TableRow) -> tuple[str, str]:
        """Return (prompt, reference answer) of a row.

        Raises:
            InvalidInputError: the row lacks the prompt or the reference answer. The message names the row and the
                columns.
        """

    def keeps(self, row: TableRow) -> bool:
        """Return whether a row is a problem that can be verified. Other rows are left out without a warning."""
        del row
        return True

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Return `num` problems of the split; None returns all. `seed` decides their order.

        Raises:
            InvalidInputError: the split has fewer problems, a row is malformed, or two rows have the same id.
        """
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
                f"task {self.spec!r}: the number of different problems of the split {split!r} is {len(found)}, but "
                f"must be at least {num or 1}. Add problems, ask for the split 'all', or ask for fewer."
            )
        return found[:num]

    def check_source(self) -> None:
        """Make the problems of all rows that need no download. Raise the error of a malformed row."""
        for part in self.origin.at_hand():
            self._problems(part)

    def for_training(self) -> "RowTask":
        """Return the same task with the origin that training reads; see `Origin.for_training`."""
        return replace(self, origin=self.origin.for_training())

    def _problems(self, part: Rows) -> list[Problem]:
        """Make a problem with an id from each of the rows, and return the problems in order."""
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
                    f"{row.place}: the id {problem_id!r} is also the id of {places[problem_id]}; ids must be unique."
                )
            places[problem_id] = row.place
            problems.append(Problem(problem_id, self.spec, prompt, answer))
        return problems


def text_key(text: str) -> str:
    r"""Return ten hexadecimal digits that identify a text. White space in the text makes no difference.

    >>> text_key("What is 1 + 1?") == text_key(" What is\n1 +1?")
    True
    """
    normal = "".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def text_of(row: TableRow, columns: Sequence[str], what: str, option: str | None = None) -> str:
    """Return the text in the first of `columns` that the row has.

    Args:
        row: the row.
        columns: the names of the columns that can hold the text.
        what: what the text is, such as `answer`, for the error messages.
        option: the option of the spec by which a user chooses another column, for the error message. None if the
            user cannot choose another column.

    Raises:
        InvalidInputError: the row has none of the columns, or the value is empty or not text.
    """
    value = row.first_of(columns)
    if value is None:
        raise missing(row, what, columns, option)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{row.place}: the {what} must be text that is not empty; got {value!r}.")
    return value


def missing(row: TableRow, what: str, asked: Sequence[str], option: str | None = None) -> InvalidInputError:
    """Return the error to raise for a row that has none of the columns `asked`.

    Args:
        row: the row.
        what: what was looked for, in words, such as `answer`.
        asked: the names of the columns.
        option: the option of the spec by which a user chooses another column; None if there is no such option.
    """
    return InvalidInputError(
        f"{row.place}: no {what}. Looked for the column {' or '.join(asked)}; found "
        f"{', '.join(row.values) or 'none'}." + (f" Name its column with {option}=." if option else "")
    )
