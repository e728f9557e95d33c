"""Sum up a run: pooled correlations with intervals, per layer and projection, and how far estimators agree."""

import functools
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

from antiphase.probing.probe_config import ProbeConfig
from antiphase.probing.unit_spec import UnitSpec
from antiphase.probing.units import codes, column, interval_of, unit_statistics
from antiphase.statistics.chain import chain_links, controls, interval_dict
from antiphase.statistics.correlation import average_ranks, coefficients
from antiphase.statistics.pooled_correlation import mean_within, pooled_correlation
from antiphase.types import MAGNITUDES, cell_column

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


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from; None where it was installed otherwise.

    It is read once in a process. So a run that asks when it begins is not said to be of a commit that was made while
    it went on.
    """
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
    steps: pd.DataFrame | None,
    models: Mapping[str, Mapping[str, Any]],
    config: ProbeConfig,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The results of a run, JSON-ready.

    Args:
        tokens, rollouts, steps: the whole tables; no steps in a run of before they were measured.
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
                "step_strength": spec.step_strength,
                "splitter": str(config.units().splitter),
                **signal_statistics(
                    tokens[chosen],
                    rollouts[own],
                    None if steps is None else steps[(steps.model == model) & (steps.estimator == spec.estimator)],
                    layers,
                    spec.projections,
                    config.units(),
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
    """Pooled and per-rollout correlations with intervals over prompts, JSON-ready.

    Args:
        tokens, rollouts, steps: the rows of one model and estimator.
        layers, projections: that were measured.
        units: what is correlated.
        num_resamples, seed: of the bootstrap.
    """
    entropy, strength, clusters = column(tokens, "entropy"), column(tokens, "strength"), codes(tokens.prompt_id)
    token_ids = torch.tensor(tokens.token_id.to_numpy(copy=True))
    within: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed}
    shared: dict[str, Any] = {"min_tokens": units.min_tokens, **within}
    groups = codes(rollouts.prompt_id)
    by_unit = unit_statistics(tokens, rollouts, steps, units, **within)
    control = column(tokens, "logprob_control")
    # Ranked once for all cells; ρ of one cell is then Pearson's of the ranks.
    ranks = average_ranks(entropy[None], strength[None].isfinite())
    by_cell = [
        [_cell(ranks, column(tokens, cell_column(layer, name)), units.min_tokens) for name in projections]
        for layer in layers
    ]
    return {
        "headline": units.headline,
        "units": by_unit,
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
    """The paper's chain and the controls; nothing for a run of before their columns were stored."""
    if "logit" not in tokens:
        return {}
    names = ("entropy", "position", "logprob_control", *MAGNITUDES)
    columns = {name: column(tokens, name) for name in names} | {"strength": strength}
    return {
        "chain": [link.as_dict() for link in chain_links(columns, clusters, **options)],
        "controls": controls(columns, clusters, token_ids, **options),
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
        column(both, "strength"),
        column(both, "strength_other"),
        codes(both.prompt_id),
        min_tokens=config.min_tokens,
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    return {"estimators": list(pair), "spearman": interval_dict(correlation), "num_tokens": correlation.num_tokens}
