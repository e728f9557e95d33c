"""Registries: tables of the things that a user chooses by name, such as estimators and rollout engines.

A registry maps each name to a thing, or to a text `module:attribute` that says where the thing is. Such a thing is
imported only when it is first needed, so a name can be checked before slow packages are imported. docs/extend.md shows
how to add your own things.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from antiphase.errors import InvalidInputError

Thing = TypeVar("Thing")


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return the sentence ` Did you mean 'a'?` with the most similar known name, or an empty text if none is similar.

    Args:
        name: the unknown name.
        known: the names that exist.
        cutoff: the least similarity of a suggested name, from 0 (any name) to 1 (only the same name).

    >>> did_you_mean("gsm9k", ["gsm8k", "math500"])
    " Did you mean 'gsm8k'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def imported(place: str) -> Any:
    """Import and return the object that a text `module:attribute` names.

    >>> imported("math:sqrt")(9.0)
    3.0
    """
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, Thing], Generic[Thing]):
    """A mapping from names to things of one kind, such as all estimators.

    Messages list the names in the order of the mapping.

    Args:
        kind: the word for one thing in messages, such as `estimator`.
        things: the things by name. In place of a thing, a text `module:attribute` can say from where to import it.

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
        """Raise an error if the name is unknown. This imports nothing.

        Raises:
            InvalidInputError: the name is unknown; the message lists all names and suggests the most similar one.
        """
        if name not in self._things:
            raise InvalidInputError(
                f"the {self.kind} must be one of {', '.join(self._things)}; got {name!r}."
                + (did_you_mean(name, self._things) if isinstance(name, str) else "")
            )

    def add(self, name: str, thing: Thing | str) -> None:
        """Add a thing under a new name.

        In place of the thing, a text `module:attribute` can be given. The thing is then imported when it is needed.

        Raises:
            InvalidInputError: the name is already used.
        """
        if name in self._things:
            raise InvalidInputError(f"there is already an entry {name!r} among the {self.kind}s; choose another name.")
        self._things[name] = thing

    def remove(self, name: str) -> None:
        """Remove the thing with this name. A test, for example, removes what it has added.

        Raises:
            InvalidInputError: the name is unknown.
        """
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
