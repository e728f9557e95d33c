"""Find where each token stands in the text of a completion.

This works for any tokenizer, and the time is linear in the number of tokens.
"""

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ESCAPED = re.compile("[\udc80-\udcff]")
_SPACE = re.compile(r"\s+")
# The greatest number of pairs of tokens whose texts are remembered for a tokenizer: about 50 MB.
_MOST_PAIRS = 1 << 18


@dataclass(frozen=True)
class PlacedTokens:
    """The text of a completion, and the offsets of each token in it.

    Args:
        text: the text as the tokenizer decodes it, with special tokens. Each byte that is not valid UTF-8 becomes one
            character U+FFFD.
        starts, ends: for each token, the offsets in `text` at which it starts and ends. If the bytes of a character
            are split over several tokens, the character belongs to each of them. A token without text starts and ends
            at the same offset.
    """

    text: str
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def first_solid(self, text: str) -> NDArray[np.int64]:
        """Return, for each token, the offset of its first character that is not a space.

        Args:
            text: the text of the completion. The caller may have replaced some characters by spaces, so that they do
                not count.

        Returns:
            The offsets `[token]`. A token of white space, or without text, gets the length of the text.
        """
        size = len(text)
        solid = np.ones(size + 1, dtype=bool)
        for found in _SPACE.finditer(text):
            solid[found.start() : found.end()] = False
        next_solid = np.minimum.accumulate(np.where(solid, np.arange(size + 1), size)[::-1])[::-1]
        first = next_solid[self.starts]
        return np.where(first < self.ends, first, size)


def place_tokens(token_ids: Sequence[int], tokenizer: Any, pauses: Sequence[int] = ()) -> PlacedTokens:
    """Return the text of some tokens, and the offsets of each token in the text.

    The text that a token adds depends only on the token before it. For example, SentencePiece drops the space of the
    first token, and WordPiece puts a space between words. So it is enough to decode each distinct pair of neighbours
    once. The text of a pair is remembered for later calls with the same tokenizer, since decoding takes most of the
    time. Some tokens contain only a part of a character. Their bytes are joined before they are decoded.

    Args:
        token_ids: the token ids of one completion.
        tokenizer: a Hugging Face tokenizer.
        pauses: the indices of tokens before which a blank line is put into the text.
    """
    parts = _bytes_of_tokens(token_ids, tokenizer)
    pause = b"\n\n"
    breaks = np.zeros(len(parts), dtype=np.int64)
    breaks[list(pauses)] = len(pause)
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    begins = np.cumsum(breaks + lengths) - lengths
    paused = frozenset(pauses)
    data = b"".join(pause + part if number in paused else part for number, part in enumerate(parts))
    # With surrogateescape, every byte that is not valid UTF-8 becomes one character, so offsets can be counted.
    escaped = data.decode("utf-8", "surrogateescape")
    points = np.frombuffer(escaped.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    invalid = (points >= 0xDC80) & (points <= 0xDCFF)
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    widths[invalid] = 1
    character_begins = np.cumsum(widths) - widths
    starts = np.searchsorted(character_begins, begins, side="right") - 1
    ends = np.where(lengths > 0, np.searchsorted(character_begins, begins + lengths, side="left"), starts)
    text = _ESCAPED.sub(REPLACEMENT, escaped)
    return PlacedTokens(text, np.maximum(starts, 0), np.maximum(ends, 0))


@dataclass
class _Known:
    """The texts of tokens that were decoded before, kept so that they need not be decoded again.

    Args:
        size: the size of the tokenizer's vocabulary when the texts were decoded. If the size changes, the texts are no
            longer valid.
        alone: a mapping from the id of a token to its text when it is decoded alone.
        split: a mapping from the id of a token that contains only a part of a character to its bytes.
        added: a mapping from a pair of neighbouring ids to the bytes that the second token adds after the first.
    """

    size: int
    alone: dict[int, str] = field(default_factory=dict)
    split: dict[int, bytes] = field(default_factory=dict)
    added: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def learn(self, token_ids: Sequence[int], tokenizer: Any) -> None:
        """Decode those of the tokens, and of the pairs of neighbouring tokens, that were not decoded before."""
        tokens = [token for token in dict.fromkeys(token_ids) if token not in self.alone]
        for token, text in zip(tokens, _decode([[token] for token in tokens], tokenizer), strict=True):
            self.alone[token] = text
            if REPLACEMENT in text:
                self.split[token] = _raw_bytes(tokenizer, token, text)
        pairs = [pair for pair in dict.fromkeys(pairwise(token_ids)) if pair not in self.added]
        for pair, text in zip(pairs, _decode([list(pair) for pair in pairs], tokenizer), strict=True):
            added = _added(self.alone[pair[0]], self.alone[pair[1]], text)
            self.added[pair] = self.split.get(pair[1], added.encode("utf-8", "replace"))


_KNOWN: MutableMapping[Any, _Known] = WeakKeyDictionary()


def _bytes_of_tokens(token_ids: Sequence[int], tokenizer: Any) -> list[bytes]:
    """Return, for each token of a completion, the UTF-8 bytes that it adds to the text."""
    if not token_ids:
        return []
    known = _KNOWN.get(tokenizer)
    # A tokenizer to which tokens were added may decode differently.
    if known is None or known.size != len(tokenizer) or len(known.added) > _MOST_PAIRS:
        known = _KNOWN[tokenizer] = _Known(len(tokenizer))
    known.learn(token_ids, tokenizer)
    first = token_ids[0]
    start = known.split.get(first, known.alone[first].encode("utf-8", "replace"))
    return [start, *(known.added[pair] for pair in pairwise(token_ids))]


def _added(before: str, alone: str, together: str) -> str:
    """Return the text that a token adds to the text of the token before it.

    Args:
        before: the text of the first token, decoded alone.
        alone: the text of the second token, decoded alone.
        together: the text of both tokens, decoded together.
    """
    added = together[len(before) :] if together.startswith(before) else alone
    return alone if REPLACEMENT in added else added


def _decode(rows: list[list[int]], tokenizer: Any) -> list[str]:
    """Return the text of each list of token ids, with special tokens."""
    if not rows:  # Given an empty list, a tokenizer would return one empty text.
        return []
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return texts


def _raw_bytes(tokenizer: Any, token: int, text: str) -> bytes:
    """Return the bytes of a token that contains only a part of a character.

    The bytes are read from the token's name in the vocabulary. In SentencePiece the name is like `<0xE4>`. In GPT-2,
    each letter of the name stands for a byte (see `byte_letters`). For any other name, the bytes of `text` are
    returned, which is the token's text when it is decoded alone.
    """
    name = tokenizer.convert_ids_to_tokens(token)
    if isinstance(name, str):
        letters = byte_letters()
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        if all(letter in letters for letter in name):
            return bytes(letters[letter] for letter in name)
    return text.encode("utf-8", "replace")


@lru_cache(maxsize=1)
def byte_letters() -> dict[str, int]:
    """Return a mapping from letters to bytes: in the vocabulary of GPT-2, each letter of a token stands for a byte.

    Many models use this kind of vocabulary.

    >>> byte_letters()["Ġ"], byte_letters()["A"], len(byte_letters())
    (32, 65, 256)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
