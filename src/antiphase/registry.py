"""What is chosen by a name: engines, estimators, presets, splitters, figures. All are kept in one form.

A registry maps names to things. A thing may be given as `module:attribute`, which is imported when the thing is first
wanted, so that a name can be checked before anything slow is imported. docs/extend.md shows how to add to each.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

from antiphase.errors import InvalidInputError

Thing = TypeVar("Thing")


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """` Did you mean 'a'?` where a known name is near, else nothing.

    >>> did_you_mean("gsm9k", ["gsm8k", "math500"])
    " Did you mean 'gsm8k'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


class Registry(Mapping[str, Thing], Generic[Thing]):
    """The things of one kind by their names, in the order in which they are shown.

    Args:
        kind: what the things are, as messages call them: `estimator`.
        things: each by its name; a text is where it is imported from, `module:attribute`.

    >>> roots = Registry("root", {"square": "math:sqrt"})
    >>> roots["square"](9.0)
    3.0
    >>> roots["sqare"]
    Traceback (most recent call last):
    ...
    antiphase.errors.InvalidInputError: the root must be one of square; got 'sqare'. Did you mean 'square'?
    """

    def __init__(self, kind: str, things: Mapping[str, Thing | str]) -> None:
        self.kind = kind
        self._things: dict[str, Thing | str] = dict(things)

    def check(self, name: str) -> None:
        """Refuse a name that is not there. Nothing is imported.

        Raises:
            InvalidInputError: there is no such thing; the message names all, and the nearest.
        """
        if name not in self._things:
            raise InvalidInputError(
                f"the {self.kind} must be one of {', '.join(self._things)}; got {name!r}."
                + (did_you_mean(name, self._things) if isinstance(name, str) else "")
            )

    def add(self, name: str, thing: Thing | str) -> None:
        """Add a thing of your own under a new name.

        Raises:
            InvalidInputError: the name is taken.
        """
        if name in self._things:
            raise InvalidInputError(f"there is a {self.kind} {name!r} already; choose another name.")
        self._things[name] = thing

    def remove(self, name: str) -> None:
        """Take a thing out again, as a test does that has added one."""
        self.check(name)
        del self._things[name]

    def __getitem__(self, name: str) -> Thing:
        self.check(name)
        thing = self._things[name]
        if isinstance(thing, str):
            module, _, attribute = thing.partition(":")
            thing = self._things[name] = cast(Thing, getattr(importlib.import_module(module), attribute))
        return thing

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
