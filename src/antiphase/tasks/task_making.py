"""Make a user's own task: call the user's class or function with the options of the spec, and check the result."""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.tasks.problem import Task
from antiphase.tasks.specs import Spec, parse_options
from antiphase.tasks.user_code import UserCode, failure

# Parameters of `Task` that the options of a spec cannot set.
_OF_EVERY_TASK = ("spec", "name", "source", "licence", "prompt_template")


def option_names(factory: Any) -> set[str]:
    """Return the names of the options that a user's class or function takes."""
    return set(_parameters(factory)) - set(_OF_EVERY_TASK)


def made_task(spec: Spec, code: UserCode) -> Task:
    """Call the user's class or function with the options of the spec, and return the task.

    Raises:
        InvalidInputError: the code is no subclass of `Task` and no function, it raises an error or returns no task, an
            option is unknown or missing, or a field of the task has a wrong value.
    """
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
    # The user's code can raise any error.
    except Exception as error:
        reason = failure(error, code.file)
        raise InvalidInputError(f"{what}: {code.place.name} cannot make the task ({reason}).") from error
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
    """Return the arguments of the user's code: the options of the spec, and the fields that every task needs."""
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
                f"task {spec.text!r}: the option {name!r} is needed. Write {spec.name}:{name}=VALUE, or give the "
                "parameter a default."
            )
    return options


def _parameters(factory: Any) -> Mapping[str, tuple[Any, bool]]:
    """Return, for each parameter that can be given by name, a pair: its type, and whether it is required."""
    hints = typing.get_type_hints(getattr(factory, "__init__") if isinstance(factory, type) else factory)  # noqa: B009
    found = {}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        needed = parameter.default is parameter.empty
        guessed = str if needed or parameter.default is None else type(parameter.default)
        found[parameter.name] = (hints.get(parameter.name, guessed), needed)
    return found
