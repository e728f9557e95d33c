"""Compute the Gini impurity 1 − Σ_v p_v² of probabilities p without loss of digits.

If one token is almost sure, Σ_v p_v² is almost 1, and in float32 the difference from 1 has no digits left. So the
impurity is computed from sums that leave out the most probable token. `signals.logit_sums` computes these sums. The
probabilities need not sum to 1, so the result is divided by the square of their sum.
"""

from jaxtyping import Float
from torch import Tensor


def impurity_beside(
    chosen: Float[Tensor, "target"], rest: Float[Tensor, "target"], squares: Float[Tensor, "target"]
) -> Float[Tensor, "target"]:
    """Return 1 − Σ_v p_v² of each distribution from the probability of one token, and from sums over all other tokens.

    Let c be the chosen token's probability, r the sum of all other probabilities, and q the sum of their squares. The
    impurity is (r (2 c + r) − q) / (c + r)². The probabilities need not sum to 1. The difference loses digits only if
    another token than the chosen one is almost sure.

    Args:
        chosen: the probability of the chosen token.
        rest: Σ p_v over the other tokens.
        squares: Σ p_v² over the other tokens.

    >>> import torch
    >>> f"{impurity_beside(torch.ones(1), torch.tensor([2e-9]), torch.tensor([2e-18])).item():.6g}"
    '4e-09'
    """
    return (rest * (2 * chosen + rest) - squares) / (chosen + rest) ** 2
