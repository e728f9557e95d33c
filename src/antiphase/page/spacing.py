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
