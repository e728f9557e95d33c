"""List the names of reasoning_gym's generators. They are read from its source text, since an import takes a second."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from antiphase.errors import MissingExtraError
from antiphase.tasks.gym_task import gym_generators

_REGISTERED = re.compile(r'^register_dataset\(\s*(?:"([^"]+)"|(\w+))', re.MULTILINE)
_CONSTANT = re.compile(r'^(\w+)\s*=\s*"([^"]+)"', re.MULTILINE)


def gym_names() -> Sequence[str]:
    """Return the names of the installed generators of reasoning_gym, which are also the keys of `gym_generators`.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
    """
    spec = importlib.util.find_spec("reasoning_gym")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("reasoning-gym", "train", "generating problems")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.py"))
    names = [name for file in files for name in _registered(file.read_text(encoding="utf-8"))]
    # No source files are found if the package lies in an archive. Then the package is imported.
    return names or list(gym_generators())


def _registered(source: str) -> list[str]:
    """Return the names of the generators that a Python source text registers.

    The text may give a name as a string, or as a constant that the text itself defines.
    """
    constants = dict(_CONSTANT.findall(source))
    return [text or constants.get(name, name) for text, name in _REGISTERED.findall(source)]
