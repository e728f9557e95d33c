"""The task of the multiple-choice questions of GPQA-diamond, read from the Hugging Face hub or from a local copy.

The hub gives the questions only to users who have accepted the terms of the data set.

The options of a question are sorted by a hash of their texts, so that they have the same order in every run and in
every copy of the data. The verifier judges only the letter that a completion chooses.
"""

import hashlib
from dataclasses import dataclass

from antiphase.data.tables import TableRow
from antiphase.errors import InvalidInputError
from antiphase.tasks.extraction import ExtractMode
from antiphase.tasks.letters import chosen_letter
from antiphase.tasks.math_sets import MathSet, describe_source, known_origin
from antiphase.tasks.problem import Problem
from antiphase.tasks.row_task import RowTask, missing, text_of
from antiphase.tasks.specs import Spec, parse_options
from antiphase.tasks.table_task import QUESTION_COLUMNS

NAME = "gpqa_diamond"
LETTERS = "ABCD"
CHOICE_TEMPLATE = (
    "Answer the following multiple-choice question.\n\n{prompt}\n\nPlease reason step by step, and put the letter of "
    "your final answer within \\boxed{}."
)
_GPQA = MathSet(
    "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
    "gpqa_diamond", None, "train", "Question", "Correct Answer", "CC-BY-4.0, gated: do not publish the questions",
)  # fmt: skip
_WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))


@dataclass(frozen=True)
class ChoiceTask(RowTask):
    """A task of questions with four options, A to D. The reference answer is the letter of the right option."""

    @classmethod
    def from_spec(cls, spec: Spec) -> "ChoiceTask":
        """Make the task GPQA-diamond.

        The option `revision=` chooses another version of the data set. The option `file=` reads a local copy.

        Raises:
            InvalidInputError: an option is unknown, or both `revision=` and `file=` are given.
        """
        options = parse_options(spec, {"extract": ExtractMode, "revision": str, "file": str})
        return cls(
            spec=spec.text,
            name=NAME,
            source=describe_source(options, _GPQA.hub_id),
            licence=_GPQA.licence,
            prompt_template=CHOICE_TEMPLATE,
            origin=known_origin(spec, NAME, _GPQA, options),
            extract=options.get("extract", "auto"),
        )

    def parse(self, row: TableRow) -> tuple[str, str]:
        """Return the question with its options A to D, and the letter of the right option.

        A row may have the columns `question` and `answer` instead of the columns of GPQA. Such a row is used
        unchanged: its question must already list the options, and its answer must be a letter.
        """
        question = text_of(row, (_GPQA.question, *QUESTION_COLUMNS), "question").strip()
        if row.first_of((_GPQA.answer,)) is None and row.first_of(("answer",)) is not None:
            return question, self._letter(row)
        right = text_of(row, (_GPQA.answer,), "answer").strip()
        options = [right, *(text_of(row, (column,), "wrong answer").strip() for column in _WRONG)]
        if options.count(right) > 1:
            raise InvalidInputError(f"{row.place}: the right answer {right[:60]!r} is also one of the wrong ones.")
        options.sort(key=lambda option: hashlib.sha256(f"{question}\0{option}".encode()).digest())
        lines = [f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
        return "\n".join([question, "", *lines]), LETTERS[options.index(right)]

    def verify(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion chooses the right letter."""
        return self.extracted(completion, problem) == problem.answer

    def quick_verdict(self, completion: str, problem: Problem) -> bool:
        """Return the verdict of `verify`, which is always fast for this task."""
        return self.verify(completion, problem)

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """Return the letter that the completion chooses; None if it chooses none, or more than one."""
        del problem
        return chosen_letter(completion, self.extract, LETTERS)

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion gives a letter at the place that the task's option `extract` names.

        With `auto`, the letter must be in a box or in tags.
        """
        return super().well_formed(completion, problem) and self.extracted(completion, problem) is not None

    def _letter(self, row: TableRow) -> str:
        """Return the letter in the row's column `answer`; raise InvalidInputError if it is not a letter A to D."""
        letter = str(row.first_of(("answer",))).strip().strip("()")
        if len(letter) != 1 or letter not in LETTERS:
            raise missing(row, "answer that is a letter A to D", (_GPQA.answer, "answer"))
        return letter
