"""The ways to cut a completion into steps, and their names on the command line."""

import difflib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import regex

from antiphase.errors import InvalidInputError
from antiphase.steps.sentences import merged, sentence_starts

SplitterKind = Literal["sentence", "line", "fixed", "regex"]
KINDS: tuple[SplitterKind, ...] = get_args(SplitterKind)
DEFAULT_SPLITTER = "sentence"

# Seconds that a pattern may take: on the probe texts, and on one completion.
PROBE_SECONDS = 1.0
MATCH_SECONDS = 10.0

_FORMS = "sentence, line, fixed:N, regex:PATTERN"
# What makes careless patterns slow: long runs of one kind of character without the end that the pattern looks for.
_PROBES = (
    *(character * 60 + end for character in "ax1 .\n=_-" for end in ("", "!", "\x00")),
    *(character * 3000 for character in "ax1 .\n"),
    "So the total is 3.5 + 4 = 7.5 dollars. Wait, is it?\n\n1. First, add them.\n- Yes! \\[ x = 5 \\]\n" * 20,
    "word " * 800,
)
_LINE = re.compile(r"\n+")


@dataclass(frozen=True)
class Splitter:
    """How a completion is cut into steps.

    `sentence` and `line` read the text, `fixed` counts tokens and reads none, `regex` ends a step after each match.

    >>> Splitter.parse("fixed:16")
    Splitter(kind='fixed', size=16, pattern=None)
    >>> Splitter().starts("It is 3.5, e.g. x. So yes.")
    [19]

    Args:
        kind: `sentence`, `line`, `fixed` or `regex`.
        size: tokens in a step, for `fixed`.
        pattern: for `regex`, in the syntax of Python's `re`.

    Raises:
        InvalidInputError: an unknown kind, a size below 1, or a pattern that does not compile, or on the probe texts
            matches the empty string or takes longer than a second.
    """

    kind: SplitterKind = "sentence"
    size: int | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInputError(_unknown(self.kind))
        if (self.size is None) == (self.kind == "fixed"):
            raise InvalidInputError(f"a splitter has a size if and only if it is fixed:N; got {self!r}.")
        if (self.pattern is None) == (self.kind == "regex"):
            raise InvalidInputError(f"a splitter has a pattern if and only if it is regex:PATTERN; got {self!r}.")
        if self.size is not None and self.size < 1:
            raise InvalidInputError(f"splitter fixed:{self.size}: a step needs at least 1 token, as in fixed:16.")
        if self.pattern is not None:
            _compiled(self.pattern)

    @classmethod
    def parse(cls, text: Any) -> "Splitter":
        """The splitter named by `sentence`, `line`, `fixed:N` or `regex:PATTERN`.

        Raises:
            InvalidInputError: there is no such splitter (naming the nearest), it is no text, or its size or pattern
                will not do.
        """
        if not isinstance(text, str):
            raise InvalidInputError(f"a splitter is named by a text, one of {_FORMS}; got {text!r}.")
        name, colon, value = text.partition(":")
        if name == "regex" and colon:
            return cls("regex", pattern=value)
        if name == "fixed":
            if not (value.isascii() and value.isdigit()):
                raise InvalidInputError(
                    f"splitter {text!r}: fixed needs a whole number of tokens, at least 1, as in fixed:16."
                )
            return cls("fixed", size=int(value))
        if name in ("sentence", "line") and not colon:
            return cls("sentence" if name == "sentence" else "line")
        raise InvalidInputError(_unknown(text))

    def __str__(self) -> str:
        """The text that `parse` reads."""
        value = self.size if self.kind == "fixed" else self.pattern
        return self.kind if value is None else f"{self.kind}:{value}"

    def starts(self, text: str) -> list[int]:
        """Where each step of the text but the first begins: offsets, ascending, each at a character that is no space.

        Raises:
            InvalidInputError: the splitter is `fixed`, which reads no text, or the pattern took too long.
        """
        if self.kind == "sentence":
            return sentence_starts(text)
        if self.kind == "line":
            return merged(text, (found.end() for found in _LINE.finditer(text)), content=r"\S")
        if self.pattern is None:
            raise InvalidInputError(f"splitter {self} counts tokens; it finds nothing in a text.")
        return merged(text, _match_ends(self.pattern, text), content=r"\S", tags=False)


def _unknown(text: str) -> str:
    near = difflib.get_close_matches(text.partition(":")[0].lower(), KINDS, n=1, cutoff=0.5)
    form = {"fixed": "fixed:N", "regex": "regex:PATTERN"}.get(near[0], near[0]) if near else ""
    meant = f"; did you mean {form!r}?" if form else "."
    return f"splitter {text!r} does not exist{meant} There are: {_FORMS}."


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    """The pattern, compiled and tried."""
    try:
        # `re` gives the syntax and its messages; `regex` can be stopped.
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
                f"splitter {_shown(pattern)} matches the empty string; a step ends after a match, which needs at "
                "least one character."
            )
    return compiled


def _match_ends(pattern: str, text: str) -> Iterator[int]:
    # A match without characters, of which the probe texts had none, is a place: a step ends there.
    for _, stop in _matches(_compiled(pattern), pattern, text, MATCH_SECONDS):
        yield stop


def _matches(compiled: Any, pattern: str, text: str, seconds: float) -> Iterator[tuple[int, int]]:
    try:
        for found in compiled.finditer(text, timeout=max(seconds, 0.001)):
            yield found.span()
    except TimeoutError:
        raise InvalidInputError(
            f"splitter {_shown(pattern)} takes too long: it was stopped on a text of {len(text)} characters. Write it "
            "without repetitions inside repetitions."
        ) from None


def _shown(pattern: str) -> str:
    """The splitter's name on one line."""
    text = "regex:" + pattern.replace("\n", "\\n")
    return text if len(text) <= 80 else f"{text[:77]}..."
