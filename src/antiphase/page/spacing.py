"""Find the tokens that lost the space before them: SentencePiece drops it when it decodes a token alone.

The text of the completion has the spaces. So the tokens are looked for in it, one after the other.
"""

from collections.abc import Sequence

# How many characters ahead a token is looked for. Each token that was not found since the last match adds one more.
_AHEAD = 8


def spaces_before(completion: str, tokens: Sequence[str]) -> list[bool]:
    """For each token, whether the completion has a space before it that the token's own text lacks.

    Some tokens cannot be found: a part of a character, or a special token that the text leaves out. The search then
    goes on with the next token and looks one character further ahead for each token that it missed. A token without
    text counts as a space if the completion has one there.

    >>> spaces_before("Wait, I see", ["Wait", ",", "I", " see"])
    [False, False, True, False]
    """
    return [place > cursor and completion[place - 1] == " " for cursor, place in found_places(completion, tokens)]


def found_places(completion: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """For each token: where the search for it begins, and where it is found; −1 where it is not.

    The rules of the search are those of `spaces_before`.

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
