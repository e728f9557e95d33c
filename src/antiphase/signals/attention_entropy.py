"""Compute the entropy of the attention weights. It is a control beside the next token's entropy (arXiv 2605.07660).

For a query position i of one head, with the attention weights α_it over the positions t that it sees,

    H_i = −Σ_t α_it ln α_it   (in nats; 0 if all weight is on one position, ln i if i positions have equal weights).

Our reading: we know only the abstract of the paper. It does not say over what the entropy is averaged. Here, the
attention entropy of a token is the mean over all query heads and all measured layers, at the position that predicts
the token.

The frozen attention computes the weights in blocks and passes each block to this module, so there is no further
forward pass, and the weights are never kept. The weights are those that the model uses, with its mask, sliding window,
scale and softcap.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from antiphase.models.architecture import AttentionLayer


def sum_over_heads(
    weights: Float[Tensor, "batch group share row key"], scores: Float[Tensor, "batch group share row key"]
) -> Float[Tensor, "batch row"]:
    """Return the entropy of the attention weights of each query position, in nats, summed over the heads.

    Let x_t be the scores of a query position in one head, and α_t the weights. The greatest score is 0. Then the
    entropy is H = −ln max_t α_t − Σ_t α_t x_t. This formula needs only one logarithm, and not one for each weight.

    Args:
        weights: the attention weights, which are the softmax of the scores.
        scores: the attention scores minus the greatest score of each row. They are overwritten.

    >>> scores = torch.tensor([[[[[0.0, -1e30]], [[0.0, 0.0]]]]])
    >>> round(sum_over_heads(scores.softmax(-1), scores).exp().item(), 6)
    2.0
    """
    return (-weights.amax(-1).log() - scores.mul_(weights).sum(-1)).sum((1, 2))


def mean_over_layers(
    entropies: Mapping[nn.Module, Sequence[Tensor]], layers: Sequence[AttentionLayer], device: torch.device
) -> Float[Tensor, "batch row"]:
    """Return the attention entropy of each query position: the mean of its entropies in the measured layers.

    Args:
        entropies: for each attention module, the entropies `[batch, row]` of its calls.
        layers: the measured layers. `entropies` must contain the attention module of each of them.
        device: the device of the result. The entropies of a layer are on the device of the layer.
    """
    found = [torch.cat(list(entropies[layer.module]), dim=1) for layer in layers]
    return torch.stack([one.to(device) for one in found]).mean(0)
