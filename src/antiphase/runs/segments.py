"""Correlate the thought and the answer of rollouts separately. `steps.segments` finds the two segments.

The measurement of a batch uses this module for the signals of one segment alone. The summary of a run uses it for the
correlations of each segment.
"""

import dataclasses
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from antiphase.runs.unit_spec import UnitSpec
from antiphase.runs.units import unit_statistics
from antiphase.signal_spec import PARTS, UNITS, Part, Segment
from antiphase.types import Magnitudes, StepSignals, TokenSignals

_OF_TOKENS = ("entropy", "logprob", "strength", "strength_by_projection", "logprob_control", "self_certainty")


def part_column(unit: str, part: Part) -> str:
    """Return the name of the column of rollouts.parquet that holds the correlation ρ of one segment over one unit.

    >>> part_column("type", "thought")
    'spearman_type_thought'
    """
    return f"spearman_{unit}_{part}"


def signals_within(
    signals: TokenSignals, chosen: Bool[Tensor, "batch token"], numbers: Int[Tensor, "batch token"]
) -> TokenSignals:
    """Return a copy of the signals that keeps only the values of the chosen tokens. All other values are NaN.

    The values of a step are kept if its first token is chosen.

    Args:
        signals: the signals of all tokens, with their steps.
        chosen: True at the tokens whose values are kept.
        numbers: the number of the step of every completion token, −1 elsewhere.
    """
    assert signals.steps is not None

    def kept(values: Tensor, where: Tensor, other: float = torch.nan) -> Tensor:
        return values.masked_fill(~where.view(*where.shape, *[1] * (values.ndim - where.ndim)), other)

    found: dict[str, Any] = {name: kept(getattr(signals, name), chosen) for name in _OF_TOKENS}
    some = {name: getattr(signals, name) for name in ("impurity", "attention_entropy")}
    found |= {name: None if values is None else kept(values, chosen) for name, values in some.items()}
    magnitudes = signals.magnitudes
    if magnitudes is not None:
        names = [part.name for part in dataclasses.fields(Magnitudes)]
        magnitudes = Magnitudes(*(kept(getattr(magnitudes, name), chosen) for name in names))
    steps = signals.steps
    there = _chosen_steps(chosen, numbers, steps)
    narrowed = {
        name: kept(getattr(steps, name), there)
        for name in ("entropy", "strength", "strength_by_projection", "position")
    }
    ranks = None if steps.effective_rank is None else kept(steps.effective_rank, there)
    return dataclasses.replace(
        signals,
        **found,
        measured=signals.measured & chosen,
        alternatives=None,
        magnitudes=magnitudes,
        steps=StepSignals(**narrowed, num_tokens=kept(steps.num_tokens, there, 0), effective_rank=ranks),
    )


def _chosen_steps(chosen: Tensor, numbers: Tensor, steps: StepSignals) -> Bool[Tensor, "batch step"]:
    """Return, for each step, whether its first token is chosen."""
    size = steps.num_tokens.shape[1]
    rows, columns = torch.nonzero(numbers >= 0, as_tuple=True)
    last = chosen.shape[1] - 1
    first = torch.full((len(chosen) * size,), last, dtype=torch.long, device=chosen.device)
    first.scatter_reduce_(0, rows * size + numbers[rows, columns], columns, "amin")
    of_first = chosen.gather(1, first.view(len(chosen), size))
    return of_first & (steps.num_tokens > 0)


def tokens_of(tokens: pd.DataFrame, segment: Segment) -> pd.DataFrame:
    """Return the rows of tokens.parquet that belong to a segment (`thought` or `answer`); all rows for `all`."""
    return tokens if segment == "all" else tokens[tokens.segment == segment]


def steps_of(steps: pd.DataFrame, tokens: pd.DataFrame, segment: Segment) -> pd.DataFrame:
    """Return the rows of steps.parquet that belong to a segment (thought or answer).

    A step belongs to the segment of its first token.

    Args:
        steps: the steps of one model and estimator.
        tokens: all tokens of the same rollouts.
        segment: `thought` or `answer`; `all` returns all rows.
    """
    if segment == "all":
        return steps
    of_token = tokens.set_index(["rollout_id", "position"]).segment
    places = pd.MultiIndex.from_frame(steps[["rollout_id", "start"]])
    return steps[(of_token.reindex(places) == segment).to_numpy()]


def segment_statistics(
    tokens: pd.DataFrame, rollouts: pd.DataFrame, steps: pd.DataFrame | None, units: UnitSpec, **resampling: Any
) -> dict[str, dict[str, Any]]:
    """Compute ρ over tokens, types and steps for the thought and for the answer, as values that JSON can hold.

    Args:
        tokens, rollouts, steps: all rows of one model and estimator; `steps` is None in a run that was made before
            antiphase measured steps.
        units: the options that say what is correlated: tokens, types or steps, and of which part of a rollout.
        resampling: `num_resamples` and `seed` of the bootstrap.

    Returns:
        A mapping with the entries `thought` and `answer`. Each entry has `num_tokens` (the number of measured tokens
        in this segment), `num_rollouts` (the number of rollouts that have this segment), and `units` (what
        `unit_statistics` returns for these rollouts). The mapping is empty if no rollout has a thought, or if some
        tokens were measured before antiphase knew segments.
    """
    if "segment" not in tokens or bool(tokens.segment.isna().any()) or not bool((tokens.segment == PARTS[0]).any()):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        own = tokens_of(tokens, part)
        having = rollouts[rollouts.rollout_id.isin(own.rollout_id)]
        having = having.assign(**{f"spearman_{unit}": having[part_column(unit, part)] for unit in UNITS})
        of_part = None if steps is None else steps_of(steps, tokens, part)
        found[part] = {
            "num_tokens": int(own.strength.notna().sum()),
            "num_rollouts": len(having),
            "units": unit_statistics(own, having, of_part, units, **resampling),
        }
    return found
