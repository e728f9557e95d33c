"""Average measured values over cells. A cell is one projection (Q, K, V or O) of one layer.

Some layers lack a projection, so they have fewer cells. A layer lacks K and V if it reuses the keys and values of an
earlier layer. It lacks V if one weight computes keys and values. The strength of an absent cell is NaN, and a mean
over cells leaves it out.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from antiphase.models.architecture import AttentionLayer
from antiphase.signal_spec import ProjectionName


def present(layers: Sequence[AttentionLayer], names: Sequence[ProjectionName]) -> Bool[Tensor, "layer projection"]:
    """Return a mask that is True where a layer has the projection of this name."""
    return torch.tensor([[name in layer.projections for name in names] for layer in layers])


def placed(values: Mapping[ProjectionName, Tensor], names: Sequence[ProjectionName], like: Tensor) -> Tensor:
    """Return the values of one layer's projections, stacked on a new last axis; NaN for an absent projection.

    Args:
        values: the values of the projections that the layer has.
        names: the projections, in their order on the last axis.
        like: a tensor with the shape, device and dtype of each value.
    """
    absent = torch.full_like(like, torch.nan)
    return torch.stack([values.get(name, absent) for name in names], -1)


def mean_rank_of_cells(
    ranks: Float[Tensor, "*places layer projection"],
    strength: Float[Tensor, "*places layer projection"],
    there: Bool[Tensor, "layer projection"],
) -> Float[Tensor, "*places"]:
    """Return the mean effective rank over the cells (layers and projections) whose gradient is not zero.

    A gradient of zeros has no effective rank, so its cell is left out. An example is the gradient of Q and K at a
    position that attends to a single token. If no cell is left, the mean is NaN.

    Args:
        ranks: the effective rank of the gradient of every layer and projection, with any axes before these two.
        strength: the strength of the same gradients, which is 0 for a gradient of zeros.
        there: which projections each layer has, as `present` returns it.

    >>> ranks, strength = torch.tensor([[[2.0, torch.nan]], [[1.0, 3.0]]]), torch.tensor([[[5.0, 0.0]], [[1.0, 1.0]]])
    >>> mean_rank_of_cells(ranks, strength, torch.tensor([[True, True]])).tolist()
    [2.0, 2.0]
    """
    chosen = there.to(ranks.device)
    held, used = ranks[..., chosen], strength[..., chosen] != 0
    return held.where(used, 0.0).sum(-1) / used.sum(-1)


def mean_of_cells(
    values: Float[Tensor, "*places layer projection"], there: Bool[Tensor, "layer projection"]
) -> Float[Tensor, "*places"]:
    """Return the mean of a value over all layers and projections. Projections that a layer lacks are left out.

    Args:
        values: the value of every layer and projection, with any axes before these two.
        there: which projections each layer has, as `present` returns it.
    """
    if bool(there.all()):
        return values.mean((-2, -1))
    return values[..., there.to(values.device)].mean(-1)
