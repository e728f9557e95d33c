"""The class `ExtractingTask`: the base of tasks that find the answer in a completion, and then judge this answer.

Tasks that generate problems, tasks that read problems from rows, and `QuestionTask` derive from this class.
"""

from dataclasses import dataclass, field

from antiphase.tasks.canonical import writable
from antiphase.tasks.extraction import ExtractMode, extract_answer, presents_answer
from antiphase.tasks.problem import Problem, Task


@dataclass(frozen=True)
class ExtractingTask(Task):
    """A task whose verifier judges the answer that `extract_answer` finds.

    Args:
        extract: the place in a completion where the answer is looked for, such as `auto`, `boxed` or `last-number`.
            `extract_answer` explains these modes.
    """

    extract: ExtractMode = field(default="auto", kw_only=True)

    def answer_in(self, completion: str, problem: Problem) -> str | None:
        """Return the answer that the completion gives; None if the completion has no answer."""
        return extract_answer(completion, self.extract, problem.answer)

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """Return the completion's answer, for majority votes; None if the completion has no answer."""
        answer = self.answer_in(completion, problem)
        return None if answer is None else writable(answer)

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Return whether the completion gives an answer at the place that the field `extract` names.

        With `auto`, the answer must be in a box or in tags.
        """
        del problem
        return presents_answer(completion, self.extract)
