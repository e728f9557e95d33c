"""Converts the values of a recipe's YAML file to the types of the flags. This module imports no torch and no TRL."""

import argparse
from collections.abc import Mapping
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """Return the end of an error message: ` Did you mean 'a'?`, or if no name is similar, how to list the flags."""
    return did_you_mean(name.replace("-", "_"), known, cutoff=0.5) or " See antiphase train --help."


def typed(key: str, value: Any, action: argparse.Action, where: str) -> Any:
    """Return a value of a recipe's YAML file, converted to the type of the flag that has the key's name.

    YAML reads `1e-5` as a string, which becomes a number here. If the flag takes several values, a single value
    becomes a list of one.

    Args:
        key, value: key and value in the recipe.
        action: the argparse action that parses the flag.
        where: the beginning of error messages, such as `recipe.yaml: `.

    Raises:
        InvalidInputError: the value is not one that the flag can have.
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
