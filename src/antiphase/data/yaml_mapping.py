"""Read a YAML file that maps keys to values: a recipe or a study. This module imports no torch."""

from pathlib import Path
from typing import Any

import yaml

from antiphase.errors import InvalidInputError


def read_mapping(path: Path, what: str) -> dict[Any, Any]:
    """Read the keys and values of a YAML file.

    Args:
        path: the path of the file.
        what: the word for the file in error messages: `recipe` or `study`.

    Raises:
        InvalidInputError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"the {what} {str(path)!r} cannot be read ({error.strerror or error}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the {what} {str(path)!r} is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"the {what} {str(path)!r} must map keys to values; got {type(content).__name__}.")
    return content
