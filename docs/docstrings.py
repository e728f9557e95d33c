"""Lets mkdocstrings read the package: entries for several parameters, examples, and defaults made by a call."""

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^( +)(\w+(?:, \*{0,2}\w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)
_DEFAULT = re.compile(r"_option\(([^,]+), ")


def split_names(text: str) -> str:
    """The docstring with one entry for each parameter."""

    def entries(found: "re.Match[str]") -> str:
        indent, names, meaning = found.groups()
        return "\n".join(f"{indent}{name}: {meaning}" for name in names.split(", "))

    return _ENTRY.sub(entries, text)


def fence_examples(text: str) -> str:
    """The docstring with its examples as blocks of code."""
    return _EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


class Reading(griffe.Extension):
    """Applies `split_names` and `fence_examples` to every docstring, and shows `_option(0.1, "help")` as 0.1."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fence_examples(split_names(obj.docstring.value))

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called when an attribute is found, before the parameters of its class are made from it."""
        made = _DEFAULT.search(str(attr.value))
        if made is not None:
            attr.value = made[1]
