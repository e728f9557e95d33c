r"""Find the letter that a completion chooses among lettered options.

The functions use only strings, and their time is linear in the length of the text. A completion chooses no letter if
it names two letters. It also chooses none if its answer is more than a letter, as in `C=O`, and the rest is not the
text of an option.
"""

import re

from antiphase.tasks.extraction import MAX_LENGTH, ExtractMode, extract_answer, last_line, last_match
from antiphase.tasks.marked_answers import boxed, tagged

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm|bf)\s*\{([^{}]*)\}")
_ALONE = re.compile(r"\(?([A-Z])(?:[).:]{0,2})")
_WITH_TEXT = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])\s")
_STATED = re.compile(
    r"\b(?:answer|choice|option)(?:\s+(?:is|are)\b|\s*:)[\s:*]*(?:(?:option|choice|letter)\s+)?", re.IGNORECASE
)
_LETTER = re.compile(
    r"[\s*$({\\]*(?:(?:text|textbf|mathrm|mathbf)\s*\{)?\(?"
    # An A before a word in lower case is an article, unless that word begins a reason.
    r"(A\b(?!\s+(?!(?:and|or|because|since|as|with|which)\b)[a-z])|[B-Z]\b)(?![-–'’=+])"
)
_OTHERS = re.compile(r"[\s*)}.$]*(?:,|/|\bor\b|\band\b)\s*[*$(]*[A-HJ-Z]\b")


def chosen_letter(completion: str, mode: ExtractMode, letters: str) -> str | None:
    r"""Return the letter that a completion chooses; None if it chooses none, or more than one.

    Args:
        completion: the generated text.
        mode: where to look. `auto` reads the last `<answer>…</answer>`; without such tags the last box; without a box
            the text after the last "answer is" or "Answer:"; without these the last line, which must be a letter
            alone. `extract_answer` explains the other modes.
        letters: the letters that may be chosen.

    >>> [chosen_letter(t, "auto", "ABCD") for t in (r"\boxed{\text{B}}", "The answer is (C).", "Answer: A or B", "A")]
    ['B', 'C', None, 'A']
    >>> chosen_letter("<answer>D) 3 eV</answer>", "auto", "ABCD"), chosen_letter("Answer: E", "auto", "ABCD")
    ('D', None)
    """
    text = completion[-MAX_LENGTH:]
    if mode == "auto":
        found = _auto(text)
    else:
        content = extract_answer(completion, mode, "")
        found = None if content is None else _only_letter(content)
    return found if found is not None and found in letters else None


def _auto(text: str) -> str | None:
    """Return the letter that the mode `auto` of `chosen_letter` finds."""
    if "<answer>" in text:
        content = tagged(text)
        if content is not None:
            return _only_letter(content)
        text = text.rpartition("<answer>")[2]
    content = boxed(text)
    if content is not None and content.strip():
        return _only_letter(content)
    stated = last_match(_STATED, text)
    if stated is not None:
        return _leading_letter(text, stated.end())
    return _only_letter(last_line(text) or "")


def _only_letter(content: str) -> str | None:
    r"""Return the letter if the content is `B`, `(B)`, `B.`, `\text{B}` or `B) the option's text`, else None.

    A lower-case letter counts only if it stands alone.
    """
    content = content[:MAX_LENGTH].strip()
    for _ in range(3):  # removes wrappings inside each other, such as bold text in a box in tags
        inner = boxed(content)
        content = (_WRAPPED.sub(r"\1", content) if inner is None else inner).strip("$* \t\n")
    if len(content) == 1:
        return content.upper() if content.isascii() and content.isalpha() else None
    match = _ALONE.fullmatch(content)
    if match is not None:
        return match[1]
    match = _WITH_TEXT.match(content)
    if match is None or _OTHERS.match(content, match.end() - 1):
        return None
    return match[1] or match[2]


def _leading_letter(text: str, start: int) -> str | None:
    """Return the letter that follows an announcement such as "the answer is"; None if no letter or two letters follow.

    `start` is the offset in the text at which the announcement ends.
    """
    alone = _only_letter(text[start:].partition("\n")[0])
    match = _LETTER.match(text, start)
    if alone is not None or match is None or _OTHERS.match(text, match.end()):
        return alone
    return match[1]
