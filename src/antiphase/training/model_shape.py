"""The sizes of a model that decide its cost, and the units in which the work of a computation is counted.

`step_counts` counts the work of the parts of a training step in these units. `step_cost` turns the counts
into seconds.
"""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide the cost of a model.

    Args:
        layers: number of layers.
        hidden: width of the hidden state.
        intermediate: width of the feed-forward part.
        heads: number of query heads.
        groups: number of heads of keys and values.
        head_dim: width of a head.
        vocabulary: number of tokens of the vocabulary.
        tied: whether the output layer and the embedding share their weights.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int
    head_dim: int
    vocabulary: int
    tied: bool = False

    @classmethod
    def of(cls, config: Any) -> "ModelShape":
        """Return the sizes of the model that a configuration of transformers describes."""
        heads = config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            config.vocab_size,
            bool(config.tie_word_embeddings),
        )

    @property
    def queries(self) -> int:
        """The width of the queries of all heads together. The attention's output has the same width."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """The width of the keys of all groups together. The values have the same width."""
        return self.groups * self.head_dim

    @property
    def layer_weights(self) -> int:
        """The number of weights in the matrices of one layer."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    @property
    def body(self) -> int:
        """The number of weights in the matrices of all layers, without the embedding and the output layer."""
        return self.layers * self.layer_weights

    @property
    def parameters(self) -> int:
        """The number of parameters of the model, without the few in norms and biases.

        >>> round(ModelShape(28, 3584, 18944, 28, 4, 128, 152064).parameters / 1e9, 2)
        7.62
        """
        return self.body + self.hidden * self.vocabulary * (1 if self.tied else 2)


@dataclass(frozen=True)
class Counts:
    """The work of a computation, counted by its kinds.

    Args:
        products: number of operations in matrix products that have the dtype of the weights.
        wide: number of operations in float64 matrix products.
        solver: number of operations in float64 solvers (QR and eigenvalues) on a CPU.
        columns: number of matrix columns that QR decompositions on a GPU process one after another.
        bytes: number of bytes that are read from memory or written to it.
        calls: number of kernels that are started.
    """

    products: float = 0.0
    wide: float = 0.0
    solver: float = 0.0
    columns: float = 0.0
    bytes: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> "Counts":
        return Counts(*(getattr(self, f.name) * times for f in fields(self)))


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that change how much work of each kind a computation needs.

    Args:
        gpu: True for a GPU with fast float64 products, which computes nuclear norms by matrix products. False for a
            CPU, which computes them by eigenvalues.
        element: bytes of a weight: 2 for bfloat16, 4 for float32.
    """

    gpu: bool
    element: int
