"""Columns of numbers as text that a page holds: bytes by significance, deflated, in base64.

Main columns keep every bit of float32, so that ranks on the page are the summary's. What only details show is kept in
16 bits: strengths by layer and projection on a logarithmic scale (relative error below 0.1 % over six decades),
log-probabilities of alternatives in steps of 0.0005 nats.
"""

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LEVELS = 65_533
# 0 codes NaN and 1 zero, where a logarithm has no value.
_FIRST_LEVEL = 2
LOGPROB_STEP = 32 / 65_535


@dataclass
class Blobs:
    """Packed columns, by place."""

    texts: list[str] = field(default_factory=list)

    def add(self, values: np.ndarray) -> dict[str, Any]:
        """Pack a column; returns what the page needs to find and unpack it."""
        self.texts.append(packed(values))
        return {"blob": len(self.texts) - 1, "dtype": values.dtype.name, "length": int(values.size)}

    @property
    def size(self) -> int:
        """Characters so far."""
        return sum(map(len, self.texts))

    def forget(self, number: int) -> None:
        """Drop all but the first columns."""
        del self.texts[number:]


def packed(values: np.ndarray) -> str:
    """A column as text; bytes of equal significance stand together, which deflates better."""
    little = np.ascontiguousarray(values.ravel()).astype(values.dtype.newbyteorder("<"), copy=False)
    planes = little.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def smallest_unsigned(values: np.ndarray) -> np.ndarray:
    """Non-negative whole numbers in the narrowest unsigned type.

    >>> smallest_unsigned(np.array([0, 300])).dtype.name
    'uint16'
    """
    top = int(values.max(initial=0))
    return values.astype(np.uint8 if top < 1 << 8 else np.uint16 if top < 1 << 16 else np.uint32)


def log_coded(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Non-negative values as 16-bit levels of their logarithm.

    level = 2 + round(65533 (ln s − low) / (high − low)); 1 is zero, 0 is NaN.

    Returns:
        (levels, low, high), with low and high the range of ln s.

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
    """Log-probabilities as 16-bit steps of −0.0005 nats; below −32 and undefined are the last step.

    >>> logprob_coded(np.array([0.0, -16.0, -99.0])).tolist()
    [0, 32768, 65535]
    """
    steps = np.rint(-np.nan_to_num(values, nan=-np.inf, neginf=-33.0) / LOGPROB_STEP)
    coded: np.ndarray = np.clip(steps, 0, 65_535).astype(np.uint16)
    return coded
