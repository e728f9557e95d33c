"""Decide whether a full stop, question mark or exclamation mark ends a sentence, from the text around it."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# These end no sentence, even before a capital letter.
_TITLES = _words(
    "mr mrs ms mx dr prof rev hon gen col sgt lt capt gov sen rep pres st mt e.g i.e eg ie cf viz vs v approx resp ca "
    "incl excl fig figs eq eqs eqn eqns thm lem prop cor def defn ex exs ref refs rem sect chap cap ed eds tr"
)
# These end a sentence if a capital letter follows.
_SHORT = _words(
    "etc al a.m p.m am pm u.s u.k u.n u.s.a ph.d b.c a.d inc ltd co corp jr sr bros dept ave blvd rd est ft lb lbs oz "
    "min mins sec secs hr hrs yr yrs wk wks sq cu yd yds mi pt pts qt qts gal km cm mm kg mg ml jan feb mar apr jun "
    "jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun max avg std dev temp orig misc"
)
# These end no sentence if a number follows.
_NUMBERED = _words("al no nos nr p pp vol vols ch sec secs art fig figs eq eqs ex prob q thm lem def n para")
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
    """Whether the marks in `text[start:stop]`, with closing quotes and brackets up to `end`, end a sentence.

    Args:
        text: the text of the completion.
        begin: where the current sentence begins.
        start, stop: where the run of . ! ? … starts and ends.
        end: where the closing quotes, brackets and emphasis after the run end.
        after: the place of the next character that is no space.
    """
    following = text[after : after + 1]
    if after == end:  # no space: a number, a URL or an attribute, except in Chinese and Japanese
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
        return False  # a factorial
    return not (goes_on and any(mark in text[stop:end] for mark in "\"'”’»"))  # "Why?" he asked


def _full_stop(text: str, begin: int, start: int, after: int) -> bool:
    found = _WORD_BEFORE.search(text, max(begin, start - _LONGEST_WORD), start)
    # A label is the number of a list item, or "Step 1."
    is_label = start - begin < _LONGEST_LABEL and _LABEL.fullmatch(text, begin, start) is not None
    if is_label or found is None:  # after a number, a bracket or a formula it is a full stop
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
    """Whether the capital letter before a full stop belongs to a name: in George W. Bush, not in "point A. Then"."""
    following = _WORD_AFTER.match(text, after)
    if following is None or following[1].lower() in _STARTERS:
        return False
    if len(following[1]) == 1:  # J. K. Rowling
        return True
    words = text[max(begin, start - _LONGEST_WORD) : start].split()
    return not words or words[-1][:1].isupper() or words[-1].endswith(".") or words[-1] in ("by", "and", "of")


def _is_number(text: str, stop: int) -> bool:
    """Whether a number, a bracket or a variable of one letter ends at this place."""
    found = _WORD_BEFORE.search(text, max(0, stop - 3), stop)
    return len(found[0]) == 1 if found else text[stop - 1 : stop].isdigit() or text[stop - 1 : stop] == ")"


def _is_wide(character: str) -> bool:
    """Whether the character belongs to a script without spaces: kana, Han, full-width forms."""
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uff10" <= character <= "\uff5a"
