"""Registries: everything that a user chooses by a name, such as engines and estimators, is kept in one form.

A registry maps names to things. A thing can be given as a text `module:attribute`, which is imported when the thing is
first needed, so that a name can be checked before anything slow is imported. docs/extend.md shows how to add things.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from antiphase.errors import InvalidInputError

Thing = TypeVar("Thing")


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The sentence ` Did you mean 'a'?` if a known name is similar, else an empty text.

    >>> did_you_mean("gsm9k", ["gsm8k", "math500"])
    " Did you mean 'gsm8k'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def imported(place: str) -> Any:
    """The object that a text `module:attribute` names.

    >>> imported("math:sqrt")(9.0)
    3.0
    """
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, Thing], Generic[Thing]):
    """The things of one kind by their names, in the order in which they are shown.

    Args:
        kind: what messages call one of the things, such as `estimator`.
        things: the things by their names; a text `module:attribute` says where to import one from.

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
        """Refuse an unknown name. This imports nothing.

        Raises:
            InvalidInputError: there is no such thing; the message lists all names and suggests the nearest.
        """
        if name not in self._things:
            raise InvalidInputError(
                f"the {self.kind} must be one of {', '.join(self._things)}; got {name!r}."
                + (did_you_mean(name, self._things) if isinstance(name, str) else "")
            )

    def add(self, name: str, thing: Thing | str) -> None:
        """Add a thing of your own under a new name.

        Raises:
            InvalidInputError: the name is already used.
        """
        if name in self._things:
            raise InvalidInputError(f"there is already an entry {name!r} among the {self.kind}s; choose another name.")
        self._things[name] = thing

    def remove(self, name: str) -> None:
        """Remove a thing, as a test does after it has added one."""
        self.check(name)
        del self._things[name]

    def __getitem__(self, name: str) -> Thing:
        self.check(name)
        thing = self._things[name]
        if isinstance(thing, str):
            thing = self._things[name] = cast(Thing, imported(thing))
        return thing

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
