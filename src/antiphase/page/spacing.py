"""Find the tokens whose texts lost the space that stands before them in the completion.

SentencePiece drops this space when it decodes a single token. The text of the whole completion has the spaces, so this
module looks for the tokens in that text, one after the other.
"""

from collections.abc import Sequence

# How many characters ahead a token is looked for. For each token that was missed since the last match, it is one more.
_AHEAD = 8


def spaces_before(completion: str, tokens: Sequence[str]) -> list[bool]:
    """Return, for each token, whether a space stands before it in the completion, but not in the token's own text.

    Some tokens cannot be found: for example a part of a character, or a special token that the text leaves out. The
    search then goes on with the next token, and looks one character further ahead for each token that it missed. If a
    token has no text and the completion has a space at its place, the token counts as this space.

    >>> spaces_before("Wait, I see", ["Wait", ",", "I", " see"])
    [False, False, True, False]
    """
    return [place > cursor and completion[place - 1] == " " for cursor, place in found_places(completion, tokens)]


def found_places(completion: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Return for each token where the search for it begins, and where it is found (−1 if it is not found).

    `spaces_before` describes the rules of the search.

    >>> found_places("Wait, I see", ["Wait", ",", "I", "you", " see"])
    [(0, 0), (4, 4), (5, 6), (7, -1), (7, 7)]
    """
    places, cursor, waiting = [], 0, 0
    for token in tokens:
        if token and completion.startswith(token, cursor):
            found = cursor
        elif completion.startswith(" " + token, cursor):
            found = cursor + 1
        else:
            found = completion.find(token, cursor, cursor + len(token) + _AHEAD + waiting) if token else -1
        places.append((cursor, found))
        if found < 0:
            waiting += 1
        else:
            waiting, cursor = 0, found + len(token)
    return places
