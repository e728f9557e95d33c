"""Correlations by each unit (token, type, step), and the table and the statistics of steps."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from antiphase.runs.unit_spec import UnitSpec
from antiphase.signal_spec import Unit
from antiphase.statistics.chain import interval_dict
from antiphase.statistics.partial_correlation import Joint
from antiphase.statistics.pooled_correlation import mean_within, pooled_correlation
from antiphase.types import StepSignals

# Windows of so many tokens ignore sentences. They control for what the lengths of sentences do to ρ by step.
WINDOW = 16

STEP_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "estimator", "prompt_id", "rollout_id")),
        *((name, pa.int32()) for name in ("step", "start", "num_tokens")),
        *((name, pa.float32()) for name in ("position", "entropy", "strength")),
    ]
)


def step_rows(
    owners: Sequence[Mapping[str, str]], steps: StepSignals, numbers: Int[Tensor, "batch token"]
) -> list[dict[str, Any]]:
    """Rows of steps.parquet.

    Args:
        owners: model, estimator, prompt_id and rollout_id of each rollout.
        steps: the signals of their steps.
        numbers: the step of every completion token, −1 elsewhere.
    """
    rows = []
    counts, positions = steps.num_tokens.cpu().tolist(), steps.position.cpu().tolist()
    entropies, strengths = steps.entropy.cpu().tolist(), steps.strength.cpu().tolist()
    for place, owner in enumerate(owners):
        inside = numbers[place][numbers[place] >= 0].cpu()
        for step, count in enumerate(counts[place]):
            if count:
                rows.append(
                    {
                        **owner,
                        "step": step,
                        "start": int(torch.nonzero(inside == step)[0]),
                        "num_tokens": count,
                        "position": positions[place][step],
                        "entropy": entropies[place][step],
                        "strength": strengths[place][step],
                    }
                )
    return rows


def column(frame: pd.DataFrame, name: str) -> Float[Tensor, "row"]:
    """A column of a table as a float64 tensor."""
    return torch.tensor(frame[name].to_numpy(dtype="float64", copy=True))


def codes(series: "pd.Series[Any]") -> Int[Tensor, "row"]:
    """The number of each value; distinct values are numbered in the order in which they appear."""
    return torch.tensor(pd.factorize(series)[0].copy())


def interval_of(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Only `value`, `low` and `high` of an entry."""
    return {key: entry[key] for key in ("value", "low", "high")}


def unit_statistics(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: pd.DataFrame | None,
    units: UnitSpec,
    **resampling: Any,
) -> dict[str, dict[str, Any]]:
    """ρ by every unit, pooled and within rollouts, with intervals over prompts, as values that JSON can hold.

    Args:
        tokens, rollouts, steps: the rows of one model and estimator; `steps` is None if the run is older than their
            measurement.
        units: what is correlated.
        resampling: `num_resamples` and `seed`, as the bootstrap takes them.
    """
    found: dict[str, dict[str, Any]] = {}
    groups = codes(rollouts.prompt_id)
    entropy, strength, clusters = column(tokens, "entropy"), column(tokens, "strength"), codes(tokens.prompt_id)
    ids = torch.tensor(tokens.token_id.to_numpy(copy=True))
    series: dict[Unit, tuple[Any, ...]] = {
        "token": (entropy, strength, clusters, None),
        "type": (entropy, strength, clusters, ids),
    }
    if steps is not None:
        series["step"] = (column(steps, "entropy"), column(steps, "strength"), codes(steps.prompt_id), None)
    for unit, (x, y, prompts, token_ids) in series.items():
        options: dict[str, Any] = {"unit": unit, "min_tokens": units.least(unit), **resampling}
        value = pooled_correlation(x, y, prompts, token_ids=token_ids, **options)
        name = spearman_column(rollouts, unit)
        each = column(rollouts, name)
        known = name != "spearman" or unit == "token"
        found[unit] = {
            **interval_dict(value),
            "num_items": value.num_tokens,
            "num_undefined": int(each.isnan().sum()) if known else None,
        }
        if known:
            found[unit]["within"] = interval_dict(mean_within(each, groups, unit=unit, **resampling))
    if steps is not None:
        found["step"] |= _beside_steps(tokens, steps, units, **resampling)
    return found


def _beside_steps(tokens: pd.DataFrame, steps: pd.DataFrame, units: UnitSpec, **resampling: Any) -> dict[str, Any]:
    """What a correlation over steps must be read with: the steps' lengths, their places, and windows."""
    names = ("entropy", "strength", "num_tokens", "position")
    joint = Joint.of([column(steps, name) for name in names], codes(steps.prompt_id), unit="step", **resampling)
    least = units.min_steps

    def given(*held: int) -> dict[str, float | None]:
        return interval_dict(joint.correlation(0, 1, held, min_tokens=least))

    windows = tokens[["prompt_id", "rollout_id", "position", "entropy", "strength"]]
    windows = windows.assign(window=windows.position // WINDOW)
    means = windows.groupby(["prompt_id", "rollout_id", "window"], sort=False, as_index=False)[
        ["entropy", "strength"]
    ].mean()
    value = pooled_correlation(
        column(means, "entropy"),
        column(means, "strength"),
        codes(means.prompt_id),
        unit="step",
        min_tokens=least,
        **resampling,
    )
    return {
        "given": {"length": given(2), "position": given(3), "both": given(2, 3)},
        "with_length": {
            name: interval_dict(joint.correlation(place, 2, (), min_tokens=least))
            for place, name in enumerate(names[:2])
        },
        "windows": {f"fixed:{WINDOW}": interval_dict(value)},
    }


def headline_of(result: Mapping[str, Any]) -> Unit:
    """The unit whose ρ stands for a result. Runs that are older than the units correlate tokens."""
    return cast(Unit, result.get("headline", "token"))


def headline_entry(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of ρ by the headline unit of a result; None if no signals were measured."""
    return by_unit(result)[headline_of(result)] if "spearman" in result else None


def spearman_column(rollouts: pd.DataFrame, unit: str) -> str:
    """The column of rollouts.parquet that holds each rollout's ρ by a unit. Old runs have one column, by token."""
    name = f"spearman_{unit}"
    return name if name in rollouts else "spearman"


def by_unit(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of ρ by unit. A result that is older than the units has the one by token."""
    if "units" in result:
        return dict(result["units"])
    undefined = {"num_items": result["num_tokens"], "num_undefined": result["num_undefined"]}
    return {
        "token": {**result["spearman"], **undefined, "within": result["spearman_within"]},
        "type": {**result["spearman_unique"], "num_items": result["num_unique_tokens"], "num_undefined": None},
    }
