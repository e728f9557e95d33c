"""The ways to cut a completion into steps (such as sentences), and the names by which a user chooses them.

A splitter works on text. `assigning` then finds the step of each token.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex

from antiphase.errors import InvalidInputError
from antiphase.registry import Registry, did_you_mean
from antiphase.steps.sentences import merged, sentence_starts

DEFAULT_SPLITTER = "sentence"

# The most seconds that a pattern may take: on all probe texts together, and on one completion.
PROBE_SECONDS = 1.0
MATCH_SECONDS = 10.0

_WITH_VALUE = ("fixed:N", "regex:PATTERN")
# A new pattern is tried on these probe texts. Many are long runs of one character, on which a careless pattern is
# slow.
_PROBES = (
    *(character * 60 + end for character in "ax1 .\n=_-" for end in ("", "!", "\x00")),
    *(character * 3000 for character in "ax1 .\n"),
    "So the total is 3.5 + 4 = 7.5 dollars. Wait, is it?\n\n1. First, add them.\n- Yes! \\[ x = 5 \\]\n" * 20,
    "word " * 800,
)
_LINE = re.compile(r"\n+")


def line_starts(text: str) -> list[int]:
    r"""Return the offsets at which the lines of a text begin, except the first. Empty lines are left out.

    >>> line_starts("a\n\n  b")
    [5]
    """
    return merged(text, (found.end() for found in _LINE.finditer(text)), content=r"\S")


# Each function returns the offsets at which the steps of a text begin, except the first step. docs/extend.md shows how
# to add one.
SPLITTERS: Registry[Callable[[str], list[int]]] = Registry(
    "splitter", {"sentence": sentence_starts, "line": line_starts}
)


@dataclass(frozen=True)
class Splitter:
    """A way to cut a completion into steps.

    The kind `fixed` cuts after a fixed number of tokens and does not read the text. The kind `regex` ends a step after
    each match of a pattern. All other kinds are functions in `SPLITTERS` that read the text.

    >>> Splitter.parse("fixed:16")
    Splitter(kind='fixed', size=16, pattern=None)
    >>> Splitter().starts("It is 3.5, e.g. x. So yes.")
    [19]

    Args:
        kind: `fixed`, `regex`, or a name in `SPLITTERS`.
        size: for `fixed`, the number of tokens in a step.
        pattern: for `regex`, the pattern in the syntax of Python's `re`.

    Raises:
        InvalidInputError: the kind is unknown, the size is below 1, or the pattern does not compile. A pattern is
            tried on some texts first. It is refused if it matches an empty string there, or takes longer than a
            second.
    """

    kind: str = DEFAULT_SPLITTER
    size: int | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("fixed", "regex", *SPLITTERS):
            raise InvalidInputError(_unknown(self.kind))
        if (self.size is None) == (self.kind == "fixed"):
            raise InvalidInputError(f"the splitter fixed needs a size, and no other splitter has one; got {self!r}.")
        if (self.pattern is None) == (self.kind == "regex"):
            raise InvalidInputError(
                f"the splitter regex needs a pattern, and no other splitter has one; got {self!r}."
            )
        if self.size is not None and self.size < 1:
            raise InvalidInputError(f"splitter fixed:{self.size}: a step needs at least 1 token, as in fixed:16.")
        if self.pattern is not None:
            _compiled(self.pattern)

    @classmethod
    def parse(cls, text: Any) -> "Splitter":
        """Return the splitter of a name: `fixed:N`, `regex:PATTERN`, or a name in `SPLITTERS`.

        Raises:
            InvalidInputError: there is no such splitter (the message suggests a similar name), the name is not a
                string, or the size or the pattern cannot be used.
        """
        if not isinstance(text, str):
            raise InvalidInputError(f"a splitter is named by a text, one of {_forms()}; got {text!r}.")
        name, colon, value = text.partition(":")
        if name == "regex" and colon:
            return cls("regex", pattern=value)
        if name == "fixed":
            if not (value.isascii() and value.isdigit()):
                raise InvalidInputError(
                    f"splitter {text!r}: fixed needs a whole number of tokens, at least 1, as in fixed:16."
                )
            return cls("fixed", size=int(value))
        if name in SPLITTERS and not colon:
            return cls(name)
        raise InvalidInputError(_unknown(text))

    def __str__(self) -> str:
        """Return the name of the splitter, which `parse` can read."""
        value = self.size if self.kind == "fixed" else self.pattern
        return self.kind if value is None else f"{self.kind}:{value}"

    def starts(self, text: str) -> list[int]:
        """Return the offsets at which the steps of a text begin, except the first step.

        The offsets ascend, and each is the offset of a character that is not a space.

        Raises:
            InvalidInputError: the splitter is `fixed`, which does not read the text, or the pattern took too long.
        """
        if self.kind == "fixed":
            raise InvalidInputError(f"splitter {self} counts tokens, so it cannot cut a text.")
        if self.pattern is None:
            starts = sorted(SPLITTERS[self.kind](text))
        else:
            # A match may be empty here, although none was in the probe texts. A step then ends at its offset.
            starts = [stop for _, stop in _matches(_compiled(self.pattern), self.pattern, text, MATCH_SECONDS)]
        return merged(text, starts, content=r"\S", tags=False)


def _unknown(text: str) -> str:
    """Return the error message for a name that no splitter has."""
    # With this cutoff, "regex" is similar enough to "regex:PATTERN".
    meant = did_you_mean(text.partition(":")[0].lower(), (*SPLITTERS, *_WITH_VALUE), cutoff=0.45)
    return f"splitter {text!r} does not exist.{meant} There are: {_forms()}."


def _forms() -> str:
    """Return the names of all splitters as one text, for messages."""
    return ", ".join([*SPLITTERS, *_WITH_VALUE])


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    """Compile a regular expression, try it on some texts, and return the compiled expression.

    Raises:
        InvalidInputError: the expression does not compile, matches the empty string, or takes longer than
            `PROBE_SECONDS`.
    """
    try:
        # `re` checks the syntax, because it has clear messages. `regex` is used for matching, because it has a time
        # limit.
        re.compile(pattern)
        compiled = regex.compile(pattern)
    except (re.error, regex.error) as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise InvalidInputError(f"splitter {_shown(pattern)} does not compile: {error.msg}{place}.") from None
    except (OverflowError, RecursionError) as error:
        raise InvalidInputError(f"splitter {_shown(pattern)} does not compile: {error}.") from None
    end = time.monotonic() + PROBE_SECONDS
    for probe in ("", *_PROBES):
        if any(start == stop for start, stop in _matches(compiled, pattern, probe, end - time.monotonic())):
            raise InvalidInputError(
                f"splitter {_shown(pattern)} matches the empty string. A step ends after a match, so a match needs at "
                "least one character."
            )
    return compiled


def _matches(compiled: Any, pattern: str, text: str, seconds: float) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each match of a compiled expression in a text.

    Raises:
        InvalidInputError: the search takes longer than `seconds`. The message names the `pattern`.
    """
    try:
        for found in compiled.finditer(text, timeout=max(seconds, 0.001)):
            yield found.span()
    except TimeoutError:
        raise InvalidInputError(
            f"splitter {_shown(pattern)} takes too long: it was stopped on a text of {len(text)} characters. Write "
            "the pattern without a repetition inside another repetition."
        ) from None


def _shown(pattern: str) -> str:
    """Return the name `regex:PATTERN` of a splitter for messages, on one line and cut to 80 characters."""
    text = "regex:" + pattern.replace("\n", "\\n")
    return text if len(text) <= 80 else f"{text[:77]}..."
