"""Compute the standard error of ρ that comes from measuring only some tokens of each rollout (`full:16`).

The measured tokens are a simple random sample, without replacement, of each rollout's tokens. Another sample would
give another ρ. The standard error of ρ is estimated by the delete-d jackknife (Shao & Wu 1989): ρ is computed again on
random subsets of the measured tokens, and the standard error is the standard deviation of ρ over the subsets. This
also works for ρ over types (distinct token ids). There, the jackknife that leaves out one token at a time gives a much
larger error.

A subset leaves out d of the n measured tokens of a rollout with N tokens. With f = n/N,

    d / (n − d) = 1 − f,   so that d = n (1 − f) / (2 − f).

Then the mean of the remaining n − d tokens varies around the mean of the n exactly as much as the mean of the n varies
around the mean of all N: both variances are (1 − f) s²/n. If d is no whole number, it is rounded down or up at random,
so that the variance is right on average.

The interval of `pooled_correlation` already contains this error, because prompts also differ in which tokens were
drawn. The error is given separately because only this part of the interval shrinks if more tokens of the same rollouts
are measured.

The error does not contain the bias of ρ: the difference between the mean of ρ over all samples and the ρ of all
tokens. ρ is biased if the rollouts differ in length, since every rollout gives the same number of tokens. ρ over types
is also biased because it depends on the number of tokens.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.statistics.correlation import by_group, coefficients, valid_items

NUM_SUBSETS = 200


def subsampling_error(
    entropy: Float[Tensor, "item"],
    strength: Float[Tensor, "item"],
    rollouts: Int[Tensor, "item"],
    token_ids: Int[Tensor, "item"] | None = None,
    *,
    num_subsets: int = NUM_SUBSETS,
    seed: int = 0,
) -> float:
    """Return the standard error of the pooled Spearman ρ that comes from the draw of the measured tokens.

    Args:
        entropy: the entropy of every token of all rollouts.
        strength: the strength of the same tokens; NaN where it was not measured.
        rollouts: the rollout that each token belongs to.
        token_ids: the id of each token, for ρ over types. If None is given, ρ is over tokens.
        num_subsets: the number of random subsets. With 200, the error itself is uncertain by 5 %.
        seed: seed of the random generator that draws the subsets.

    Returns:
        The standard error. It is 0 if all tokens were measured. It is NaN if ρ is undefined, or if only one of several
        tokens of a rollout was measured, because one token shows no variance.

    Cost: O(num_subsets · measured tokens).

    >>> x = torch.arange(40.0).double()
    >>> y = (7 * x) % 20
    >>> subsampling_error(x, y, torch.arange(40) // 20)
    0.0
    >>> 0.05 < subsampling_error(x, y.where(torch.arange(40) % 2 > 0, torch.nan), torch.arange(40) // 20) < 0.3
    True
    """
    _, owner = rollouts.unique(return_inverse=True)
    totals = torch.bincount(owner).double()
    measured = valid_items((entropy, strength))
    x, y, owner = entropy[measured].double(), strength[measured].double(), owner[measured]
    ids = None if token_ids is None else token_ids[measured]
    counts = torch.bincount(owner, minlength=len(totals)).double()
    if len(x) == 0 or bool(((counts == 1) & (totals > 1)).any()):
        return math.nan
    if bool((counts == totals).all()):
        return 0.0
    least, likely = _left_out(counts, totals)
    generator = torch.Generator().manual_seed(seed)
    starts = counts.cumsum(0) - counts
    found = torch.empty(num_subsets, dtype=torch.float64)
    for number in range(num_subsets):
        # The tokens of each rollout are put in random order, and the first of them are left out.
        order = (owner + torch.rand(len(owner), generator=generator, dtype=torch.float64)).argsort()
        left_out = least + (torch.rand(len(counts), generator=generator) < likely)
        kept = order[torch.arange(len(order)) - starts[owner[order]] >= left_out[owner[order]]]
        pairs = (x[kept], y[kept]) if ids is None else by_group(x[kept], y[kept], ids[kept])
        found[number] = coefficients(pairs[0][None], pairs[1][None], min_tokens=2)[0]
    return float(found.std())


def _left_out(counts: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each rollout, how many measured tokens a random subset leaves out.

    This number is d = n (1 − n/N) / (2 − n/N). It need not be whole. So two values are returned: d rounded down, and
    the probability that one token more is left out.

    Args:
        counts: the number n of measured tokens of each rollout. It may be 1 only if the rollout has one token.
        totals: the number N of all tokens of each rollout.

    >>> least, likely = _left_out(torch.tensor([16.0, 3.0, 5.0]), torch.tensor([1e9, 1e9, 5.0]))
    >>> least.tolist(), [round(p, 3) for p in likely.tolist()]
    ([8.0, 1.0, 0.0], [0.0, 0.333, 0.0])
    """
    wanted = 1 - counts / totals
    least = (counts * wanted / (1 + wanted) + 1e-6).floor()
    below, above = least / (counts - least).clamp_min(1), (least + 1) / (counts - least - 1).clamp_min(1)
    return least, ((wanted - below) / (above - below)).clamp(0, 1)
