"""The physical limit of an estimator on a machine: its matrix products at the rate that the machine reaches.

A limit counts the products that an estimator cannot do without: those of the layers, of the causal half of the
attention, and of the head; under `last` also those of the gradient at K, which is a matrix of its own for every token;
under `full` not yet those of the norms. Everything else (norms, activations, softmax, copies) counts as free.
"""

from collections.abc import Sequence
from typing import Any

import torch

from rows import seconds


def gemm_rate(rows: int = 1024, inner: int = 576, columns: int = 1536) -> float:
    """Return the operations a second that a float32 matrix product of this shape reaches at best.

    The default shape is that of a layer of SmolLM2-135M for 1,024 tokens. A multiplication and the addition of its
    result are two operations.
    """
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)

    def work() -> None:
        for _ in range(16):
            left @ right

    return 16 * 2 * rows * inner * columns / min(seconds(work) for _ in range(9))


def copy_rate(mib: int = 256) -> float:
    """Return the bytes a second that a copy of a large tensor reads and writes at best."""
    source = torch.ones(mib * 2**18)
    target = torch.empty_like(source)
    return 2 * mib * 2**20 / min(seconds(lambda: target.copy_(source)) for _ in range(9))


class Products:
    """The operations of the matrix products of a Llama.

    Args:
        config: the configuration of the model.
    """

    def __init__(self, config: Any) -> None:
        width = self._width = config.hidden_size
        self._layers = config.num_hidden_layers
        self._heads = config.num_attention_heads * (size := config.head_dim)
        grouped = self._grouped = config.num_key_value_heads * size
        weights = width * (2 * self._heads + 2 * grouped + 3 * config.intermediate_size)
        self._layer, self._head = 2 * weights, 2 * width * config.vocab_size

    def forward(self, tokens: int) -> float:
        """Return the operations of the layers: their weights, and the scores and sums of the attention."""
        return self._layers * (self._layer * tokens + 2 * self._attention(tokens))

    def backward(self, tokens: int, products: int = 4) -> float:
        """Return the operations of a backward pass through the activations of all layers.

        Args:
            tokens: the number of positions.
            products: the products of the attention. An ordinary pass has 4: the gradients at the probabilities, the
                values, the queries and the keys. `own` needs 2: those at the probabilities and the queries.
        """
        return self._layers * (self._layer * tokens + products * self._attention(tokens))

    def of(self, work: str, tokens: int, positions: Sequence[int] = ()) -> float:
        """Return the operations of `plain`, `own`, `last` or `full` for one rollout.

        Args:
            work: the name of the work.
            tokens: the length of the rollout.
            positions: the positions of the targets that `full` measures.
        """
        if work == "plain":
            return self.forward(tokens) + self.backward(tokens)
        signals = self.forward(tokens) + self._head * tokens
        if work == "own":
            return signals + self.backward(tokens, 2)
        if work == "last":
            return signals + self.backward(tokens) / self._layers + self._keys(tokens)
        return signals + sum(self.backward(place) for place in positions)

    def _keys(self, tokens: int) -> float:
        """Return the operations of the gradients at K of all tokens in one layer, and of their Gram matrices.

        A token that sees i positions has the gradient Δᵀ A, with Δ of i × (width of the keys) and A of
        i × min(i, hidden size).
        """
        inner = [min(place, self._width) for place in range(1, tokens + 1)]
        gradients = sum(2 * self._grouped * place * size for place, size in enumerate(inner, 1))
        return gradients + sum(2 * self._grouped**2 * size for size in inner)

    def _attention(self, tokens: int) -> float:
        """Return the operations of one product of the attention of a layer, causal half alone."""
        return self._heads * tokens * (tokens + 1)
