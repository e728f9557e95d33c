"""The rivals of ι (ι = −ρ, the inversion): other numbers of a rollout that may tell right from wrong as well as ι.

Each rival has one line of definition, its source, and the column of rollouts.parquet that it is read from. An
evaluation judges ι and every rival in the same way, so a reader sees whether ι adds anything. A probe, which knows no
right answers, correlates every rival with ι over its rollouts. docs/rivals.md explains both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from antiphase.runs.units import codes, column, spearman_column
from antiphase.statistics.chain import interval_dict
from antiphase.statistics.pooled_correlation import pooled_correlation
from antiphase.statistics.resampling import MOST_UNDEFINED, Resampler
from antiphase.types import Correlation

# The smallest number of rollouts for a correlation of a rival with ι.
MIN_ROLLOUTS = 4


@dataclass(frozen=True)
class Rival:
    """A number of a rollout that is compared with ι (ι = −ρ, the inversion), such as its length.

    Args:
        column: the column of rollouts.parquet that holds the number. For ι the text is empty, since the column of ι
            depends on the unit.
        sign: 1 or −1. The column is multiplied by it, so that a higher product should mean that the rollout is more
            likely right.
        what: the definition of the number in one line.
        source: the paper that the number is from; an empty text if the number needs no source.
    """

    column: str
    sign: Literal[1, -1]
    what: str
    source: str = ""


# The scores of a rollout. The first is ι. If another of them does as well as ι, then ι adds nothing to it.
SCORES: dict[str, Rival] = {
    "inversion": Rival("", -1, "ι = −ρ(entropy, strength) over the headline unit", "arXiv 2605.17770"),
    "low_entropy": Rival("entropy_mean", -1, "minus mean token entropy", "arXiv 2505.22660"),
    "logprob": Rival("logprob_mean", 1, "mean log-probability of the tokens", "arXiv 2002.07650"),
    "self_certainty": Rival("self_certainty_mean", 1, "mean KL(U‖p) (Intuitor)", "arXiv 2505.19590"),
    "logprob_control": Rival("logprob_control", -1, "minus ρ(entropy, ‖∂ ln p/∂z‖) over tokens", "arXiv 2506.12912"),
    "shuffled": Rival("shuffled", -1, "ι over tokens, of shuffled strengths", "a control of ours"),
    "shortness": Rival("num_tokens", -1, "minus the number of tokens"),
    "low_impurity": Rival("impurity_mean", -1, "minus mean 1 − Σ p²", "arXiv 2506.12912, 2602.07078"),
    "low_attention_entropy": Rival(
        "attention_entropy_mean", -1, "minus mean entropy of the attention weights", "arXiv 2605.07660"
    ),
    "unembedding_norm": Rival(
        "unembedding_norm_mean",
        1,
        "mean ‖w_y‖ of the tokens' output vectors",
        "a control of ours; constant in the chain of arXiv 2605.17770",
    ),
    "effective_rank": Rival(
        "effective_rank_mean",
        1,
        "mean over steps of exp H(σ/Σσ), σ the singular values of the step's gradient",
        "Roy & Vetterli 2007; arXiv 2504.10766",
    ),
}
# Old runs lack the columns of these scores. A table leaves them out where none of its rollouts has them.
LATER = ("low_impurity", "low_attention_entropy", "unembedding_norm", "effective_rank")
# The score of a comparison in which two models share rollouts; see `evaluation.shared_rollouts`.
DELTA = "delta_logprob"
DELTA_WHAT = Rival(
    "", 1, "mean Δ ln p: ln p of the tokens by this model minus that by the reference", "arXiv 2603.22117"
)


def rollout_score(rollouts: pd.DataFrame, name: str, unit: str = "token") -> np.ndarray:
    """Return a score of each rollout; NaN where it is undefined, or if the table of an old run lacks its column.

    Args:
        rollouts: rows of rollouts.parquet.
        name: a key of `SCORES`.
        unit: the unit over which ι, the inversion, is computed: `type`, `token` or `step`.
    """
    rival = SCORES[name]
    held = rival.column or spearman_column(rollouts, unit)
    if held not in rollouts:
        return np.full(len(rollouts), np.nan)
    return rival.sign * rollouts[held].to_numpy(dtype=np.float64)


def rival_correlations(rollouts: pd.DataFrame, unit: str, **resampling: Any) -> dict[str, Mapping[str, Any]]:
    """Compute Spearman's correlation of every rival with ι over the rollouts, with an interval over prompts.

    ι = −ρ is the inversion of a rollout. A rival is another number of a rollout, such as its mean entropy.

    Args:
        rollouts: the rollouts of one model and estimator.
        unit: the unit of ι: `type`, `token` or `step`.
        resampling: `num_resamples` and `seed` of the bootstrap, which draws prompts.

    Returns:
        For each rival that some rollout has: `value`, `low`, `high` and `num_rollouts`, the number of rollouts that
            have both ι and the rival. The value is None with fewer than 4 such rollouts. If the rival or ι is the same
            for all rollouts of a resample, the correlation of this resample is undefined. If this happens in more than
            5 % of the resamples, there is no interval. An example is the length, if all rollouts but one reach the
            limit.
    """
    inversion, prompts = torch.from_numpy(rollout_score(rollouts, "inversion", unit)), codes(rollouts.prompt_id)
    found: dict[str, Mapping[str, Any]] = {}
    for name, rival in SCORES.items():
        if not rival.column or rival.column not in rollouts or not bool(rollouts[rival.column].notna().any()):
            continue
        score = rival.sign * column(rollouts, rival.column)
        # Self-certainty is infinite if the model gives a token no probability at all.
        score = score.masked_fill(score.isinf(), torch.nan)
        value = pooled_correlation(score, inversion, prompts, unit="token", min_tokens=MIN_ROLLOUTS, **resampling)
        value = _without_weak_interval(value, (score, inversion), prompts, **resampling)
        found[name] = {**interval_dict(value), "num_rollouts": value.num_tokens}
    return found


def _without_weak_interval(
    value: Correlation,
    series: tuple[torch.Tensor, torch.Tensor],
    clusters: torch.Tensor,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Correlation:
    """Return the correlation; its interval becomes NaN if a series is constant in too many resamples.

    Args:
        value: the pooled correlation of the two series.
        series: the two series, with one value for each rollout. A rollout with a NaN is left out.
        clusters: the prompt of each rollout.
        num_resamples, seed: how the resamples of the interval were drawn: their number, and the seed.
    """
    valid = ~(series[0].isnan() | series[1].isnan())
    if math.isnan(value.low):
        return value
    resampler = Resampler.of(clusters[valid], num_resamples, seed)
    if max(resampler.constant_share(each[valid]) for each in series) <= MOST_UNDEFINED:
        return value
    return replace(value, low=math.nan, high=math.nan)
