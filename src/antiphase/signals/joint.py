"""Compute the joint strength of a step (a sentence): the norm of the gradient of the sum of its tokens' targets.

    J_k = ‖∂(Σ_{i∈k} z_i)/∂W‖ / n^0.9,   n the number of tokens of step k   (docs/method.md)

Our reading: the paper does not say how the influence of a step follows from the influences of its tokens. It does not
say either how the length of the step is treated. The nuclear norm of a sum of n gradients grows like n if the
gradients have nothing in common, and also if they are equal. It grows more slowly if they partly cancel. On rollouts
of SmolLM2-135M, cut into windows of 2 to 64 tokens, it grows like n^0.93 (`own`) and n^0.87 (`full`), with nearly the
same exponent at all lengths (`benchmarks/steps.py`). If the norm is divided by n, as in the gradient of the mean
logit, long sentences look weak. If the norm is divided by √n, long sentences look strong, and the strength mostly
measures the length. An exponent between the two measured ones leaves the smallest effect of the length. The remaining
effect is controlled for: every correlation of steps is also given with the length of the steps held fixed.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.signal_spec import Norm
from antiphase.signals.norms import factored_norm_and_rank, shared_factor

# The exponent with which the norm of a sum of gradients grows with the number of tokens.
GROWTH = 0.9
_BLOCK_TOKENS = 2048


def per_length(
    norms: Float[Tensor, "step layer projection"], steps: Int[Tensor, "target"]
) -> Float[Tensor, "step layer projection"]:
    """Divide the norm of each step's summed gradient by n^0.9, where n is the number of the step's tokens.

    A step is a part of a rollout, such as a sentence.

    Args:
        norms: the norm of each step's summed gradient.
        steps: the step of each generated token.

    >>> [round(x, 6) for x in per_length(torch.ones(2, 1, 1), torch.tensor([0, 0, 0, 0, 1])).flatten().tolist()]
    [0.287175, 1.0]
    """
    counts = torch.bincount(steps.cpu(), minlength=len(norms)).clamp_min(1).double()
    return norms * (counts**-GROWTH)[:, None, None].to(norms)


class StepFactors:
    """Computes the norm ‖Σ_{i∈k} δ_i a_iᵀ‖ of every step (sentence) k from the terms δ_i a_iᵀ of its tokens i.

    Here a_i is a projection's input at token i, and δ_i is the gradient at the projection's output. Steps of similar
    length are padded with zeros to the same length and computed together. The zeros add nothing to the sum.

    Args:
        steps: the step of each target (generated token).
        num_steps: the number of steps. A step without targets has the norm 0.
        norm: the norm that is computed.
    """

    def __init__(self, steps: Int[Tensor, "target"], num_steps: int, norm: Norm) -> None:
        self.norm, self.num_steps = norm, num_steps
        self._factors: dict[tuple[tuple[int, ...], int], Tensor] = {}
        self._blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        counts = torch.bincount(steps, minlength=num_steps)
        order = steps.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        for above, length in _bounds(int(counts.max())):
            alike = torch.nonzero((counts > above) & (counts <= length)).flatten()
            place = torch.arange(length, device=steps.device)
            for some in alike.split(max(1, _BLOCK_TOKENS // length)) if len(alike) else ():
                inside = place < counts[some, None]
                index = (starts[some, None] + place).clamp_max(len(steps) - 1)
                self._blocks.append((some, order[index], inside[..., None]))

    def norms(
        self, deltas: Sequence[Float[Tensor, "target rows"]], inputs: Sequence[Tensor], keys: tuple[int, ...]
    ) -> Float[Tensor, "layer step"]:
        """Return the norm of the summed gradient of every step (sentence), for one projection in several layers.

        `norms_and_ranks` explains the arguments. It returns the same norms, and the effective ranks too.
        """
        return self.norms_and_ranks(deltas, inputs, keys)[0]

    def norms_and_ranks(
        self, deltas: Sequence[Float[Tensor, "target rows"]], inputs: Sequence[Tensor], keys: tuple[int, ...]
    ) -> tuple[Float[Tensor, "layer step"], Float[Tensor, "layer step"]]:
        """Return the norms and effective ranks of every step's summed gradient, for one projection in several layers.

        The rank of a step without targets is NaN. All ranks are NaN if the norm is computed without singular values;
        see `factored_norm_and_rank`. The layers are computed together because this keeps a GPU busy.

        Args:
            deltas: for each layer, the gradients δ_i at the projection's outputs. The projection must have the same
                number of outputs (rows) in all layers.
            inputs: for each layer, the projection's inputs a_i, `[target, columns]`.
            keys: for each layer, a number that identifies its inputs. A part of the computation depends only on the
                inputs. Its result is kept until `forget` is called, and used again in calls with the same keys, such
                as those for Q, K and V, which have the same inputs.
        """
        delta = torch.stack(list(deltas))
        dtype = torch.promote_types(delta.dtype, torch.float32)
        result = torch.zeros(len(deltas), self.num_steps, dtype=dtype, device=delta.device)
        ranks = torch.full_like(result, torch.nan)
        for number, (some, where, inside) in enumerate(self._blocks):
            if (keys, number) not in self._factors:
                chosen = torch.stack([one[where] for one in inputs]) * inside
                factor = shared_factor(chosen.flatten(0, 1), self.norm)
                self._factors[keys, number] = factor.unflatten(0, chosen.shape[:2])
            norms, found = factored_norm_and_rank(delta[:, where] * inside, self._factors[keys, number], self.norm)
            result[:, some], ranks[:, some] = norms.to(dtype), found.to(dtype)
        return result, ranks

    def forget(self) -> None:
        """Drop the results that earlier calls have kept for calls with the same `keys`."""
        self._factors.clear()


def _bounds(longest: int) -> list[tuple[int, int]]:
    """Return ranges of step lengths as pairs (a, b), which mean a < length ≤ b. A step is padded to the length b.

    The upper end doubles from range to range. This gives little padding, and few ranges.

    >>> _bounds(10)
    [(0, 4), (4, 8), (8, 10)]
    """
    ends = [0, 4]
    while ends[-1] < longest:
        ends.append(2 * ends[-1])
    ends[-1] = longest
    return list(itertools.pairwise(ends))
