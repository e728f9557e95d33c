"""From correlation to reward: the score of a rollout, how it is combined with the task reward, and its weight.

Pure functions of tensors (METHOD §4). They see signals and rewards, never a trainer, so that every engine shares them.
The group normalisation itself is the host's.
"""

import math
import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from antiphase.correlation import coefficients
from antiphase.errors import InvalidInputError
from antiphase.types import Method, TokenBatch, TokenSignals, check_one_of

Combine = Literal["sum", "centered", "gated", "only"]
Control = Literal["none", "shuffled", "random"]
Schedule = Literal["constant", "warmup", "linear", "cosine"]

COMBINES: tuple[Combine, ...] = get_args(Combine)
CONTROLS: tuple[Control, ...] = get_args(Control)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

DEFAULT_WARMUP = 0.1


@dataclass(frozen=True)
class ScoreSpec:
    """How the score of a rollout is made from its signals.

    Args:
        method: `spearman` or `pearson`.
        min_tokens: rollouts with fewer measured tokens have no score.
        shrink: pseudo-tokens k of the prior that pulls short rollouts to 0 (see `shrunk`); 0 leaves them alone.
        clip: scores are clipped to [−clip, clip].
        control: `none`; `shuffled` permutes the strengths within each rollout before correlating; `random` replaces
            the score of every rollout that has one by a uniform draw from [−clip, clip].
        seed: of the controls, which draw by content: the same rollout draws the same, wherever it is.

    Raises:
        InvalidInputError: a value outside its set or range.
    """

    method: Method = "spearman"
    min_tokens: int = 8
    shrink: float = 0.0
    clip: float = 1.0
    control: Control = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("inversion_correlation", self.method, get_args(Method))
        check_one_of("inversion_control", self.control, CONTROLS)
        if self.min_tokens < 3:
            raise InvalidInputError(
                f"inversion_min_tokens must be at least 3 for a correlation to mean anything; got {self.min_tokens}."
            )
        if not (0 <= self.shrink < math.inf):
            raise InvalidInputError(f"inversion_shrink must be 0 or a positive number of tokens; got {self.shrink}.")
        if not 0 < self.clip <= 1:
            raise InvalidInputError(f"inversion_clip must lie in (0, 1]; got {self.clip}.")


def shrunk(
    inversion: Float[Tensor, "rollout"], num_tokens: Int[Tensor, "rollout"], shrink: float
) -> Float[Tensor, "rollout"]:
    """Pull scores of short rollouts to 0 on Fisher's scale: tanh(atanh(ι) (n−3) / (n−3+k)).

    The posterior mean under z ~ N(0, 1/k), with the sampling variance 1/(n−3) of z = atanh ι. Our reading: METHOD §4
    asks for shrinkage of short rollouts and leaves its form open. n counts measured tokens, not effective ones.

    >>> [round(score, 4) for score in shrunk(torch.tensor([0.5, 0.5]), torch.tensor([11, 803]), 8.0).tolist()]
    [0.2679, 0.4959]
    """
    if shrink == 0:
        return inversion
    freedom = (num_tokens - 3).clamp_min(0).to(inversion.dtype)
    # ±1 is infinite on Fisher's scale: the nearest representable number is finite.
    inside = 1 - torch.finfo(inversion.dtype).eps
    return torch.tanh(torch.atanh(inversion.clamp(-inside, inside)) * freedom / (freedom + shrink))


@dataclass(frozen=True)
class RolloutScores:
    """What was measured of each rollout; NaN where undefined.

    Args:
        inversion: ι = −ρ after the control, shrinkage and clipping: what the reward uses.
        correlation: ρ of the untouched signals.
        entropy: mean token entropy in nats.
        strength: mean gradient strength.
        self_certainty: mean of KL(U‖p) in nats.
        num_tokens: measured tokens.
    """

    inversion: Float[Tensor, "rollout"]
    correlation: Float[Tensor, "rollout"]
    entropy: Float[Tensor, "rollout"]
    strength: Float[Tensor, "rollout"]
    self_certainty: Float[Tensor, "rollout"]
    num_tokens: Int[Tensor, "rollout"]


def rollout_scores(signals: TokenSignals, batch: TokenBatch, spec: ScoreSpec) -> RolloutScores:
    """The inversion score ι_i = −ρ(entropy, strength) of each rollout, and the means that are logged beside it.

    Args:
        signals: of `batch`.
        batch: the rollouts.
        spec: how the score is made.

    Returns:
        float64 on the CPU; a rollout with too few tokens or a constant series is NaN.
    """
    entropy, strength = signals.entropy.double().cpu(), signals.strength.double().cpu()
    mask = signals.measured.cpu()
    num_tokens = mask.sum(1)
    correlation = coefficients(entropy, strength, mask, method=spec.method, min_tokens=spec.min_tokens)
    if spec.control == "none":
        inversion = -correlation
    elif spec.control == "shuffled":
        permuted = _permuted(strength, mask, batch, spec.seed)
        inversion = -coefficients(entropy, permuted, mask, method=spec.method, min_tokens=spec.min_tokens)
    else:
        draws = [2 * torch.rand((), generator=g, dtype=torch.float64) - 1 for g in _generators(batch, spec.seed)]
        inversion = (torch.stack(draws) * spec.clip).where(correlation.isfinite(), torch.nan)
    if spec.control != "random":
        inversion = shrunk(inversion, num_tokens, spec.shrink).clamp(-spec.clip, spec.clip)
    certainty = signals.self_certainty.double().cpu()
    return RolloutScores(
        inversion, correlation, entropy.nanmean(1), strength.nanmean(1), certainty.nanmean(1), num_tokens
    )


def _generators(batch: TokenBatch, seed: int) -> list[torch.Generator]:
    generators = []
    for ids, mask in zip(batch.input_ids.cpu(), batch.attention_mask.cpu(), strict=True):
        # The generator reads 32 bits of its seed, so seed and content are hashed into them.
        content = zlib.crc32(ids[mask].numpy().tobytes(), zlib.crc32(str(seed).encode()))
        generators.append(torch.Generator().manual_seed(content))
    return generators


def _permuted(strength: Tensor, mask: Tensor, batch: TokenBatch, seed: int) -> Tensor:
    permuted = strength.clone()
    for row, generator in enumerate(_generators(batch, seed)):
        places = torch.nonzero(mask[row]).flatten()
        permuted[row, places] = strength[row, places[torch.randperm(len(places), generator=generator)]]
    return permuted


@dataclass(frozen=True)
class InversionTerm:
    """What CorR-PO adds for each rollout; both are multiplied by the weight λ.

    Args:
        reward: added to the task reward before the host normalises groups.
        advantage: added to the host's advantage.
    """

    reward: Float[Tensor, "rollout"]
    advantage: Float[Tensor, "rollout"]


def group_mean(values: Float[Tensor, "rollout"], group_size: int) -> Float[Tensor, "rollout"]:
    """Mean of the defined values of each rollout's group, 0 where none is.

    >>> group_mean(torch.tensor([1.0, torch.nan, 4.0, 6.0]), 2).tolist()
    [1.0, 1.0, 5.0, 5.0]
    """
    means: Tensor = values.view(-1, group_size).nanmean(1).nan_to_num(0.0)
    return means.repeat_interleave(group_size)


def inversion_term(
    inversion: Float[Tensor, "rollout"],
    task: Float[Tensor, "rollout"],
    accepted: Bool[Tensor, "rollout"],
    *,
    group_size: int,
    combine: Combine,
    weight: float,
    clip: float = 1.0,
) -> InversionTerm:
    """The term that each rollout receives (METHOD §4), per unit of λ.

    * `sum`: R_i = r_i + λ ι_i. With std normalisation λ is inert where the task rewards of a group tie.
    * `centered`: A_i = A_task,i + λ (ι_i − mean_g ι). The host's advantage is untouched.
    * `gated`: R_i = r_i + λ_g ι_i for accepted rollouts alone, λ_g = min(λ, gap_g / 2·clip), gap_g = least accepted
      minus greatest rejected task reward of the group: no rejected rollout ever outranks an accepted one. Inert
      where the task rewards do not separate them (gap_g ≤ 0).
    * `only`: R_i = λ ι_i; the host is told to weigh the task rewards with 0.

    Our reading: METHOD §4 wants an undefined ι to contribute nothing. It takes the mean of its group's defined
    scores (`gated`: of the accepted ones), so that it neither gains nor loses. Zero would pay or fine short rollouts.

    Args:
        inversion: ι of each rollout, groups one after another; NaN is undefined.
        task: weighted sum of the task rewards; used by `gated` alone.
        accepted: whether the verifier accepts the rollout.
        group_size: rollouts per prompt.
        combine: the mode.
        weight: λ ≥ 0.
        clip: bound of |ι|.

    Returns:
        the dtype of `inversion`, without NaN.
    """
    zero = torch.zeros_like(inversion)
    neutral = inversion.where(inversion.isfinite(), group_mean(inversion, group_size))
    if combine in ("sum", "only"):
        return InversionTerm(neutral, zero)
    if combine == "centered":
        return InversionTerm(zero, neutral - group_mean(inversion, group_size))
    among = inversion.masked_fill(~accepted, torch.nan)
    bonus = among.where(among.isfinite(), group_mean(among, group_size)).masked_fill(~accepted, 0.0)
    return InversionTerm(bonus * _gate(task, accepted, group_size, weight, clip), zero)


def _gate(task: Tensor, accepted: Tensor, group_size: int, weight: float, clip: float) -> Tensor:
    """λ_g / λ of each rollout."""
    groups, right = task.view(-1, group_size), accepted.view(-1, group_size)
    least = groups.masked_fill(~right, torch.inf).amin(1)
    greatest = groups.masked_fill(right, -torch.inf).amax(1)
    # Infinite where a group is all right or all wrong: then λ itself holds.
    bound = (least - greatest).clamp_min(0) / (2 * clip)
    share = (bound / weight).clamp_max(1.0) if weight > 0 else torch.ones_like(bound)
    return share.repeat_interleave(group_size)


def weight_at(progress: float, *, weight: float, schedule: Schedule, warmup: float) -> float:
    """λ after a share of the training.

    After a linear rise over `warmup`: constant; linear λ(1−p); cosine λ(1+cos πp)/2, p the share of what remains.
    `warmup` as a schedule is constant, with a tenth of the training as its rise where none is given.

    Args:
        progress: optimizer steps done ÷ all steps, in [0, 1].
        weight: λ at its greatest.
        schedule: its name.
        warmup: share of the training over which λ rises from 0.

    >>> [weight_at(p, weight=0.5, schedule="linear", warmup=0.2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    if schedule == "warmup" and warmup == 0:
        warmup = DEFAULT_WARMUP
    if progress < warmup:
        return weight * progress / warmup
    if schedule in ("constant", "warmup"):
        return weight
    rest = min((progress - warmup) / (1 - warmup), 1.0) if warmup < 1 else 1.0
    return weight * (1 - rest) if schedule == "linear" else weight * (1 + math.cos(math.pi * rest)) / 2
