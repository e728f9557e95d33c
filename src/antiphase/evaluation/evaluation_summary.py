"""Make the summary of an evaluation: the metrics of every model, task and estimator, as values for summary.json."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from antiphase.data.prompt_rendering import prompts_digest
from antiphase.evaluation.benchmark import results_benchmark
from antiphase.evaluation.evaluation_config import NO_SIGNALS, EvalConfig
from antiphase.evaluation.task_metrics import accuracy_metrics, inside_metrics, rows_of, sampled_or_greedy
from antiphase.runs.auto_targets import planned_of
from antiphase.runs.measuring import given_facts
from antiphase.runs.signal_statistics import signal_statistics
from antiphase.signal_spec import SignalSpec


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
    """Compute the results of an evaluation from its tables.

    Args:
        tokens, rollouts, steps: the tables of the whole run. `steps` is None for runs of older versions, which did not
            measure steps.
        models: the facts about each model: revision, device, dtype, engine, and the layers of each estimator.
        config: the options of the run.
        identities: for each task, the values that two comparable results must share (see `TaskPlan.identity`).
        tick: function for a progress bar. It is called after each result. Its argument is the share of the whole work
            that this result took.

    Returns:
        A mapping. `results` has an entry for each model, task and estimator. `benchmark` is the table of accuracies on
        several tasks with their averages; None if there is only one task.
    """
    specs = {str(spec.estimator): spec for spec in config.specs()}
    estimators: list[str] = list(specs) or [NO_SIGNALS]
    cases = list(itertools.product(config.models, identities, estimators))
    results = []
    for model, identity, estimator in cases:
        case = (model, identity["task"], estimator)
        rows = rows_of(rollouts, *case)
        spec = specs.get(estimator)
        ks = config.ks(identity["task"], _samples(rows))
        entry: dict[str, Any] = {
            "model": model,
            **{key: models[model][key] for key in ("revision", "device", "dtype", "engine")},
            **given_facts(models[model]),
            "task": identity["task"],
            "identity": dict(identity),
            "prompts_sha256": prompts_digest(map(list, rows.drop_duplicates("problem_id").prompt_ids)),
            "tokenizer_sha256": models[model].get("tokenizer_sha256"),
            "estimator": estimator,
            "num_problems": int(rows.problem_id.nunique()),
            "num_rollouts": len(rows),
            "num_samples": _samples(rows),
            "metrics": accuracy_metrics(rows, ks),
        }
        if spec is not None:
            own_steps = None if steps is None else rows_of(steps, *case)
            layers = models[model]["layers"][estimator]
            own_tokens = rows_of(tokens, *case)
            entry |= _measured(own_tokens, rows, own_steps, spec, layers, ks, config, models[model])
        results.append(entry)
        tick(1 / len(cases))
    return {"results": results, "benchmark": results_benchmark(results, rollouts)}


def _samples(rows: pd.DataFrame) -> int:
    """Return the number of samples of the problem that has the fewest; 0 if nothing was sampled."""
    drawn = rows[~rows.greedy]
    return int(drawn.groupby("problem_id").size().min()) if len(drawn) else 0


def _measured(
    tokens: pd.DataFrame,
    rows: pd.DataFrame,
    steps: pd.DataFrame | None,
    spec: SignalSpec,
    layers: list[int],
    ks: Sequence[int],
    config: EvalConfig,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how the signals of one model, task and estimator were measured, and the statistics of these signals."""
    drawn = sampled_or_greedy(rows)
    ids = set(drawn.rollout_id)
    return {
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
        "targets_per_rollout": planned_of(facts, spec),
        "inside": inside_metrics(rows, ks, config.unit),
        "signals": signal_statistics(
            tokens[tokens.rollout_id.isin(ids)],
            drawn,
            None if steps is None else steps[steps.rollout_id.isin(ids)],
            layers if config.by_projection else [],
            tuple(spec.projections),
            config.units(),
            num_resamples=config.num_resamples,
            seed=config.seed,
        ),
    }
