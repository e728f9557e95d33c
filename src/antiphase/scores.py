"""Compute the inversion score of each rollout from its signals.

The items of a rollout are its tokens, its types (distinct token ids) or its steps (sentences). Their entropy and their
gradient strength are correlated (docs/method.md). The score is −ρ, the negated correlation; `reward` combines it with
a task reward. This module uses only signals and token ids, and no trainer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.score_spec import ScoreSpec
from antiphase.signal_spec import UNITS, Unit
from antiphase.signals.chunk import generator_of
from antiphase.statistics.correlation import coefficients, type_means
from antiphase.statistics.partial_correlation import partial_coefficients
from antiphase.types import TokenBatch, TokenSignals


def shrunk(
    inversion: Float[Tensor, "rollout"], num_items: Int[Tensor, "rollout"], shrink: float
) -> Float[Tensor, "rollout"]:
    """Shrink the scores of short rollouts towards 0 on Fisher's scale: tanh(atanh(ι) (n−3) / (n−3+k)).

    Here ι is the score, n the number of the rollout's items, and k the argument `shrink`. This is the posterior mean
    of z = atanh ι, mapped back by tanh, if the prior of z is N(0, 1/k) and the sampling variance of z is 1/(n−3).

    Our reading: the paper has no shrinkage. n is the number of measured items, although neighbouring items are not
    independent.

    Args:
        inversion: the score ι of each rollout, in [−1, 1].
        num_items: the number of items of each rollout.
        shrink: the strength k of the prior; 0 leaves the scores unchanged.

    >>> [round(score, 4) for score in shrunk(torch.tensor([0.5, 0.5]), torch.tensor([11, 803]), 8.0).tolist()]
    [0.2679, 0.4959]
    """
    if shrink == 0:
        return inversion
    freedom = (num_items - 3).clamp_min(0).to(inversion.dtype)
    # atanh(±1) is infinite, so these scores are first moved to the nearest number inside (−1, 1).
    inside = 1 - torch.finfo(inversion.dtype).eps
    return torch.tanh(torch.atanh(inversion.clamp(-inside, inside)) * freedom / (freedom + shrink))


@dataclass(frozen=True)
class RolloutScores:
    """The score of each rollout, and the means that are logged with it; NaN where a value is undefined.

    ρ is the correlation between entropy and gradient strength.

    Args:
        inversion: the score ι = −ρ after the control, the shrinkage and the clipping. The reward uses it.
        correlation: ρ of the unchanged signals, over the items of the chosen unit.
        by_unit: ρ over the items of every unit that was measured.
        given_length: ρ over steps, with the lengths of the steps and their positions in the rollout held fixed; NaN if
            there are no steps.
        entropy: the mean token entropy in nats.
        strength: the mean gradient strength of the items.
        self_certainty: the mean self-certainty of the tokens, KL(uniform‖p), in nats.
        num_tokens: the number of tokens whose strength was measured.
        num_items: the number of items that were correlated.
    """

    inversion: Float[Tensor, "rollout"]
    correlation: Float[Tensor, "rollout"]
    by_unit: Mapping[Unit, Float[Tensor, "rollout"]]
    given_length: Float[Tensor, "rollout"]
    entropy: Float[Tensor, "rollout"]
    strength: Float[Tensor, "rollout"]
    self_certainty: Float[Tensor, "rollout"]
    num_tokens: Int[Tensor, "rollout"]
    num_items: Int[Tensor, "rollout"]


@dataclass(frozen=True)
class _Items:
    """The entropies and strengths of the items (tokens, types or steps) that are correlated in each rollout.

    Rollouts have different numbers of items, so `mask` is True where a rollout has an item.
    """

    entropy: Float[Tensor, "rollout item"]
    strength: Float[Tensor, "rollout item"]
    mask: Bool[Tensor, "rollout item"]


def _items(signals: TokenSignals, batch: TokenBatch, unit: Unit) -> _Items:
    """Return the entropies and strengths of all items of a unit (token, type or step), in float64 on the CPU.

    Raises:
        InvalidInputError: the unit is `step`, and the signals have no steps.
    """
    entropy, strength = signals.entropy.cpu().double(), signals.strength.cpu().double()
    if unit == "token":
        return _Items(entropy, strength, signals.measured.cpu())
    if unit == "type":
        means_of_entropy, means_of_strength, _ = type_means(
            entropy, strength, batch.input_ids.cpu(), signals.measured.cpu()
        )
        return _Items(means_of_entropy, means_of_strength, ~means_of_entropy.isnan())
    if signals.steps is None:
        raise InvalidInputError("these signals hold no steps; give token_signals the step of every token (steps=).")
    steps = signals.steps
    return _Items(steps.entropy.cpu().double(), steps.strength.cpu().double(), steps.measured.cpu())


def rollout_scores(signals: TokenSignals, batch: TokenBatch, spec: ScoreSpec) -> RolloutScores:
    """Compute the inversion score ι_i = −ρ(entropy, strength) of each rollout i, and the means logged with it.

    Args:
        signals: the signals of `batch`, including those of its steps if `spec.unit` is `step`.
        batch: the rollouts.
        spec: the options of the score.

    Returns:
        The scores in float64 on the CPU. The score of a rollout is NaN if it has too few items, or if its entropies or
        its strengths are all equal.

    Raises:
        InvalidInputError: `spec.unit` is `step`, and the signals have no steps.
    """
    items = _items(signals, batch, spec.unit)
    num_items = items.mask.sum(1)
    by_unit = {
        unit: _correlation(_items(signals, batch, unit), spec, unit)
        for unit in UNITS
        if unit != "step" or signals.steps is not None
    }
    correlation = by_unit[spec.unit]
    if spec.control == "none":
        inversion = -correlation
    elif spec.control == "shuffled":
        permuted = _permuted(items.strength, items.mask, batch, spec.seed)
        inversion = -_correlation(_Items(items.entropy, permuted, items.mask), spec, spec.unit)
    else:
        draws = [2 * torch.rand((), generator=g, dtype=torch.float64) - 1 for g in _generators(batch, spec.seed)]
        inversion = (torch.stack(draws) * spec.clip).where(correlation.isfinite(), torch.nan)
    if spec.control != "random":
        inversion = shrunk(inversion, num_items, spec.shrink).clamp(-spec.clip, spec.clip)
    return RolloutScores(
        inversion=inversion,
        correlation=correlation,
        by_unit=by_unit,
        given_length=_given_length(signals, spec),
        entropy=signals.entropy.cpu().double().nanmean(1),
        strength=items.strength.masked_fill(~items.mask, torch.nan).nanmean(1),
        self_certainty=signals.self_certainty.cpu().double().nanmean(1),
        num_tokens=signals.measured.cpu().sum(1),
        num_items=num_items,
    )


def _correlation(items: _Items, spec: ScoreSpec, unit: Unit) -> Float[Tensor, "rollout"]:
    """Return ρ, the correlation over the items of each rollout; NaN for a rollout with too few items."""
    least = spec.least_of(unit)
    return coefficients(items.entropy, items.strength, items.mask, method=spec.method, min_tokens=least)


def _given_length(signals: TokenSignals, spec: ScoreSpec) -> Float[Tensor, "rollout"]:
    """Return ρ over the steps of each rollout, with the lengths and positions of the steps held fixed.

    The result is NaN for all rollouts if the signals have no steps.
    """
    steps = signals.steps
    if steps is None:
        return torch.full((len(signals.entropy),), torch.nan, dtype=torch.float64)
    given = [steps.num_tokens.cpu().double(), steps.position.cpu().double()]
    return partial_coefficients(
        steps.entropy.cpu().double(),
        steps.strength.cpu().double(),
        given,
        steps.measured.cpu(),
        method=spec.method,
        min_tokens=spec.min_steps,
    )


def _generators(batch: TokenBatch, seed: int) -> list[torch.Generator]:
    """Return one random generator for each rollout. The rollout's tokens and `seed` determine its draws."""
    rows = zip(batch.input_ids.cpu(), batch.attention_mask.cpu(), strict=True)
    return [generator_of(ids[mask], seed) for ids, mask in rows]


def _permuted(strength: Tensor, mask: Tensor, batch: TokenBatch, seed: int) -> Tensor:
    """Put the strengths of each rollout in a random order. Positions where `mask` is False keep their values."""
    permuted = strength.clone()
    for row, generator in enumerate(_generators(batch, seed)):
        places = torch.nonzero(mask[row]).flatten()
        permuted[row, places] = strength[row, places[torch.randperm(len(places), generator=generator)]]
    return permuted
