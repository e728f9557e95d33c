"""Sum up a run: pooled correlations with intervals, per layer and projection, and how far estimators agree."""

import itertools
import math
import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from antiphase.bootstrap import mean_within, pooled_correlation
from antiphase.chain import interval_dict
from antiphase.correlation import average_ranks, coefficients
from antiphase.probing.config import ProbeConfig
from antiphase.types import cell_column

_PACKAGES = ("antiphase", "torch", "transformers", "numpy", "pandas", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """The commit of the checkout that this package runs from; None where it was installed otherwise."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def summarize(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    models: Mapping[str, Mapping[str, Any]],
    config: ProbeConfig,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The results of a run, JSON-ready.

    Args:
        tokens, rollouts: the two whole tables.
        models: what is known of each model: revision, device, dtype, and per estimator its layers.
        config: of the run.
        tick: called after every model and estimator.
    """
    results = []
    for model, spec in itertools.product(config.models, config.specs()):
        chosen = (tokens.model == model) & (tokens.estimator == spec.estimator)
        own = (rollouts.model == model) & (rollouts.estimator == spec.estimator)
        layers = models[model]["layers"][spec.estimator]
        results.append(
            {
                "model": model,
                **{key: models[model][key] for key in ("revision", "device", "dtype")},
                "estimator": spec.estimator,
                "context": spec.context,
                "layers": layers,
                "projections": list(spec.projections),
                "norm": spec.norm,
                "target": spec.target,
                "temperature": spec.temperature,
                "targets_per_rollout": spec.targets_per_rollout,
                **signal_statistics(
                    tokens[chosen],
                    rollouts[own],
                    layers,
                    spec.projections,
                    min_tokens=config.min_tokens,
                    num_resamples=config.num_resamples,
                    seed=config.seed,
                ),
            }
        )
        tick()
    pairs = list(itertools.combinations([spec.estimator for spec in config.specs()], 2))
    agreement = [
        {"model": model, **_agreement(tokens[tokens.model == model], pair, config)}
        for model, pair in itertools.product(config.models, pairs)
    ]
    return {"results": results, "agreement": agreement}


def _column(frame: pd.DataFrame, name: str) -> Tensor:
    return torch.tensor(frame[name].to_numpy(dtype="float64", copy=True))


def _codes(series: "pd.Series[Any]") -> Tensor:
    return torch.tensor(pd.factorize(series)[0].copy())


def signal_statistics(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    layers: list[int],
    projections: tuple[str, ...],
    *,
    min_tokens: int,
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Pooled and per-rollout correlations with intervals over prompts, JSON-ready.

    Args:
        tokens, rollouts: the rows of one model and estimator.
        layers, projections: that were measured.
        min_tokens, num_resamples, seed: of the correlations and their bootstrap.
    """
    entropy, strength, clusters = _column(tokens, "entropy"), _column(tokens, "strength"), _codes(tokens.prompt_id)
    token_ids = torch.tensor(tokens.token_id.to_numpy(copy=True))
    within: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed}
    shared: dict[str, Any] = {"min_tokens": min_tokens, **within}
    groups = _codes(rollouts.prompt_id)
    pooled = pooled_correlation(entropy, strength, clusters, **shared)
    control = _column(tokens, "logprob_control")
    # Ranked once for all cells; ρ of one cell is then Pearson's of the ranks.
    ranks = average_ranks(entropy[None], strength[None].isfinite())
    by_cell = [
        [_cell(ranks, _column(tokens, cell_column(layer, name)), min_tokens) for name in projections]
        for layer in layers
    ]
    return {
        "spearman": interval_dict(pooled),
        "pearson": interval_dict(pooled_correlation(entropy, strength, clusters, method="pearson", **shared)),
        "spearman_unique": interval_dict(
            pooled_correlation(entropy, strength, clusters, token_ids=token_ids, **shared)
        ),
        "pearson_unique": interval_dict(
            pooled_correlation(entropy, strength, clusters, token_ids=token_ids, method="pearson", **shared)
        ),
        "spearman_within": interval_dict(mean_within(_column(rollouts, "spearman"), groups, **within)),
        "pearson_within": interval_dict(mean_within(_column(rollouts, "pearson"), groups, method="pearson", **within)),
        "logprob_control": interval_dict(
            pooled_correlation(entropy, control.where(strength.isfinite(), torch.nan), clusters, **shared)
        ),
        "by_projection": by_cell,
        "num_tokens": int(strength.isfinite().sum()),
        "num_unique_tokens": int(token_ids[strength.isfinite()].unique().numel()),
        "num_rollouts": len(rollouts),
        "num_prompts": int(rollouts.prompt_id.nunique()),
        "num_undefined": int(rollouts.spearman.isna().sum()),
        "entropy_mean": float(entropy.mean()) if len(entropy) else None,
        "strength_mean": float(strength.nanmean()) if bool(strength.isfinite().any()) else None,
    }


def _cell(entropy_ranks: Tensor, strength: Tensor, min_tokens: int) -> float | None:
    mask = strength[None].isfinite()
    ranks = average_ranks(strength[None].nan_to_num(), mask)
    value = coefficients(entropy_ranks, ranks, mask, method="pearson", min_tokens=min_tokens).item()
    return None if math.isnan(value) else value


def _agreement(tokens: pd.DataFrame, pair: tuple[str, str], config: ProbeConfig) -> dict[str, Any]:
    keys = ["rollout_id", "position"]
    left, right = (tokens[tokens.estimator == name][[*keys, "prompt_id", "strength"]] for name in pair)
    both = left.merge(right, on=keys, suffixes=("", "_other")).dropna(subset=["strength", "strength_other"])
    correlation = pooled_correlation(
        _column(both, "strength"),
        _column(both, "strength_other"),
        _codes(both.prompt_id),
        min_tokens=config.min_tokens,
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    return {"estimators": list(pair), "spearman": interval_dict(correlation), "num_tokens": correlation.num_tokens}
