"""The values of a recipe's YAML file, brought to the types of the flags. Imports no torch and no TRL."""

import argparse
import difflib
from collections.abc import Mapping
from typing import Any

from antiphase.errors import InvalidInputError


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """` Did you mean …?` where a known name is near."""
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else " See antiphase train --help."


def typed(key: str, value: Any, action: argparse.Action, where: str) -> Any:
    """A YAML value as the flag would give it: `1e-5` is a string in YAML, and lists may have one item.

    Args:
        key, value: of the recipe.
        action: the flag's.
        where: what messages begin with, such as `recipe.yaml: `.

    Raises:
        InvalidInputError: it is no value of this flag.
    """
    if value is None or isinstance(value, dict):
        return value
    several = action.nargs in ("+", "*")
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not several:
        raise InvalidInputError(f"{where}{key} takes one value; got a list.")
    convert: Any = action.type if callable(action.type) else str
    values = []
    for item in items:
        try:
            values.append(convert(str(item)))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise InvalidInputError(f"{where}{key}: {item!r} is no valid value ({error}).") from None
    for item in values:
        if action.choices is not None and item not in action.choices:
            raise InvalidInputError(
                f"{where}{key} must be one of {', '.join(map(str, action.choices))}; got {item!r}."
            )
    return values if several else values[0]
