"""The correlations of one set of texts and one estimator, as numbers alone: no token, id or text is in them.

ρ(entropy, strength) over sentences, windows of N tokens, token ids and tokens: pooled over all texts, and as the mean
of the texts' own ρ; plain, and with length, position, ‖w_y‖ and frequency held fixed. Beside it the links of the
paper's chain over tokens (docs/method.md), also with ‖w_y‖ and position held fixed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from antiphase.runs.units import codes, column
from antiphase.signal_spec import Unit
from antiphase.statistics.chain import LATER_CONTROLS, chain_links, controls, interval_dict
from antiphase.statistics.partial_correlation import Joint, partial_coefficients
from antiphase.types import MAGNITUDES, Correlation

# Series that are held fixed together, by the name under which the result stands.
_OF_STEPS = {
    "none": (),
    "length": ("length",),
    "position": ("position",),
    "unembedding_norm": ("unembedding_norm",),
    "length+position": ("length", "position"),
    "all": ("length", "position", "unembedding_norm"),
}
_OF_TOKENS = {
    "none": (),
    "position": ("position",),
    "unembedding_norm": ("unembedding_norm",),
    "frequency": ("frequency",),
    "all": ("position", "unembedding_norm", "frequency"),
}
# The ρ of every single text are kept for these.
_EACH = ("none", "length+position", "position", "all")
_HELD = ("unembedding_norm", "position")
_PARTIAL_LINKS = {
    "entropy–logit": ("entropy", "logit", _HELD),
    "logit–hidden": ("logit", "hidden_norm", _HELD),
    "hidden–strength": ("hidden_norm", "strength", _HELD),
    "hidden_before–strength": ("hidden_norm_before", "strength", _HELD),
    # What the chain leaves over of ρ, if its middle is held fixed.
    "entropy–strength given the chain": ("entropy", "strength", ("logit", "hidden_norm")),
}


def correlations(
    tokens: pd.DataFrame, steps: pd.DataFrame, units: Sequence[str], num_resamples: int, *, joint: bool = False
) -> dict[str, Any]:
    """Compute everything that is stored about one set of texts and one estimator.

    Args:
        tokens, steps: the rows of `tokens.parquet` and `steps.parquet` of one estimator.
        units: `step`, `fixed:N`, `type` or `token`.
        num_resamples: the number of resamples of prompts, for the intervals.
        joint: whether only the steps' joint strengths were measured. Then only the unit `step` has a strength.

    Returns:
        Values for JSON. An undefined number is None.
    """
    tokens = tokens[[name for name in tokens.columns if not name.startswith("strength_L")]].copy()
    found: dict[str, Any] = {
        "num_texts": int(tokens.rollout_id.nunique()),
        "num_tokens": len(tokens),
        **{f"{name}_mean": _number(tokens[name].mean()) for name in ("entropy", "strength", "logprob")},
    }
    shared = {"num_resamples": num_resamples, "seed": 0}
    wanted = [unit for unit in units if unit == "step" or not joint]
    found["units"] = {unit: _unit(unit, tokens, steps, shared) for unit in wanted}
    if not joint:
        found |= _chain(tokens, shared)
    return found


def _unit(unit: str, tokens: pd.DataFrame, steps: pd.DataFrame, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the correlations over one unit."""
    items = _items(unit, tokens, steps)
    given = _OF_TOKENS if unit in ("type", "token") else _OF_STEPS
    names = ["entropy", "strength", *given["all"]]
    kind: Unit = "type" if unit == "type" else "token" if unit == "token" else "step"
    ids = torch.tensor(items.token_id.to_numpy(copy=True)) if unit == "type" else None
    every = [column(items, name) for name in names]
    joint = Joint.of(every, codes(items.prompt_id), unit=kind, token_ids=ids, **shared)
    if unit == "type":
        items = items.groupby(["rollout_id", "token_id"], sort=False, as_index=False)[names].mean()
    series, mask = _by_text(items, names)
    pooled, within = {}, {}
    for name, held in given.items():
        places = [names.index(each) for each in held]
        pooled[name] = _rounded(interval_dict(joint.correlation(0, 1, places)))
        each = partial_coefficients(series[0], series[1], [series[place] for place in places], mask, unit=kind)
        within[name] = _mean(each, keep=name in _EACH)
    return {"num_items": joint.num_items, "pooled": pooled, "within": within}


def _items(unit: str, tokens: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each item of a unit, with entropy, strength and what is held fixed."""
    texts = ["prompt_id", "rollout_id"]
    if unit in ("type", "token"):
        count = tokens.groupby("token_id").token_id.transform("count")
        return tokens.assign(frequency=np.log(count.to_numpy(dtype="float64")))
    if unit == "step":
        norms = tokens.groupby(["rollout_id", "step"], as_index=False).unembedding_norm.mean()
        return steps.rename(columns={"num_tokens": "length"}).merge(norms, on=["rollout_id", "step"], how="left")
    size = int(unit.removeprefix("fixed:"))
    windows = tokens.assign(window=tokens.position // size, length=1.0).groupby([*texts, "window"], sort=False)
    means = windows[["entropy", "strength", "position", "unembedding_norm"]].mean()
    return means.assign(length=windows.length.sum()).reset_index()


def _by_text(items: pd.DataFrame, names: Sequence[str]) -> tuple[list[Tensor], Tensor]:
    """Return each series as `[text, item]`, and a mask that is True at real items."""
    groups = [group for _, group in items.groupby("rollout_id", sort=False)]
    mask = torch.zeros(len(groups), max(map(len, groups)), dtype=torch.bool)
    series = torch.zeros(len(names), *mask.shape, dtype=torch.float64)
    for row, group in enumerate(groups):
        mask[row, : len(group)] = True
        for place, name in enumerate(names):
            series[place, row, : len(group)] = column(group, name)
    return list(series), mask


def _mean(each: Tensor, *, keep: bool) -> dict[str, Any]:
    """Return the mean of the texts' ρ, its standard error and the number of texts that have one."""
    known = each[each.isfinite()]
    error = float(known.std() / math.sqrt(len(known))) if len(known) > 1 else math.nan
    found = {"mean": _number(known.mean()), "error": _number(error), "num": len(known)}
    return {**found, "each": [_number(value) for value in each.tolist()]} if keep else found


def _chain(tokens: pd.DataFrame, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the links of the paper's chain over tokens, the same with controls held fixed, and the controls."""
    always = ("entropy", "strength", "position", "logprob_control", *MAGNITUDES)
    columns = {name: column(tokens, name) for name in (*always, *LATER_CONTROLS) if name in tokens}
    columns["surprisal"] = -column(tokens, "logprob")
    clusters = codes(tokens.prompt_id)
    ids = torch.tensor(tokens.token_id.to_numpy(copy=True))
    present = {name: values for name, values in columns.items() if not bool(values.isnan().all())}
    names = list(dict.fromkeys(each for x, y, held in _PARTIAL_LINKS.values() for each in (x, y, *held)))
    names = [name for name in names if name in present]
    joint = Joint.of([present[name] for name in names], clusters, unit="token", **shared)
    partial = {}
    for link, (x, y, held) in _PARTIAL_LINKS.items():
        there = {x, y, *held} <= set(names)
        value = joint.correlation(names.index(x), names.index(y), list(map(names.index, held))) if there else _UNKNOWN
        partial[link] = _rounded(interval_dict(value))
    links = [link.as_dict() for link in chain_links(columns, clusters, **shared)]
    return {
        "chain": {link["link"]: _rounded({key: link[key] for key in ("value", "low", "high")}) for link in links},
        "chain_partial": partial,
        "controls": {
            name: {key: _rounded(value) for key, value in entry.items()}
            for name, entry in controls(columns, clusters, ids, **shared).items()
        },
    }


_UNKNOWN = Correlation(math.nan, math.nan, math.nan, 0, math.nan, "spearman", 0.95)


def _number(value: Any) -> float | None:
    """Return a number that JSON can hold, to six decimals; NaN becomes None."""
    return None if math.isnan(float(value)) else round(float(value), 6)


def _rounded(interval: Mapping[str, float | None]) -> dict[str, float | None]:
    return {key: None if value is None else _number(value) for key, value in interval.items()}
