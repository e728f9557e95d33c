"""Task specs, `NAME` or `NAME:key=value,key=value`, and their options by type.

NAME may hold colons itself, as `file.py:MyTask` does: the options begin after the first colon that a `key=` follows.
"""

import difflib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from antiphase.errors import InvalidInputError

_OPTIONS = re.compile(r":(?=\s*\w+\s*=)")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Spec:
    """A spec taken apart: `chain_sum:max_terms=3` has the name `chain_sum` and the options `{"max_terms": "3"}`."""

    text: str
    name: str
    options: Mapping[str, str]


def parse_spec(text: str) -> Spec:
    """Take a spec string apart; nothing is looked up.

    >>> parse_spec("chain_sum:min_terms=2,max_terms=3").options
    {'min_terms': '2', 'max_terms': '3'}

    Raises:
        InvalidInputError: no name, an option without a value, or one given twice.
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
    """The specs of a list with spaces or commas between them; commas inside a spec's options stay.

    >>> split_specs("gsm8k,chain_sum:min_terms=2,max_terms=3,math500")
    ('gsm8k', 'chain_sum:min_terms=2,max_terms=3', 'math500')
    """
    specs: list[str] = []
    for part in (piece for word in text.split() for piece in word.split(",") if piece):
        # After a spec with options, `key=value` goes on with them; a new spec with options has its colon first.
        goes_on = bool(specs) and _OPTIONS.search(specs[-1]) is not None and re.fullmatch(r"\w+=.*", part) is not None
        if goes_on:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return tuple(specs)


def parse_options(spec: Spec, allowed: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a spec as values of the types in `allowed`.

    Raises:
        InvalidInputError: an option that is not allowed (with the nearest that is), or a value of the wrong type.
    """
    values = {}
    for key, text in spec.options.items():
        if key not in allowed:
            raise InvalidInputError(
                f"task {spec.name!r} has no option {key!r}{did_you_mean(key, list(allowed))} It has: "
                f"{', '.join(sorted(allowed)) or 'none'}."
            )
        try:
            values[key] = parse_value(text, allowed[key])
        except ValueError:
            raise InvalidInputError(
                f"task {spec.name!r}: the option {key} must be {describe_type(allowed[key])}; got {text!r}."
            ) from None
    return values


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'a' or 'b'?` where something is near, else a full stop."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


def parse_value(text: str, kind: Any) -> Any:
    """The text as a value of a type annotation; `None` is understood where the annotation allows it.

    Raises:
        ValueError: it is no such value.
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
        raise ValueError(text)  # nested: there is no way to write it
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
    """A type annotation in words.

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
