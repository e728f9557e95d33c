"""Which tokens lost the space before them: SentencePiece decodes a token on its own without it.

Tokens are followed along the completion, whose text has the spaces.
"""

from collections.abc import Sequence


def spaces_before(completion: str, tokens: Sequence[str]) -> list[bool]:
    """Whether the completion has a space right before each token that the token's own text lacks.

    Where a token cannot be found next (a piece of a character, a special token that the text leaves out), the walk
    waits for the next one that can.

    >>> spaces_before("Wait, I see", ["Wait", ",", "I", " see"])
    [False, False, True, False]
    """
    flags, cursor = [], 0
    for token in tokens:
        spaced = False
        if completion.startswith(token, cursor):
            cursor += len(token)
        elif completion.startswith(" " + token, cursor):
            spaced = True
            cursor += 1 + len(token)
        else:
            found = completion.find(token, cursor, cursor + len(token) + 8) if token else -1
            if found >= 0:
                spaced = completion[found - 1 : found] == " "
                cursor = found + len(token)
        flags.append(spaced)
    return flags
