"""Compute entropy, log-probability and similar signals of tokens from a few sums over their logits.

The logits are cut into tiles: some tokens and a part of the vocabulary each. The sums are computed for one tile after
another, and are then merged. So the logits of the whole vocabulary are never needed at once. This is the online
log-sum-exp (arXiv 1805.02867) with the sums that the other signals need.

Let m be the greatest logit of a token's distribution, t_v = (z_v − m) / temperature, and S = Σ_v exp t_v. The summand
of the token with the logit m is 1. Where this token is almost sure, all other summands are tiny, and a sum in float32
that contained the 1 would lose them. So this token is left out of the sums of exp t_v and of their squares. With
R = S − 1, no formula below is a difference of nearly equal numbers:

    ln S = log1p(R),   H = log1p(R) − (Σ_v t_v exp t_v) / (1 + R).

Sums within a tile are in float32 (float64 for float64 logits); sums of tiles are in float64 if the device has it.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.devices import has_double
from antiphase.signals.impurity import impurity_beside

# The number of logits whose exponentials are computed at once. They fit into the second-level cache of a CPU, and take
# little memory beside a tile. A GPU needs more of them to be busy.
_BLOCK_ELEMENTS = 1 << 16
_GPU_BLOCK_ELEMENTS = 1 << 22
# The greatest logit is searched first in this many columns, and then in the best column.
_COLUMNS = 64
# In place of −inf for t. The exponential of both is 0, but t exp t of this one is 0 too, and not NaN.
_LOWEST = -1e6


@dataclass(frozen=True)
class LogitSums:
    """Sums over the logits z_v of each target (generated token), over a part of the vocabulary or all of it.

    Let m be the greatest logit of the part, and t_v = (z_v − m) / temperature.

    Args:
        greatest: m.
        rest: Σ exp t_v over all tokens of the part except the one with the logit m.
        squares: Σ (exp t_v)² over the same tokens as `rest`.
        moment: Σ t_v exp t_v over all tokens of the part.
        total: Σ t_v over all tokens of the part.
        chosen: the logit z_y of the target token; NaN if the part does not contain it.
        size: the number of tokens of the part.
    """

    greatest: Float[Tensor, "target"]
    rest: Float[Tensor, "target"]
    squares: Float[Tensor, "target"]
    moment: Float[Tensor, "target"]
    total: Float[Tensor, "target"]
    chosen: Float[Tensor, "target"]
    size: int

    def merged(self, other: "LogitSums", temperature: float) -> "LogitSums":
        """Return the sums over two parts of the vocabulary together: the part of `self` and the part of `other`."""
        greatest = torch.maximum(self.greatest, other.greatest)
        # What is added to t when it is counted from the greater m; −inf if all logits of a part are −inf.
        here, there = (
            (part.greatest - greatest.clamp_min(torch.finfo(greatest.dtype).min)) / temperature
            for part in (self, other)
        )
        total = self.total + self.size * here + other.total + other.size * there
        here, there = here.clamp_min(_LOWEST), there.clamp_min(_LOWEST)
        weight, weight_of_other = here.exp(), there.exp()
        # One of the two weights is 1, and stands for the place of the greatest logit.
        second = torch.minimum(weight, weight_of_other)
        return LogitSums(
            greatest=greatest,
            rest=weight * self.rest + weight_of_other * other.rest + second,
            squares=weight**2 * self.squares + weight_of_other**2 * other.squares + second**2,
            moment=weight * (self.moment + here * (1 + self.rest))
            + weight_of_other * (other.moment + there * (1 + other.rest)),
            total=total,
            chosen=self.chosen.where(other.chosen.isnan(), other.chosen),
            size=self.size + other.size,
        )

    def log_sum(self) -> Tensor:
        """Return ln Σ_v exp t_v for each target. The docstring of the class explains t_v."""
        return self.rest.log1p()

    def entropy(self) -> Tensor:
        """Return the entropy of each distribution, in nats."""
        return self.log_sum() - self.moment / (1 + self.rest)

    def logprob_of(self, logits: Tensor, temperature: float) -> Tensor:
        """Return the log-probability that belongs to each of the given logits, in the shape of `logits`.

        Args:
            logits: raw logits of some tokens, `[target, ...]`.
            temperature: the logits are divided by it.
        """
        shape = (-1, *(1,) * (logits.ndim - 1))
        return (logits - self.greatest.view(shape)) / temperature - self.log_sum().view(shape)

    def logprob(self, temperature: float) -> Tensor:
        """Return the log-probability of each target token, in nats."""
        return self.logprob_of(self.chosen, temperature)

    def rest_of_chosen(self, temperature: float) -> Tensor:
        """Return 1 − p_y, the probability of all tokens but the target token."""
        lower = (self.chosen - self.greatest) / temperature
        return (self.rest - lower.expm1()) / (1 + self.rest)

    def logprob_control(self, temperature: float) -> Tensor:
        """Return √((1 − p_y)² + Σ_{v≠y} p_v²) for each target token y. It equals ‖∂ ln p_y / ∂z‖ · temperature."""
        lower = (self.chosen - self.greatest) / temperature
        squares = (self.squares - (2 * lower).expm1()) / (1 + self.rest) ** 2
        return (self.rest_of_chosen(temperature) ** 2 + squares).sqrt()

    def impurity(self) -> Tensor:
        """Return the Gini impurity 1 − Σ_v p_v² of each distribution."""
        return impurity_beside(torch.ones_like(self.rest), self.rest, self.squares)

    def self_certainty(self) -> Tensor:
        """Return KL(U‖p), the distance of the uniform distribution U from each distribution p, in nats."""
        return self.log_sum() - self.total / self.size - math.log(self.size)


def joined_sums(parts: list[LogitSums]) -> LogitSums:
    """Concatenate the sums of successive targets (generated tokens)."""
    names = [field.name for field in fields(LogitSums) if field.name != "size"]
    return LogitSums(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, size=parts[0].size
    )


def sums_of(
    logits: Float[Tensor, "target part"], token_ids: Int[Tensor, "target"], temperature: float, first: int = 0
) -> LogitSums:
    """Return the sums of `LogitSums` over one tile: the logits of some consecutive tokens, for each target.

    Args:
        logits: the tile. It is not changed.
        token_ids: the ids of the targets (generated tokens).
        temperature: the logits are divided by it.
        first: the id of the first token of the tile.

    Memory: two blocks of `_BLOCK_ELEMENTS` logits beside the tile.
    """
    greatest, place = _greatest(logits)
    elements = _BLOCK_ELEMENTS if logits.device.type == "cpu" else _GPU_BLOCK_ELEMENTS
    rows = max(1, elements // logits.shape[1])
    blocks = zip(logits.split(rows), greatest.split(rows), place.split(rows), strict=True)
    sums = [_block_sums(*block, temperature) for block in blocks]
    rest, squares, moment, total = (torch.cat(column) for column in zip(*sums, strict=True))
    local = token_ids[:, None] - first
    inside = (local >= 0) & (local < logits.shape[1])
    chosen = logits.gather(-1, local.clamp(0, logits.shape[1] - 1))
    exact = torch.float64 if has_double(logits.device) else rest.dtype
    return LogitSums(
        greatest=greatest[:, 0].to(exact),
        rest=rest.to(exact),
        squares=squares.to(exact),
        moment=moment.to(exact),
        total=total.to(exact),
        chosen=chosen.to(exact).where(inside, torch.nan)[:, 0],
        size=logits.shape[1],
    )


def shifted_logits(rows: Tensor, greatest: Tensor, temperature: float) -> Tensor:
    """Return t = (z − m) / temperature in float32 or wider, for logits z and the greatest logit m of each row."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    shifted = rows - greatest.to(wide).clamp_min(torch.finfo(wide).min)
    return shifted if temperature == 1.0 else shifted / temperature


def _block_sums(rows: Tensor, greatest: Tensor, place: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """Return the fields `rest`, `squares`, `moment` and `total` of `LogitSums` for some rows of logits.

    Args:
        rows: the logits, one row for each target (generated token).
        greatest: the greatest logit of each row, `[row, 1]`.
        place: the column of the greatest logit in each row, `[row, 1]`.
        temperature: the logits are divided by it.
    """
    shifted = shifted_logits(rows, greatest, temperature)
    total = shifted.sum(-1)
    if shifted.requires_grad:
        shifted = shifted.clamp_min(_LOWEST)
        weights = shifted.exp().scatter(1, place, 0.0)
        return weights.sum(-1), (weights**2).sum(-1), (weights * shifted).sum(-1), total
    weights = shifted.clamp_min_(_LOWEST).exp()
    rest = weights.scatter_(1, place, 0.0).sum(-1)
    moment = shifted.mul_(weights).sum(-1)
    return rest, weights.mul_(weights).sum(-1), moment, total


def _greatest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (the greatest logit of each row, its column index), `[target, 1]` each.

    On a CPU, PyTorch's `max` with indices takes ten times as long as `amax` without them. So the logits are first
    reduced by `amax` to 64 columns, and only the best column is searched for the index.
    """
    num_rows, width = logits.shape
    if width % _COLUMNS or width == _COLUMNS or not num_rows:
        greatest, place = logits.max(-1, keepdim=True)
        return greatest, place
    lines = logits.reshape(num_rows, -1, _COLUMNS)
    column = lines.amax(1).argmax(-1, keepdim=True)
    line = lines.gather(2, column[:, None].expand(-1, lines.shape[1], -1))[..., 0].argmax(-1, keepdim=True)
    place = line * _COLUMNS + column
    # The value is taken at this place alone, so that its gradient is not divided among equal logits.
    return logits.gather(-1, place), place
