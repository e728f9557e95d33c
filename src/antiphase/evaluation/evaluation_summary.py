"""Sum up an evaluation: metrics of every model, task and estimator, JSON-ready."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from antiphase.evaluation.benchmark import results_benchmark
from antiphase.evaluation.evaluation_config import NO_SIGNALS, EvalConfig
from antiphase.evaluation.task_metrics import accuracy_metrics, inside_metrics
from antiphase.runs.signal_statistics import signal_statistics


def summarize_evaluation(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: pd.DataFrame | None,
    models: Mapping[str, Mapping[str, Any]],
    config: EvalConfig,
    identities: Sequence[Mapping[str, Any]],
    *,
    tick: Callable[[float], None] = lambda _: None,
) -> dict[str, Any]:
    """The results of an evaluation.

    Args:
        tokens, rollouts, steps: the whole tables; no steps in a run of before they were measured.
        models: what is known of each model: revision, device, dtype, engine, and per estimator its layers.
        config: of the run.
        identities: of the tasks: what must be equal for two results to be compared.
        tick: called with the share that each step finished.

    Returns:
        `results`: one entry per model, task and estimator; `benchmark`: the table of several tasks with their average,
        None where there is one task.
    """
    specs = {str(spec.estimator): spec for spec in config.specs()}
    estimators: list[str] = list(specs) or [NO_SIGNALS]
    cases = list(itertools.product(config.models, identities, estimators))
    results = []
    for model, identity, estimator in cases:
        chosen = (rollouts.model == model) & (rollouts.task == identity["task"]) & (rollouts.estimator == estimator)
        rows = rollouts[chosen]
        spec = specs.get(estimator)
        entry: dict[str, Any] = {
            "model": model,
            **{key: models[model][key] for key in ("revision", "device", "dtype", "engine")},
            "task": identity["task"],
            "identity": dict(identity),
            "estimator": estimator,
            "num_problems": int(rows.problem_id.nunique()),
            "num_rollouts": len(rows),
            "num_samples": _samples(rows),
            "metrics": accuracy_metrics(rows, _ks(rows, config)),
        }
        if spec is not None:
            layers = models[model]["layers"][estimator]
            entry |= {
                "context": spec.context,
                "chosen_layers": config.layers,
                "min_tokens": config.min_tokens,
                "min_steps": config.min_steps,
                "splitter": str(config.units().splitter),
                "step_strength": spec.step_strength,
                "layers": layers,
                "projections": list(spec.projections),
                "norm": spec.norm,
                "target": spec.target,
                "targets_per_rollout": spec.targets_per_rollout,
                "inside": inside_metrics(rows, _ks(rows, config), config.unit),
                "signals": _signals(tokens, rows, steps, model, identity["task"], estimator, layers, spec, config),
            }
        results.append(entry)
        tick(1 / len(cases))
    return {"results": results, "benchmark": results_benchmark(results, rollouts)}


def _samples(rows: pd.DataFrame) -> int:
    drawn = rows[~rows.greedy]
    return int(drawn.groupby("problem_id").size().min()) if len(drawn) else 0


def _ks(rows: pd.DataFrame, config: EvalConfig) -> tuple[int, ...]:
    return config.ks(_samples(rows))


def _signals(
    tokens: pd.DataFrame,
    rows: pd.DataFrame,
    steps: pd.DataFrame | None,
    model: str,
    task: str,
    estimator: str,
    layers: list[int],
    spec: Any,
    config: EvalConfig,
) -> dict[str, Any]:
    drawn = rows[~rows.greedy] if (~rows.greedy).any() else rows
    chosen = (tokens.model == model) & (tokens.task == task) & (tokens.estimator == estimator)
    ids = set(drawn.rollout_id)
    own = tokens[chosen & tokens.rollout_id.isin(ids)]
    if steps is not None:
        same = (steps.model == model) & (steps.task == task) & (steps.estimator == estimator)
        steps = steps[same & steps.rollout_id.isin(ids)]
    return signal_statistics(
        own,
        drawn,
        steps,
        layers if config.by_projection else [],
        tuple(spec.projections),
        config.units(),
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
