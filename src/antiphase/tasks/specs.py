"""Read specs of tasks, `NAME` or `NAME:key=value,key=value`, and convert their options to the types of the task.

NAME may contain colons, as in `file.py:MyTask`. The options begin after the first colon that stands directly before a
`key=`.
"""

import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean

_OPTIONS = re.compile(r":(?=\s*\w+\s*=)")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Spec:
    """The parts of a spec: `chain_sum:max_terms=3` has the name `chain_sum` and the options `{"max_terms": "3"}`."""

    text: str
    name: str
    options: Mapping[str, str]


def parse_spec(text: str) -> Spec:
    """Split a spec string into its name and its options. This does not check that the task exists.

    >>> parse_spec("chain_sum:min_terms=2,max_terms=3").options
    {'min_terms': '2', 'max_terms': '3'}

    Raises:
        InvalidInputError: the name is missing, an option has no value, or an option is given twice.
    """
    name, *rest = _OPTIONS.split(text.strip(), maxsplit=1)
    name = name.strip()
    if not name:
        raise InvalidInputError(f"the task {text!r} has no name; expected NAME or NAME:key=value,key=value.")
    options: dict[str, str] = {}
    for part in rest[0].split(",") if rest else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise InvalidInputError(
                f"task {text!r}: the option {part.strip()!r} is not of the form key=value (lists are written a|b|c)."
            )
        if key in options:
            raise InvalidInputError(f"task {text!r}: the option {key!r} is given twice.")
        options[key] = value
    return Spec(text, name, options)


def split_specs(text: str) -> tuple[str, ...]:
    """Split a text into specs, at spaces and commas. Commas between the options of one spec do not split.

    >>> split_specs("gsm8k,chain_sum:min_terms=2,max_terms=3,math500")
    ('gsm8k', 'chain_sum:min_terms=2,max_terms=3', 'math500')
    """
    specs: list[str] = []
    for part in (piece for word in text.split() for piece in word.split(",") if piece):
        # `key=value` without a colon is another option of the spec before it, if that spec has options.
        goes_on = bool(specs) and _OPTIONS.search(specs[-1]) is not None and re.fullmatch(r"\w+=.*", part) is not None
        if goes_on:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return tuple(specs)


def parse_options(spec: Spec, allowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a spec, with each value converted to its type.

    Args:
        spec: the spec.
        allowed: the options that the task has, as a mapping from the name to the type.

    Raises:
        InvalidInputError: the task has no such option (the message names a similar one), or a value has the wrong
            type.
    """
    values = {}
    for key, text in spec.options.items():
        if key not in allowed:
            raise InvalidInputError(
                f"task {spec.name!r} has no option {key!r}.{did_you_mean(key, allowed)} The task has: "
                f"{', '.join(sorted(allowed)) or 'none'}."
            )
        try:
            values[key] = parse_value(text, allowed[key])
        except ValueError:
            raise InvalidInputError(
                f"task {spec.name!r}: the option {key} must be {describe_type(allowed[key])}; got {text!r}."
            ) from None
    return values


def parse_value(text: str, kind: Any) -> Any:
    """Convert a text to the type `kind`, a type annotation. `none` becomes None if the annotation allows None.

    Raises:
        ValueError: the text is not a value of that type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(text, inner)
    if origin is Literal:
        return _parse_choice(text, {str(value): value for value in inner})
    if origin is not None or kind in (list, tuple):
        return _parse_list(text, origin or kind, inner)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _parse_choice(text.lower(), {str(member.value).lower(): member for member in kind})
    if kind not in _SCALARS:
        raise ValueError(text)
    return _SCALARS[kind](text)


def _parse_union(text: str, members: Sequence[Any]) -> Any:
    if type(None) in members and text.lower() == "none":
        return None
    for member in members:
        try:
            return parse_value(text, member)
        except ValueError:
            continue
    raise ValueError(text)


def _parse_choice(text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(text)
    return choices[text]


def _parse_list(text: str, container: Any, inner: Sequence[Any]) -> Any:
    items = [part.strip() for part in text.split("|")]
    if container is dict or any(get_origin(item) is not None for item in inner):
        raise ValueError(text)  # a spec has no way to write nested lists
    values = [parse_value(item, inner[0] if inner else str) for item in items]
    return tuple(values) if container is tuple else values


def _parse_bool(text: str) -> bool:
    return bool(_parse_choice(text.lower(), _TRUTHS))


_SCALARS: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    str: str,
    bool: _parse_bool,
    date: date.fromisoformat,
    time: time.fromisoformat,
    Path: Path,
    Any: str,
}


def describe_type(kind: Any) -> str:
    """Return a type annotation in words, for error messages.

    >>> describe_type(int | None), describe_type(list[str])
    ('int or none', 'a list a|b|c of str')
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in inner)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        values = inner or [member.value for member in kind]
        return f"one of {', '.join(map(str, values))}"
    if origin is not None or kind in (list, tuple):
        nested = origin is dict or any(get_origin(item) is not None for item in inner)
        item = describe_type(inner[0]) if inner else "str"
        return "left out (a spec cannot express it)" if nested else f"a list a|b|c of {item}"
    return "none" if kind is type(None) else str(getattr(kind, "__name__", kind))
