"""Compute ρ over each unit (token, type, step), make the rows of steps.parquet, and read results of older versions."""

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
from antiphase.statistics.estimate import number_or_none
from antiphase.statistics.partial_correlation import Joint
from antiphase.statistics.pooled_correlation import mean_within, pooled_correlation
from antiphase.statistics.subsampling import subsampling_error
from antiphase.types import StepSignals

# The number of tokens in a window. Windows ignore sentences, so their ρ does not depend on the lengths of sentences.
WINDOW = 16

STEP_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "estimator", "prompt_id", "rollout_id")),
        *((name, pa.int32()) for name in ("step", "start", "num_tokens")),
        *((name, pa.float32()) for name in ("position", "entropy", "strength", "effective_rank")),
    ]
)


def step_rows(
    owners: Sequence[Mapping[str, str]], steps: StepSignals, numbers: Int[Tensor, "batch token"]
) -> list[dict[str, Any]]:
    """Make the rows of steps.parquet, one for each step of each rollout.

    Args:
        owners: the columns model, estimator, prompt_id and rollout_id of each rollout.
        steps: the signals of the rollouts' steps.
        numbers: the number of the step of every completion token, −1 elsewhere.
    """
    rows = []
    counts, positions = steps.num_tokens.cpu().tolist(), steps.position.cpu().tolist()
    entropies, strengths = steps.entropy.cpu().tolist(), steps.strength.cpu().tolist()
    ranks = steps.effective_rank if steps.effective_rank is not None else torch.full_like(steps.entropy, torch.nan)
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
                        "effective_rank": float(ranks[place, step]),
                    }
                )
    return rows


def column(frame: pd.DataFrame, name: str) -> Float[Tensor, "row"]:
    """Return a column of a table as a float64 tensor."""
    return torch.tensor(frame[name].to_numpy(dtype="float64", copy=True))


def codes(series: "pd.Series[Any]") -> Int[Tensor, "row"]:
    """Replace each value by a number. Equal values get the same number, counted in the order of first appearance."""
    return torch.tensor(pd.factorize(series)[0].copy())


def interval_of(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Return a copy of the mapping `entry` with only its keys `value`, `low` and `high`."""
    return {key: entry[key] for key in ("value", "low", "high")}


def unit_statistics(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: pd.DataFrame | None,
    units: UnitSpec,
    **resampling: Any,
) -> dict[str, dict[str, Any]]:
    """Compute ρ over every unit, pooled and within rollouts, with intervals, as values that JSON can hold.

    Args:
        tokens, rollouts, steps: the rows of one model and estimator; `steps` is None in a run that was made before
            antiphase measured steps.
        units: the options that say what is correlated: tokens, types or steps, and of which part of a rollout.
        resampling: `num_resamples` and `seed` of the bootstrap, which draws prompts.

    Returns:
        For each unit: `value`, `low` and `high` of the pooled ρ, `num_items`, `num_undefined` (the number of rollouts
        without a ρ of their own), and `within` (the mean ρ within rollouts). The entries `token` and `type` have
        `subsampling_error`, and the entry `step` has more; see docs/metrics.md.
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
        if unit != "step":
            rollout = torch.tensor(
                tokens.groupby(["prompt_id", "rollout_id"], sort=False).ngroup().to_numpy(copy=True)
            )
            error = subsampling_error(x, y, rollout, token_ids, seed=resampling.get("seed", 0))
            found[unit]["subsampling_error"] = number_or_none(error)
        if known:
            found[unit]["within"] = interval_dict(mean_within(each, groups, unit=unit, **resampling))
    if steps is not None:
        found["step"] |= _beside_steps(tokens, steps, units, **resampling)
    return found


def _beside_steps(tokens: pd.DataFrame, steps: pd.DataFrame, units: UnitSpec, **resampling: Any) -> dict[str, Any]:
    """Compute the controls of a correlation over steps, as values that JSON can hold.

    Returns:
        A mapping with three entries. `given` is ρ with the lengths or the positions of the steps held fixed.
        `with_length` has the correlations of entropy and of strength with the length of the steps. `windows` is ρ over
        windows of equally many tokens in place of steps.
    """
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
    """Return the headline unit of a result: the unit of the correlation ρ that is shown first.

    It is `token` for a run that was made before antiphase had other units.
    """
    return cast(Unit, result.get("headline", "token"))


def headline_entry(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the correlation ρ that is shown first, with its interval and counts, as a mapping.

    It is the ρ over the headline unit. The result is None if no signals were measured.
    """
    return by_unit(result)[headline_of(result)] if "spearman" in result else None


def spearman_column(rollouts: pd.DataFrame, unit: str) -> str:
    """Return the name of the column of rollouts.parquet that holds the correlation ρ over a unit.

    For an old run, which has only ρ over tokens, it is always the column `spearman`.
    """
    name = f"spearman_{unit}"
    return name if name in rollouts else "spearman"


def by_unit(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each unit (type, token, step), a mapping with the correlation ρ, its interval and counts.

    An old run, without the key `units`, has only `token` and `type`.
    """
    if "units" in result:
        return dict(result["units"])
    undefined = {"num_items": result["num_tokens"], "num_undefined": result["num_undefined"]}
    return {
        "token": {**result["spearman"], **undefined, "within": result["spearman_within"]},
        "type": {**result["spearman_unique"], "num_items": result["num_unique_tokens"], "num_undefined": None},
    }
