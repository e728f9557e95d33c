"""Compute the correlations of one model and estimator from the tables of a probe or of an evaluation."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from antiphase.runs.rivals import rival_correlations
from antiphase.runs.segments import segment_statistics, steps_of, tokens_of
from antiphase.runs.unit_spec import UnitSpec
from antiphase.runs.units import codes, column, interval_of, unit_statistics
from antiphase.statistics.chain import LATER_CONTROLS, chain_links, controls, interval_dict
from antiphase.statistics.correlation import average_ranks, coefficients
from antiphase.statistics.pooled_correlation import mean_within, pooled_correlation
from antiphase.types import MAGNITUDES, cell_column


def signal_statistics(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: pd.DataFrame | None,
    layers: list[int],
    projections: tuple[str, ...],
    units: UnitSpec,
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Compute the correlations of entropy and strength with intervals, as values that JSON can hold.

    They are computed over all rollouts together, and also within each rollout and then averaged.

    Args:
        tokens, rollouts, steps: all rows of one model and estimator; `steps` is None in a run that was made before
            antiphase measured steps.
        layers, projections: the layers and projections that were measured.
        units: the options that say what is correlated: tokens, types or steps, and of which part of a rollout.
        num_resamples: the number of bootstrap samples for the intervals. Each sample is drawn from the prompts.
        seed: seed of the random generator that draws the bootstrap samples.
    """
    within: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed}
    segments = segment_statistics(tokens, rollouts, steps, units, **within)
    steps = None if steps is None else steps_of(steps, tokens, units.segment)
    tokens = tokens_of(tokens, units.segment)
    entropy, strength, clusters = column(tokens, "entropy"), column(tokens, "strength"), codes(tokens.prompt_id)
    token_ids = torch.tensor(tokens.token_id.to_numpy(copy=True))
    shared: dict[str, Any] = {"min_tokens": units.min_tokens, **within}
    groups = codes(rollouts.prompt_id)
    by_unit = unit_statistics(tokens, rollouts, steps, units, **within)
    control = column(tokens, "logprob_control")
    # The entropies are ranked once. The ρ of each layer and projection is then Pearson's correlation of the ranks.
    ranks = average_ranks(entropy[None], strength[None].isfinite())
    by_cell = [
        [_cell(ranks, column(tokens, cell_column(layer, name)), units.min_tokens) for name in projections]
        for layer in layers
    ]
    return {
        "headline": units.headline,
        "units": by_unit,
        "segment": units.segment,
        "segments": segments,
        "spearman": interval_of(by_unit["token"]),
        "pearson": interval_dict(pooled_correlation(entropy, strength, clusters, method="pearson", **shared)),
        "spearman_unique": interval_of(by_unit["type"]),
        "pearson_unique": interval_dict(
            pooled_correlation(entropy, strength, clusters, token_ids=token_ids, method="pearson", **shared)
        ),
        "spearman_within": by_unit["token"]["within"],
        "pearson_within": interval_dict(mean_within(column(rollouts, "pearson"), groups, method="pearson", **within)),
        "logprob_control": interval_dict(
            pooled_correlation(entropy, control.where(strength.isfinite(), torch.nan), clusters, **shared)
        ),
        **_chain(tokens, strength, clusters, token_ids, shared),
        "rivals": rival_correlations(rollouts, units.headline, **within),
        "by_projection": by_cell,
        "num_tokens": int(strength.isfinite().sum()),
        "num_unique_tokens": int(token_ids[strength.isfinite()].unique().numel()),
        "num_rollouts": len(rollouts),
        "num_prompts": int(rollouts.prompt_id.nunique()),
        "num_undefined": int(rollouts.spearman.isna().sum()),
        "entropy_mean": float(entropy.mean()) if len(entropy) else None,
        "strength_mean": float(strength.nanmean()) if bool(strength.isfinite().any()) else None,
    }


def _chain(
    tokens: pd.DataFrame, strength: Tensor, clusters: Tensor, token_ids: Tensor, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Compute the correlations along the paper's argument from entropy to strength, and the controls.

    The result is empty if the run was made before antiphase wrote the columns that are needed.
    """
    if "logit" not in tokens:
        return {}
    names = ("entropy", "position", "logprob_control", *MAGNITUDES)
    columns = {name: column(tokens, name) for name in names} | {"strength": strength}
    # A run that is older than these controls lacks their columns.
    columns |= {name: column(tokens, name) for name in LATER_CONTROLS if name in tokens}
    columns["surprisal"] = -column(tokens, "logprob")
    return {
        "chain": [link.as_dict() for link in chain_links(columns, clusters, **options)],
        "controls": controls(columns, clusters, token_ids, **options),
    }


def _cell(entropy_ranks: Tensor, strength: Tensor, min_tokens: int) -> float | None:
    """Compute the correlation ρ of entropy and the strength in one layer and projection; None if it is undefined.

    Args:
        entropy_ranks: the ranks of the entropies of all tokens.
        strength: the strength of each token in this layer and projection; NaN if it was not measured.
        min_tokens: with fewer tokens, ρ is undefined.
    """
    mask = strength[None].isfinite()
    ranks = average_ranks(strength[None].nan_to_num(), mask)
    value = coefficients(entropy_ranks, ranks, mask, method="pearson", min_tokens=min_tokens).item()
    return None if math.isnan(value) else value
