"""A user's own task, `file.py:MyTask` or `package.module:MyTask`, options after a further colon.

`MyTask` is a subclass of `Task` or a callable that returns one. Its parameters are the options of the spec, typed as
they are annotated. What it returns is wrapped: its problems are checked and named by the spec, its verifier is tried
once before anything long starts, and later an error in it costs the completion that caused it, not the run.
"""

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.tasks.canonical import writable
from antiphase.tasks.extraction import MAX_LENGTH, Found
from antiphase.tasks.problem import Problem, Split, Task, check_request
from antiphase.tasks.specs import Spec, parse_options, parse_spec
from antiphase.tasks.user_code import CodePlace, UserCode, code_place, failure, file_sha256, is_current, load_code

_Value = TypeVar("_Value")
# Parameters of `Task` that no spec sets; those without a default are given one.
_OF_EVERY_TASK = ("spec", "name", "source", "licence", "prompt_template")


@dataclass(frozen=True)
class OwnTask(Task):
    """A user's task, checked.

    Args:
        inner: the user's.
        code: where it came from.
        located: the spec with its file as an absolute path, from which another process builds the same task.
    """

    inner: Task
    code: UserCode
    located: str

    @classmethod
    def from_spec(cls, spec: Spec, place: CodePlace) -> "OwnTask":
        """The task that the user's code makes of the spec's options.

        Raises:
            InvalidInputError: no such file or name, code that raises, no task, or an option that it lacks.
        """
        code = load_code(place, f"task {spec.text!r}", "task")
        inner = _made(spec, code)
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
    def is_current(self) -> bool:
        """Whether the spec still means this code: the file is where it was and has not changed."""
        return is_current(self.code)

    def problems(self, split: Split, num: int | None, seed: int) -> list[Problem]:
        """The user's problems, checked and named by the spec; the verifier is tried on the first.

        Raises:
            InvalidInputError: another number than asked for, a problem that is none, without id or prompt, an id that
                stands twice, or a verifier that raises or returns something else than it should.
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
        """With the user's task as training reads it."""
        with self._calling("for_training"):
            return replace(self, inner=self.inner.for_training())

    def check_source(self) -> None:
        """What the user's task checks."""
        with self._calling("check_source"):
            self.inner.check_source()

    def warm_up(self) -> None:
        """What the user's task prepares."""
        with self._calling("warm_up"):
            self.inner.warm_up()

    @property
    def reads_thoughts(self) -> bool:
        """What the user's task says."""
        return _truth(self.inner.reads_thoughts)

    def verify(self, completion: str, problem: Problem) -> bool:
        """The user's verdict."""
        return _truth(self.inner.verify(completion, problem))

    def quick_verdict(self, completion: str, problem: Problem) -> bool | None:
        """The user's quick verdict; None where it raises, so that `verify` decides."""
        try:
            return _maybe(_truth, self.inner.quick_verdict(completion, problem))
        # A parser that was written for well-meaning input can raise anything on a hostile one.
        except Exception:  # noqa: BLE001
            return None

    def extracted(self, completion: str, problem: Problem) -> str | None:
        """The user's extracted answer, cut to 20,000 characters; None where it raises."""
        try:
            answer = _maybe(_text, self.inner.extracted(completion, problem))
        except Exception:  # noqa: BLE001 (as above)
            return None
        return None if answer is None else writable(answer[:MAX_LENGTH])

    def found(self, completion: str, problem: Problem) -> Found | None:
        """The user's answer as it stands, cut to 20,000 characters; None where the user's code raises."""
        try:
            found = self.inner.found(completion, problem)
            return None if found is None else Found(writable(_text(found.text)[:MAX_LENGTH]), found.how)
        except Exception:  # noqa: BLE001 (as above)
            return None

    def well_formed(self, completion: str, problem: Problem) -> bool:
        """The user's judgement of the form; False where it raises."""
        try:
            return _truth(self.inner.well_formed(completion, problem))
        except Exception:  # noqa: BLE001 (as above)
            return False

    def _try_verifier(self, problem: Problem) -> None:
        """Call the verifier on an empty completion and on the reference itself, where an error is a mistake in it."""
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
                    f"task {self.spec!r}: of the completion {completion[:60]!r} of problem {problem.problem_id!r} "
                    f"quick_verdict says {quick} and verify says {right}. Return None from quick_verdict where it "
                    "cannot know."
                )

    @contextlib.contextmanager
    def _calling(self, method: str) -> Iterator[None]:
        try:
            yield
        except AntiphaseError:
            raise
        except Exception as error:
            reason = failure(error, self.code.file)
            raise InvalidInputError(f"task {self.spec!r}: {method} fails ({reason}).") from error


def own_place(spec: Spec) -> CodePlace | None:
    """Where the code of an own task's spec is; None of any other spec.

    Raises:
        InvalidInputError: a Python file without the name of a task in it.
    """
    place = code_place(spec.name)
    if place is None and spec.name.endswith(".py"):
        raise InvalidInputError(
            f"task {spec.text!r}: say which task of the file, as {spec.name}:MyTask; options follow a further colon."
        )
    return place


def code_digests(tasks: Iterable[Task]) -> dict[str, str | None]:
    """The sha256 of the file by spec, of the tasks that are a user's own."""
    return {task.spec: task.code.sha256 for task in tasks if isinstance(task, OwnTask)}


def file_digests(specs: Iterable[str]) -> dict[str, str | None]:
    """The sha256 of the file as it is now by spec, of those that name a user's own task; no task is loaded.

    Raises:
        InvalidInputError: a file or module is not there.
    """
    digests = {}
    for text in specs:
        place = own_place(parse_spec(text))
        if place is not None:
            digests[text] = file_sha256(place, f"task {text!r}")
    return digests


def recorded_code(digests: Mapping[str, str | None]) -> dict[str, Any]:
    """What a run folder notes of the digests; nothing where there are none, as in folders of before own tasks."""
    return {"tasks_sha256": dict(digests)} if digests else {}


def _made(spec: Spec, code: UserCode) -> Task:
    factory, what = code.value, f"task {spec.text!r}"
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Task)):
        kind = f"the class {factory.__name__}" if isinstance(factory, type) else f"a {type(factory).__name__}"
        raise InvalidInputError(
            f"{what}: {code.place.name} in {code.place.written} is {kind}; expected a subclass of "
            "antiphase.tasks.Task, or a function that returns one."
        )
    try:
        task = factory(**_arguments(spec, code))
    except AntiphaseError:
        raise
    except Exception as error:
        raise InvalidInputError(f"{what}: {code.place.name} cannot be made ({failure(error, code.file)}).") from error
    if not isinstance(task, Task):
        raise InvalidInputError(
            f"{what}: {code.place.name} returned a {type(task).__name__}; expected an antiphase.tasks.Task."
        )
    for name in ("name", "source", "licence"):
        if not isinstance(getattr(task, name, None), str):
            raise InvalidInputError(f"{what}: its {name} must be text; got {getattr(task, name, None)!r}.")
    template = task.prompt_template
    if template is not None and "{prompt}" not in str(template):
        raise InvalidInputError(f"{what}: its prompt_template must contain {{prompt}}; got {template!r}.")
    return task


def _arguments(spec: Spec, code: UserCode) -> dict[str, Any]:
    """The options of the spec, and what every task is called by."""
    parameters = _parameters(code.value)
    options = parse_options(spec, {name: kind for name, (kind, _) in parameters.items() if name not in _OF_EVERY_TASK})
    shared = {
        "spec": spec.text,
        "name": code.place.name,
        "source": f"{code.place.name} in {code.place.written}",
        "licence": "not stated",
    }
    for name, (_, needed) in parameters.items():
        if name in shared and (needed or name == "spec"):
            options[name] = shared[name]
        elif needed and name not in options:
            raise InvalidInputError(
                f"task {spec.text!r}: the option {name!r} is needed: {spec.name}:{name}=VALUE, or give it a default."
            )
    return options


def _parameters(factory: Any) -> Mapping[str, tuple[Any, bool]]:
    """(type, whether it has no default) of what can be given by name."""
    hints = typing.get_type_hints(getattr(factory, "__init__") if isinstance(factory, type) else factory)  # noqa: B009
    found = {}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        needed = parameter.default is parameter.empty
        guessed = str if needed or parameter.default is None else type(parameter.default)
        found[parameter.name] = (hints.get(parameter.name, guessed), needed)
    return found


def _checked(spec: str, found: Sequence[Any]) -> list[Problem]:
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
                raise InvalidInputError(f"{what} has no {name}; every problem needs one, and no two the same id.")
        if problem.problem_id in places:
            raise InvalidInputError(
                f"{what} has the id {problem.problem_id!r}, as has problem {places[problem.problem_id]}; ids must be "
                "unique."
            )
        places[problem.problem_id] = number
        problems.append(replace(problem, task=spec))
    return problems


def _truth(value: Any) -> bool:
    # NumPy's booleans are as good; a score is not, for its reader would have to guess what counts as right.
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"it returned {value!r}; expected True or False")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"it returned {value!r}; expected text or None")
    return value


def _maybe(convert: Callable[[Any], _Value], value: Any) -> _Value | None:
    return None if value is None else convert(value)
