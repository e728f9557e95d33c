"""Which tokens lost the space before them: SentencePiece decodes a token on its own without it.

Tokens are followed along the completion, whose text has the spaces.
"""

from collections.abc import Sequence

# Characters that a token may be ahead, besides one for each token that was not found since the last one that was.
_AHEAD = 8


def spaces_before(completion: str, tokens: Sequence[str]) -> list[bool]:
    """Whether the completion has a space right before each token that the token's own text lacks.

    Where a token cannot be found next (a piece of a character, a special token that the text leaves out), the walk
    waits for the next one that can, and looks the farther ahead the more tokens have gone by. A token without text is
    a space, where there is one.

    >>> spaces_before("Wait, I see", ["Wait", ",", "I", " see"])
    [False, False, True, False]
    """
    flags, cursor, waiting = [], 0, 0
    for token in tokens:
        if token and completion.startswith(token, cursor):
            found = cursor
        elif completion.startswith(" " + token, cursor):
            found = cursor + 1
        else:
            found = completion.find(token, cursor, cursor + len(token) + _AHEAD + waiting) if token else -1
        flags.append(found > cursor and completion[found - 1] == " ")
        if found < 0:
            waiting += 1
        else:
            waiting, cursor = 0, found + len(token)
    return flags
