"""Decide from the surrounding text whether a full stop, question mark or exclamation mark ends a sentence."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A full stop after one of these words ends no sentence, even if a capital letter follows.
_TITLES = _words(
    "mr mrs ms mx dr prof rev hon gen col sgt lt capt gov sen rep pres st mt e.g i.e eg ie cf viz vs v approx resp ca "
    "incl excl fig figs eq eqs eqn eqns thm lem prop cor def defn ex exs ref refs rem sect chap cap ed eds tr"
)
# A full stop after one of these abbreviations ends a sentence only if a capital letter follows.
_SHORT = _words(
    "etc al a.m p.m am pm u.s u.k u.n u.s.a ph.d b.c a.d inc ltd co corp jr sr bros dept ave blvd rd est ft lb lbs oz "
    "min mins sec secs hr hrs yr yrs wk wks sq cu yd yds mi pt pts qt qts gal km cm mm kg mg ml jan feb mar apr jun "
    "jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun max avg std dev temp orig misc"
)
# A full stop after one of these words ends no sentence if a number follows, as in "no. 5".
_NUMBERED = _words("al no nos nr p pp vol vols ch sec secs art fig figs eq eqs ex prob q thm lem def n para")
# If one of these words follows "A.", the full stop ends a sentence. The letter is then no initial of a name.
_STARTERS = _words(
    "the then so therefore thus hence let since if we it this that these those now but and or in for to as when "
    "because first next finally also however wait hmm okay ok yes no there here a an i you he she they what how which "
    "is are does do can note suppose given by from with after before each every all both"
)
_LABEL = re.compile(
    r"[\s*_#>\-+•(\[]*(?:\d{1,3}(?:\.\d{1,3})*|[A-Za-z]|[ivxIVX]{1,5}"
    r"|(?:step|case|part|question|problem|example|exercise|option|rule|line|day|week|note)\s+\w{1,4})",
    re.IGNORECASE,
)
_WORD_BEFORE = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*$")
_WORD_AFTER = re.compile(r"[\"“'‘(\[*_`]*([^\W\d_]+)")
_OPERATORS = frozenset("=+/<>^%&|,;:)]}×÷≤≥≠≈")
_LONGEST_WORD = 24
_LONGEST_LABEL = 60


def ends_sentence(text: str, begin: int, start: int, stop: int, end: int, after: int) -> bool:
    """Return whether a sentence ends at a group of marks.

    A group is one or more of the marks `.`, `!`, `?` and `…`, with nothing between them. An example is
    `He said "No!?" Then`, in which the group is `!?`.

    Args:
        text: the text of the completion.
        begin: the offset of the first character of the current sentence (`H` in the example).
        start: the offset of the first mark (`!` in the example).
        stop: the offset after the last mark (that of the closing quote in the example).
        end: the offset after the closing quotes, brackets and emphasis signs that follow the marks. It equals `stop`
            if there are none.
        after: the offset of the next character that is not white space (`T` in the example).
    """
    following = text[after : after + 1]
    if after == end:  # No space follows. This is a number, a URL or an attribute, except in Chinese and Japanese.
        return _is_wide(following) and start > 0 and not text[start - 1].isspace()
    if not following or following in _OPERATORS:
        return False
    marks = text[start:stop]
    goes_on = following.islower() and "\n" not in text[end:after]
    if marks == ".":
        return _full_stop(text, begin, start, after)
    if goes_on and not marks.strip(".…"):
        return False
    if goes_on and marks == "!" and _is_number(text, start):
        return False  # The mark is a factorial.
    # In `"Why?" he asked`, the sentence goes on after the closing quote.
    return not (goes_on and any(mark in text[stop:end] for mark in "\"'”’»"))


def _full_stop(text: str, begin: int, start: int, after: int) -> bool:
    """Return whether the full stop at the offset `start` ends a sentence.

    The current sentence begins at `begin`. The next character after the full stop that is not white space stands at
    `after`.
    """
    found = _WORD_BEFORE.search(text, max(begin, start - _LONGEST_WORD), start)
    # A label is the number of a list item, or "Step 1.".
    is_label = start - begin < _LONGEST_LABEL and _LABEL.fullmatch(text, begin, start) is not None
    if is_label or found is None:  # After a number, a bracket or a formula, the full stop ends a sentence.
        return not is_label
    word, following = found[0].lower(), text[after]
    if word in _TITLES or (word in _NUMBERED and (following.isdigit() or following == "(")):
        return False
    short = word in _SHORT or "." in word
    if "\n" in text[start:after]:
        return True
    if following.islower():
        return len(word) > 3 and not short
    if short:
        return not following.isdigit()
    return not (len(word) == 1 and found[0].isupper() and _is_initial(text, begin, found.start(), after))


def _is_initial(text: str, begin: int, start: int, after: int) -> bool:
    """Return whether a capital letter before a full stop is an initial, as in "George W. Bush".

    In "point A. Then" it is not an initial.

    Args:
        text: the text of the completion.
        begin: the offset of the first character of the current sentence.
        start: the offset of the capital letter.
        after: the offset of the next word.
    """
    following = _WORD_AFTER.match(text, after)
    if following is None or following[1].lower() in _STARTERS:
        return False
    if len(following[1]) == 1:  # J. K. Rowling
        return True
    words = text[max(begin, start - _LONGEST_WORD) : start].split()
    return not words or words[-1][:1].isupper() or words[-1].endswith(".") or words[-1] in ("by", "and", "of")


def _is_number(text: str, stop: int) -> bool:
    """Return whether the text before the offset `stop` ends with a digit, `)`, or a word of one letter."""
    found = _WORD_BEFORE.search(text, max(0, stop - 3), stop)
    return len(found[0]) == 1 if found else text[stop - 1 : stop].isdigit() or text[stop - 1 : stop] == ")"


def _is_wide(character: str) -> bool:
    """Return whether a character belongs to a script without spaces: kana, Han or full-width forms."""
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uff10" <= character <= "\uff5a"
