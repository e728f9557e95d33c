"""Run a user's own task, which a spec names as `file.py:MyTask` or `package.module:MyTask`.

`MyTask` is a subclass of `Task`, or a function that returns a task. Options follow after another colon, as in
`file.py:MyTask:size=5`; they become the arguments of `MyTask`, converted to the annotated types. `OwnTask` wraps the
user's task. It checks the problems, and it tries the verifier on one problem before anything long starts. If the
verifier raises an error later, only the completion that it was judging counts as wrong, and the run goes on.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.tasks.canonical import writable
from antiphase.tasks.extraction import MAX_LENGTH, Found
from antiphase.tasks.problem import Problem, Split, Task, check_request
from antiphase.tasks.specs import Spec, parse_spec
from antiphase.tasks.task_making import made_task, option_names
from antiphase.tasks.user_code import CodePlace, UserCode, code_place, failure, file_sha256, load_code

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class OwnTask(Task):
    """A wrapper around a user's task that checks what the user's code returns.

    Args:
        inner: the user's task.
        code: the code that the task was made from.
        located: the spec with the absolute path of the file. Another process can make the same task from it.
    """

    inner: Task
    code: UserCode
    located: str

    @classmethod
    def from_spec(cls, spec: Spec, place: CodePlace) -> "OwnTask":
        """Make the task by calling the user's code with the spec's options.

        Raises:
            InvalidInputError: the file or the name does not exist, the user's code raises or returns no task, or an
                option is unknown.
        """
        code = load_code(place, f"task {spec.text!r}", "task")
        inner = made_task(spec, code)
        options = spec.text.strip()[len(spec.name) :]
        return cls(
            spec=spec.text,
            name=inner.name,
            source=inner.source,
            licence=inner.licence,
            prompt_template=inner.prompt_template,
            inner=inner,
            code=code,
            located=place.text + options,
        )

    @property
    def option_names(self) -> set[str]:
        """The names of the options that the user's code takes."""
        return option_names(self.code.value)

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """Check the user's problems, and return them. The field `task` of each problem is set to the spec.

        The verifier is tried on the first problem.

        Raises:
            InvalidInputError: the number of problems is not the one that was asked for, an item is no `Problem` or
                lacks its id or prompt, an id occurs twice, or the user's code raises or returns a value of the wrong
                type.
        """
        check_request(self.spec, split, num)
        with self._calling("problems"):
            drawn: Any = self.inner.problems(split, num, seed)
            found = list(drawn)
        if len(found) < (num or 1) or (num is not None and len(found) > num):
            raise InvalidInputError(
                f"task {self.spec!r}: problems gave {len(found)} problems of the split {split!r}; expected "
                f"{num or 'at least one'}."
            )
        problems = _checked(self.spec, found)
        self._try_verifier(problems[0])
        return problems

    def for_training(self) -> "OwnTask":
        """Return a new wrapper, around the task that the user's `for_training` returns."""
        with self._calling("for_training"):
            return replace(self, inner=self.inner.for_training())

    def check_source(self) -> None:
        """Run the method `check_source` of the user's task."""
        with self._calling("check_source"):
            self.inner.check_source()

    def warm_up(self) -> None:
        """Run the method `warm_up` of the user's task."""
        with self._calling("warm_up"):
            self.inner.warm_up()

    @property
    def reads_thoughts(self) -> bool:
        """Whether the user's verifier reads the whole completion, its thought included."""
        return _truth(self.inner.reads_thoughts)

    def verify(self, completion: str, problem: Problem) -> bool:
        """Return the verdict of the method `verify` of the user's task."""
        return _truth(self.inner.verify(completion, problem))

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """Return the verdict of the user's `quick_verdict`; None if it raises an error, so that `verify` decides."""
        try:
            return _maybe(_truth, self.inner.quick_verdict(completion, problem))
        # Code that was written for ordinary answers can raise any error on a hostile answer.
        except Exception:  # noqa: BLE001
            return None

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """Return the answer of the user's `extracted`, cut to 20,000 characters; None if it raises an error."""
        try:
            answer = _maybe(_text, self.inner.extracted(completion, problem))
        except Exception:  # noqa: BLE001 (as above)
            return None
        return None if answer is None else writable(answer[:MAX_LENGTH])

    def found(self, completion: str, problem: Problem) -> Found | None:
        """Return what the user's `found` returns, with its text cut to 20,000 characters; None after an error."""
        try:
            found = self.inner.found(completion, problem)
            return None if found is None else Found(writable(_text(found.text)[:MAX_LENGTH]), found.how)
        except Exception:  # noqa: BLE001 (as above)
            return None

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """Return the result of the user's `well_formed`; False if it raises an error."""
        try:
            return _truth(self.inner.well_formed(completion, problem))
        except Exception:  # noqa: BLE001 (as above)
            return False

    def _try_verifier(self, problem: Problem) -> None:
        """Call the user's methods on an empty completion and on the reference answer, to find mistakes in their code.

        Raises:
            InvalidInputError: a method raises, returns a value of the wrong type, or contradicts `verify`.
        """
        for completion in ("", problem.answer):
            with self._calling("verify"):
                right = _truth(self.inner.verify(completion, problem))
            with self._calling("quick_verdict"):
                quick = _maybe(_truth, self.inner.quick_verdict(completion, problem))
            with self._calling("extracted"):
                _maybe(_text, self.inner.extracted(completion, problem))
            with self._calling("well_formed"):
                _truth(self.inner.well_formed(completion, problem))
            if quick not in (None, right):
                raise InvalidInputError(
                    f"task {self.spec!r}: for the completion {completion[:60]!r} of problem {problem.problem_id!r}, "
                    f"quick_verdict says {quick} but verify says {right}. Return None from quick_verdict where it "
                    "cannot know."
                )

    @contextlib.contextmanager
    def _calling(self, method: str) -> Iterator[None]:
        """Turn an error in the user's method into an InvalidInputError that names the method and the line."""
        try:
            yield
        except AntiphaseError:
            raise
        # The user's code can raise any error.
        except Exception as error:
            reason = failure(error, self.code.file)
            raise InvalidInputError(f"task {self.spec!r}: {method} fails ({reason}).") from error


def own_place(spec: Spec) -> CodePlace | None:
    """Return where the code of a user's own task is; None if the spec names another kind of task.

    Raises:
        InvalidInputError: the spec names a Python file, but no task in it.
    """
    place = code_place(spec.name)
    if place is None and spec.name.endswith(".py"):
        raise InvalidInputError(
            f"task {spec.text!r}: say which task of the file, as {spec.name}:MyTask. Options follow after another "
            "colon."
        )
    return place


def code_digests(tasks: Iterable[Task]) -> dict[str, str | None]:
    """Return a mapping from the spec of each task that a user wrote to the sha256 of the file it was loaded from.

    Tasks of antiphase are left out. If a task comes from a module without a file, its sha256 is None.
    """
    return {task.spec: task.code.sha256 for task in tasks if isinstance(task, OwnTask)}


def file_digests(specs: Iterable[str]) -> dict[str, str | None]:
    """Return a mapping from the spec of each task that a user wrote to the sha256 that its file has now.

    Tasks of antiphase are left out, and no task is loaded.

    Raises:
        InvalidInputError: a file or module does not exist.
    """
    digests = {}
    for text in specs:
        place = own_place(parse_spec(text))
        if place is not None:
            digests[text] = file_sha256(place, f"task {text!r}")
    return digests


def recorded_code(digests: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what a run folder stores about users' own tasks: `{"tasks_sha256": digests}`; `{}` if there are none."""
    return {"tasks_sha256": dict(digests)} if digests else {}


def _checked(spec: str, found: Sequence[Any]) -> list[Problem]:
    """Return the user's problems, each with `spec` as its `task`. Raise InvalidInputError if one is malformed."""
    problems: list[Problem] = []
    places: dict[str, int] = {}
    for number, problem in enumerate(found):
        what = f"task {spec!r}: problem {number} of {len(found)}"
        if not isinstance(problem, Problem):
            raise InvalidInputError(f"{what} is a {type(problem).__name__}; expected an antiphase.tasks.Problem.")
        for name in ("problem_id", "prompt", "answer", "metadata"):
            value = getattr(problem, name)
            if not isinstance(value, str):
                raise InvalidInputError(f"{what}: its {name} must be text; got {value!r}.")
            if not value.strip() and name in ("problem_id", "prompt"):
                raise InvalidInputError(f"{what} has no {name}. Every problem needs a prompt and an id of its own.")
        if problem.problem_id in places:
            raise InvalidInputError(
                f"{what} has the id {problem.problem_id!r}, which problem {places[problem.problem_id]} has too; ids "
                "must be unique."
            )
        places[problem.problem_id] = number
        problems.append(replace(problem, task=spec))
    return problems


def _truth(value: Any) -> bool:
    """Return the value as a bool; raise TypeError if it is not a bool."""
    # NumPy's booleans are accepted. A number is not, since nobody knows from which number on it counts as right.
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"it returned {value!r}; expected True or False")
    return bool(value)


def _text(value: Any) -> str:
    """Return the value if it is a text; raise TypeError for any other value."""
    if not isinstance(value, str):
        raise TypeError(f"it returned {value!r}; expected text or None")
    return value


def _maybe(convert: Callable[[Any], _Value], value: Any) -> _Value | None:
    return None if value is None else convert(value)
