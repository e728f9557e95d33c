"""Compute the Gini impurity 1 − Σ_v p_v² of probabilities p without loss of digits.

In float32, the plain difference from 1 has no digits left where one token is almost sure. The probabilities of a large
vocabulary also miss the sum 1 by up to 1e-4, because log_softmax adds many small terms to a large one. So the impurity
is computed from sums over all tokens but one, and is divided by the square of the sum of p.

`signals.entropy` uses these functions; `gini_impurity` there starts from logits.
"""

from jaxtyping import Float
from torch import Tensor


def impurity_beside(
    chosen: Float[Tensor, "target"], rest: Float[Tensor, "target"], squares: Float[Tensor, "target"]
) -> Float[Tensor, "target"]:
    """Return 1 − Σ_v p_v² of each distribution from the probability of one token, and from sums over all other tokens.

    With c the chosen token's probability, r the sum of the others and q the sum of their squares, the impurity is
    (r (2 c + r) − q) / (c + r)². The difference loses digits only if another token than the chosen one is almost sure.

    Args:
        chosen: the probability of the chosen token.
        rest: Σ p_v over the other tokens.
        squares: Σ p_v² over the other tokens.
    """
    return (rest * (2 * chosen + rest) - squares) / (chosen + rest) ** 2


def impurity_of(p: Float[Tensor, "target vocab"]) -> Float[Tensor, "target"]:
    """Return 1 − Σ_v p_v² of each distribution. The chosen token of `impurity_beside` is the most probable one.

    In float32, the relative error is below 1e-5 with 150,000 tokens.

    >>> import torch
    >>> f"{impurity_of(torch.tensor([[1.0, 1e-9, 1e-9]])).item():.6g}"
    '4e-09'
    """
    top, place = p.max(-1, keepdim=True)
    others = p.scatter(-1, place, 0.0)
    return impurity_beside(top[:, 0], others.sum(-1), (others**2).sum(-1))
