"""Draw the tokens of every rollout from a random stream of its own, so that no other rollout changes them.

The rollout's seed determines the stream. `rollout_seeds` makes this seed from the seed of the run, the prompt, and the
index of the rollout among the rollouts of this prompt. Each position uses the next numbers of the stream. So a rollout
is the same for every batch size, order of the prompts and number of processes, and in a resumed run. One difference
remains: batches of other shapes round the logits differently. If two tokens are almost tied, rounding can decide
between them (see "Draws" in docs/evaluate.md).

The random numbers come from NumPy's bit generator `Philox`, which is based on a counter (Salmon et al., 2011,
doi:10.1145/2063384.2063405). NumPy guarantees the same raw numbers in all versions (NEP 19). The noise is computed
from them on the CPU in float64, so all devices use the same noise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

# The tokens of the vocabulary are drawn in two stages: first a block of this many tokens, then a token of the block.
BLOCK = 256


class OwnDraws(LogitsProcessor):  # type: ignore[misc]
    """Logits processor that draws the next token of each row from the row's own random stream.

    All tokens but the drawn one get the score −∞, so greedy decoding takes the drawn token. This processor must be the
    last one, after temperature and top-p.

    A token is drawn in two stages, both by the Gumbel-max trick. The vocabulary is divided into blocks of 256 tokens.
    The first stage draws the block whose log-probability plus Gumbel noise is the greatest. The second stage draws a
    token of this block in the same way. The result is an exact draw from the distribution. Rounding of the logits
    changes the drawn token only if two sums are almost equal. The two stages need far fewer random numbers than a
    method that uses one number for each token of the vocabulary.

    Args:
        seeds: the seed of each row; see `rollout_seeds`.

    Attributes:
        finite: True if the probabilities of all rows were finite at all positions so far; False if NaN or infinity was
            among them.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.Philox(key=seed) for seed in seeds]
        self.finite = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Draw a token for each row. Return scores that are 0 for the drawn token and −∞ for all other tokens.

        Args:
            input_ids: the token ids so far, `[rows, positions]`. They are not read.
            scores: the logits after temperature and top-p, `[rows, vocabulary]`.
        """
        rows, vocabulary = scores.shape
        num_blocks = -(-vocabulary // BLOCK)
        noise = torch.from_numpy(self._noise(num_blocks + BLOCK)).to(scores.device)
        padded = torch.nn.functional.pad(scores.float(), (0, num_blocks * BLOCK - vocabulary), value=-torch.inf)
        blocks = padded.view(rows, num_blocks, BLOCK)
        of_blocks = blocks.logsumexp(-1)
        self.finite = self.finite and bool(of_blocks.amax(-1).isfinite().all())
        block = (of_blocks + noise[:, :num_blocks]).argmax(-1)
        within = blocks[torch.arange(rows, device=scores.device), block] + noise[:, num_blocks:]
        drawn = block * BLOCK + within.argmax(-1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)

    def _noise(self, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return standard Gumbel noise `[rows, count]`, made from the next `count` numbers of each row's stream."""
        raw = np.stack([stream.random_raw(count) for stream in self._streams])
        # The shares lie strictly between 0 and 1. Shares near 0 give the greatest noise; float64 is finest there.
        shares = (raw >> np.uint64(11)) * 2.0**-53 + 2.0**-54
        noise: np.ndarray[Any, np.dtype[np.float32]] = -np.log(-np.log1p(-shares)).astype(np.float32)
        return noise
