"""The joint strength of a step: the norm of the gradient of the sum of its tokens' targets.

    J_k = ‖∂(Σ_{i∈k} z_i)/∂W‖ / n^0.9,   n the number of tokens of step k   (docs/method.md)

Our reading: the paper does not say how the influences of tokens become that of a step, or how the length of a sentence
enters. The nuclear norm of a sum of n gradients grows like n if they have nothing in common, and if they are equal; it
grows more slowly if they partly cancel. On rollouts of SmolLM2-135M, cut into windows of 2 to 64 tokens, it grows like
n^0.93 (`own`) and n^0.87 (`full`), with nearly the same slope at all lengths (`benchmarks/steps.py`). If the norm is
divided by n, as in the gradient of the mean logit, long sentences look weak. If it is divided by √n, they look strong,
and the strength mostly measures the length. An exponent between the two measured ones leaves the least effect of the
length. The rest is controlled for: every step correlation is also given with the step's length held fixed.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.signal_spec import Norm
from antiphase.signals.norms import factored_norm, shared_factor

# The exponent with which the norm of a sum of gradients grows with the number of tokens.
GROWTH = 0.9
_BLOCK_TOKENS = 2048


def per_length(
    norms: Float[Tensor, "step layer projection"], steps: Int[Tensor, "target"]
) -> Float[Tensor, "step layer projection"]:
    """Divide the norm of each step's summed gradient by n^0.9, where n is the number of its tokens.

    Args:
        norms: the norms of the steps.
        steps: the step of each target.

    >>> [round(x, 6) for x in per_length(torch.ones(2, 1, 1), torch.tensor([0, 0, 0, 0, 1])).flatten().tolist()]
    [0.287175, 1.0]
    """
    counts = torch.bincount(steps.cpu(), minlength=len(norms)).clamp_min(1).double()
    return norms * (counts**-GROWTH)[:, None, None].to(norms)


class StepFactors:
    """‖Σ_{i∈k} δ_i a_iᵀ‖ of every step k, from the rank-one terms of its tokens.

    Steps of similar length are padded with zeros to the same length; the zeros add nothing to the sum.

    Args:
        steps: the step of each target.
        num_steps: the number of steps; a step without targets has the norm 0.
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
        """The norms of all steps in several layers at once, which keeps a GPU busy.

        Args:
            deltas: for each layer, ∂target_i/∂(the projection's output at i); all of the same width.
            inputs: for each layer, the projection's input at i, `[target, columns]`.
            keys: names of the inputs. Their factors are kept until `forget`, for other projections with these inputs.
        """
        delta = torch.stack(list(deltas))
        dtype = torch.promote_types(delta.dtype, torch.float32)
        result = torch.zeros(len(deltas), self.num_steps, dtype=dtype, device=delta.device)
        for number, (some, where, inside) in enumerate(self._blocks):
            if (keys, number) not in self._factors:
                chosen = torch.stack([one[where] for one in inputs]) * inside
                factor = shared_factor(chosen.flatten(0, 1), self.norm)
                self._factors[keys, number] = factor.unflatten(0, chosen.shape[:2])
            norms = factored_norm(delta[:, where] * inside, self._factors[keys, number], self.norm)
            result[:, some] = norms.to(dtype)
        return result

    def forget(self) -> None:
        """Drop the kept factors."""
        self._factors.clear()


def _bounds(longest: int) -> list[tuple[int, int]]:
    """Ranges of lengths (above, up to) that double, which gives little padding and few blocks.

    >>> _bounds(10)
    [(0, 4), (4, 8), (8, 10)]
    """
    ends = [0, 4]
    while ends[-1] < longest:
        ends.append(2 * ends[-1])
    ends[-1] = longest
    return list(itertools.pairwise(ends))
