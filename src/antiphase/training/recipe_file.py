"""A recipe's YAML file: read, and its values brought to the types of the flags. Imports no torch and no TRL."""

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from antiphase.errors import InvalidInputError


def read_recipe(path: Path) -> dict[Any, Any]:
    """The keys and values of a file, as YAML gives them.

    Raises:
        InvalidInputError: it cannot be read, is no YAML, or maps nothing.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"the recipe {str(path)!r} cannot be read ({error.strerror or error}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the recipe {str(path)!r} is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"the recipe {str(path)!r} must map keys to values; got {type(content).__name__}.")
    return content


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
