"""Compute the results in a probe's summary: correlations with intervals, and how well the estimators agree."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from antiphase.probing.probe_config import ProbeConfig
from antiphase.runs.auto_targets import planned_of
from antiphase.runs.measuring import given_facts
from antiphase.runs.signal_statistics import signal_statistics
from antiphase.runs.units import codes, column
from antiphase.statistics.chain import interval_dict
from antiphase.statistics.pooled_correlation import pooled_correlation


def summarize(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: pd.DataFrame | None,
    models: Mapping[str, Mapping[str, Any]],
    config: ProbeConfig,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Compute the results of a probe, as values that JSON can hold.

    Args:
        tokens, rollouts, steps: the tables of the whole run. `steps` is None for runs of older versions, which did not
            measure steps.
        models: the facts about each model: revision, device, dtype, and the layers of each estimator.
        config: the options of the run.
        tick: function that is called after every model and estimator.

    Returns:
        `results`, with an entry for each model and estimator; and `agreement`, with an entry for each model and pair
        of estimators.
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
                **given_facts(models[model]),
                "estimator": spec.estimator,
                "context": spec.context,
                "layers": layers,
                "projections": list(spec.projections),
                "norm": spec.norm,
                "target": spec.target,
                "temperature": spec.temperature,
                "targets_per_rollout": planned_of(models[model], spec),
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


def _agreement(tokens: pd.DataFrame, pair: tuple[str, str], config: ProbeConfig) -> dict[str, Any]:
    """Compute the correlation of the strengths that two estimators measure at the same tokens of one model.

    Args:
        tokens: the model's rows of the token table.
        pair: the names of the two estimators.
        config: the options of the run.
    """
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
