"""Pack columns of numbers as text: the bytes are sorted by significance, compressed, and written in base64.

The main columns keep every bit of float32, so that the ranks on the page are those of the summary. Numbers that are
shown only in the details are kept in 16 bits: strengths by layer and projection on a logarithmic scale, with a
relative error below 0.1 % over six decades, and log-probabilities of alternatives in steps of 0.0005 nats.
"""

import base64
import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LEVELS = 65_533
# Level 0 means NaN, and level 1 means the value zero, which has no logarithm.
_FIRST_LEVEL = 2
LOGPROB_STEP = 32 / 65_535


@dataclass
class Blobs:
    """The packed columns of a page, in the order in which they were added, and the list of words that they use.

    A column of words is stored as numbers: each is the index of a word in this list.
    """

    texts: list[str] = field(default_factory=list)
    # Each word with its number, in the order in which the words were first used.
    words: dict[str, int] = field(default_factory=dict)

    def add(self, values: np.ndarray) -> dict[str, Any]:
        """Pack a column and return what the page needs to find and unpack it."""
        self.texts.append(packed(values))
        return {"blob": len(self.texts) - 1, "dtype": values.dtype.name, "length": int(values.size)}

    def add_words(self, texts: Iterable[str]) -> dict[str, Any]:
        """Pack a column of words as their indices in the list of words. New words are added to the list."""
        numbers = [self.words.setdefault(text, len(self.words)) for text in texts]
        return self.add(smallest_unsigned(np.array(numbers, dtype=np.int64)))

    @property
    def size(self) -> int:
        """The number of characters of all packed columns that were added so far."""
        return sum(map(len, self.texts))

    def forget(self, columns: int = 0, words: int = 0) -> None:
        """Keep only the first `columns` columns and the first `words` words, and forget the others."""
        del self.texts[columns:]
        self.words = dict(itertools.islice(self.words.items(), words))


def packed(values: np.ndarray) -> str:
    """Pack a column as text. Bytes of equal significance stand together, because that compresses better."""
    little = np.ascontiguousarray(values.ravel()).astype(values.dtype.newbyteorder("<"), copy=False)
    planes = little.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def smallest_unsigned(values: np.ndarray) -> np.ndarray:
    """Return non-negative whole numbers in the narrowest unsigned type that can hold them.

    >>> smallest_unsigned(np.array([0, 300])).dtype.name
    'uint16'
    """
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def log_coded(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Encode non-negative values s as 16-bit levels of their logarithm.

    level = 2 + round(65533 (ln s − low) / (high − low)); level 1 means s = 0, and level 0 means NaN.

    Returns:
        (levels, low, high), where low and high are the smallest and the largest ln s of the positive values.

    >>> log_coded(np.array([1.0, 0.0, np.nan]))[0].tolist()
    [2, 1, 0]
    """
    positive = values > 0
    logs = np.log(values, where=positive, out=np.full(values.shape, np.nan))
    low, high = (float(logs[positive].min()), float(logs[positive].max())) if positive.any() else (0.0, 0.0)
    scaled = np.zeros(values.shape) if high == low else (logs - low) / (high - low) * _LEVELS
    levels = np.where(positive, _FIRST_LEVEL + np.rint(np.nan_to_num(scaled)), np.where(values == 0, 1, 0))
    return levels.astype(np.uint16), low, high


def logprob_coded(values: np.ndarray) -> np.ndarray:
    """Encode log-probabilities as 16-bit steps of −0.0005 nats. Values below −32 and undefined ones get the last step.

    >>> logprob_coded(np.array([0.0, -16.0, -99.0])).tolist()
    [0, 32768, 65535]
    """
    steps = np.rint(-np.nan_to_num(values, nan=-np.inf, neginf=-33.0) / LOGPROB_STEP)
    coded: np.ndarray = np.clip(steps, 0, 65_535).astype(np.uint16)
    return coded
