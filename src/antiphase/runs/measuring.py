"""Measure completed rollouts with every estimator, and return the rows of the run's tables.

`run` calls this module for each batch; `signal_statistics` computes the correlations of the whole run from the tables.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from antiphase.data.prompt_rendering import tokenizer_digest
from antiphase.models.architecture import left_out
from antiphase.models.loading import LoadedModel
from antiphase.models.quantization import quantization_facts
from antiphase.models.weights import weights_digest
from antiphase.progress import Progress
from antiphase.runs.alternatives import alternative_rows
from antiphase.runs.items import Item
from antiphase.runs.parts import Kind
from antiphase.runs.segments import part_column, signals_within
from antiphase.runs.unit_spec import UnitSpec
from antiphase.runs.units import STEP_SCHEMA, step_rows
from antiphase.score_spec import ScoreSpec
from antiphase.scores import rollout_scores
from antiphase.signal_spec import ESTIMATORS, PARTS, UNITS, Part, SignalSpec
from antiphase.signals.chunk import Tick, rows_of
from antiphase.signals.measure import token_signals
from antiphase.statistics.correlation import correlate
from antiphase.steps.assigning import batch_steps
from antiphase.steps.segments import batch_segments, segment_steps
from antiphase.types import MAGNITUDES, TokenBatch, TokenSignals, cell_column


@dataclass(frozen=True)
class Measured:
    """The table rows of some measured rollouts.

    Args:
        tokens: the rows of tokens.parquet.
        rollouts: the rows of rollouts.parquet, with the columns of `ROLLOUT_SCHEMA`.
        steps: the rows of steps.parquet.
        alternatives: the rows of alternatives.parquet (the most probable next tokens); None if no spec asks for them.
    """

    tokens: pd.DataFrame
    rollouts: list[dict[str, Any]]
    steps: pa.Table
    alternatives: pa.Table | None

    def tables(self) -> dict[Kind, pa.Table]:
        """Return a mapping from the name of each table to its rows, as an Arrow table."""
        found: dict[Kind, pa.Table] = {
            "tokens": pa.Table.from_pandas(self.tokens, preserve_index=False),
            "steps": self.steps,
            "rollouts": pa.Table.from_pylist(self.rollouts, schema=ROLLOUT_SCHEMA),
        }
        return found if self.alternatives is None else {**found, "alternatives": self.alternatives}


def measure_items(
    loaded: LoadedModel, items: Sequence[Item], specs: Sequence[SignalSpec], units: UnitSpec, bar: Progress
) -> Measured:
    """Measure completed rollouts with every estimator, and return their rows of the tables.

    Args:
        loaded: the model that is measured.
        items: the rollouts.
        specs: one `SignalSpec` (what is measured, and how) for each estimator. At most one of them asks for
            alternatives (the most probable next tokens).
        units: the options that say what is correlated: tokens, types or steps, and of which part of a rollout.
        bar: the progress bar.
    """
    batch = TokenBatch.from_ids([i.prompt_ids for i in items], [i.completion_ids or () for i in items])
    segments = batch_segments(batch, loaded.tokenizer, units.tags)
    if units.segment == "all":
        numbers = batch_steps(batch, loaded.tokenizer, units.splitter)
    else:
        numbers = segment_steps(batch, segments, loaded.tokenizer, units.splitter)
    tokens, rollouts, steps, alternatives = [], [], [], None
    for spec in specs:
        bar.stage(f"{short_name(loaded)}: measuring ({spec.estimator})", len(items))
        joint = numbers if spec.step_strength == "joint" else None
        total = max(1, sum(int(row.measured.sum()) + row.num_steps for row in rows_of(batch, spec, joint)))
        signals = token_signals(loaded.model, batch, spec, steps=numbers, progress=_advancing(bar, total))
        tokens.append(_token_rows(loaded, items, batch, signals, numbers, segments))
        parts = {part: signals_within(signals, segments == code, numbers) for code, part in enumerate(PARTS)}
        chosen = signals if units.segment == "all" else parts[units.segment]
        rows = _rollout_rows(loaded.name, items, batch, chosen, parts, units)
        owners = [{name: row[name] for name in ("model", "estimator", "prompt_id", "rollout_id")} for row in rows]
        assert signals.steps is not None
        steps += step_rows(owners, signals.steps, numbers)
        rollouts += rows
        if signals.alternatives is not None:
            alternatives = alternative_rows(loaded, items, batch, signals.alternatives)
    bar.end_stage()
    table = pa.Table.from_pylist(steps, schema=STEP_SCHEMA)
    return Measured(pd.concat(tokens, ignore_index=True), rollouts, table, alternatives)


def model_facts(loaded: LoadedModel, prompt_ids: Sequence[int], specs: Sequence[SignalSpec]) -> dict[str, Any]:
    """Return facts about a loaded model for its model.json: revision, device, dtype, quantisation, layers, digests.

    One token is measured with every estimator. So if a model cannot be measured, the run fails here and not after
    hours of generation. The oracles are slow; `full` is measured instead of them.
    """
    prompt = list(prompt_ids)
    batch = TokenBatch.from_ids([prompt if len(prompt) > 1 else prompt * 2], [[prompt[-1]]])
    layers = {}
    for spec in specs:
        tried = dataclasses.replace(spec, estimator="full") if ESTIMATORS[spec.estimator].slow else spec
        steps = torch.where(batch.completion_mask, 0, -1)
        layers[spec.estimator] = list(token_signals(loaded.model, batch, tried, steps=steps).layers)
    missing = left_out(loaded.model)
    return {
        "revision": loaded.revision,
        "device": loaded.devices,
        "dtype": loaded.dtype,
        "layers": layers,
        **({} if loaded.quantization is None else {"quantization": quantization_facts(loaded.quantization)}),
        **({} if missing is None else {"left_out": missing}),
        "weights": weights_digest(loaded.model),
        "tokenizer_sha256": tokenizer_digest(loaded.tokenizer),
    }


_GIVEN = (
    "quantization", "left_out", "num_without_end", "server", "num_retokenised", "num_other_text", "num_other_length",
)  # fmt: skip


def given_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the facts that are used in the notes below a table.

    Args:
        facts: all facts about a model; see `model_facts`.

    Returns:
        The quantisation, the layers left out, the number of rollouts without an end token, and how a server returned
        the rollouts. A fact that is not known is left out.
    """
    return {key: facts[key] for key in _GIVEN if key in facts}


def short_name(loaded: LoadedModel) -> str:
    """Return the name of the model for a progress bar. The beginning of a long name is cut off."""
    return loaded.name if len(loaded.name) <= 28 else f"…{loaded.name[-27:]}"


def _advancing(bar: Progress, total: int) -> Tick:
    return lambda num_targets: bar.advance(num_targets / total)


def _token_rows(
    loaded: LoadedModel,
    items: Sequence[Item],
    batch: TokenBatch,
    signals: TokenSignals,
    numbers: Tensor,
    segments: Tensor,
) -> pd.DataFrame:
    rows, columns = torch.nonzero(batch.completion_mask, as_tuple=True)
    starts = torch.tensor([len(item.prompt_ids) for item in items])
    ids = batch.input_ids[rows, columns].tolist()
    words = {token: str(loaded.tokenizer.decode([token])) for token in set(ids)}
    owners = [items[row] for row in rows.tolist()]
    data: dict[str, Any] = {
        "model": loaded.name,
        "estimator": signals.spec.estimator,
        "prompt_id": [owner.prompt_id for owner in owners],
        "rollout_id": [owner.rollout_id for owner in owners],
        "position": (columns - starts[rows]).to(torch.int32).numpy(),
        "step": numbers[rows, columns].to(torch.int32).numpy(),
        "segment": [PARTS[code] for code in segments[rows, columns].tolist()],
        "token_id": torch.tensor(ids, dtype=torch.int64).numpy(),
        "token": [words[token] for token in ids],
    }
    for name in ("entropy", "logprob", "logprob_control", "impurity", "attention_entropy", "strength"):
        values = getattr(signals, name)
        # An estimator without attention weights has no attention entropy.
        values = torch.full_like(signals.entropy, torch.nan) if values is None else values
        data[name] = values[rows, columns].float().numpy()
    for name in MAGNITUDES:
        data[name] = getattr(signals.magnitudes, name)[rows, columns].float().numpy()
    cells = signals.strength_by_projection[rows, columns].float().numpy()
    for place, layer in enumerate(signals.layers):
        for column, projection in enumerate(signals.spec.projections):
            data[cell_column(layer, projection)] = cells[:, place, column]
    frame = pd.DataFrame(data)
    return frame.astype(dict.fromkeys(("model", "estimator", "prompt_id", "rollout_id", "segment", "token"), "str"))


ROLLOUT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "estimator", "prompt_id", "rollout_id", "prompt", "completion")),
        ("finish", pa.string()),
        *((name, pa.int32()) for name in ("num_prompt_tokens", "num_tokens", "num_measured", "num_steps")),
        *((name, pa.float64()) for name in ("spearman", "spearman_low", "spearman_high", "num_effective", "pearson")),
        *((f"spearman_{unit}", pa.float64()) for unit in UNITS),
        *((part_column(unit, part), pa.float64()) for part in PARTS for unit in UNITS),
        *((name, pa.float64()) for name in ("spearman_step_low", "spearman_step_high", "spearman_given_length")),
        *((name, pa.float64()) for name in ("logprob_control", "shuffled", "entropy_mean", "strength_mean")),
        *((name, pa.float64()) for name in ("logprob_mean", "self_certainty_mean")),
        *((name, pa.float64()) for name in ("impurity_mean", "attention_entropy_mean", "unembedding_norm_mean")),
        ("effective_rank_mean", pa.float64()),
        ("prompt_ids", pa.list_(pa.int64())),
        ("completion_ids", pa.list_(pa.int64())),
    ]
)


def item_columns(model: str, estimator: str, item: Item) -> dict[str, Any]:
    """Return a mapping from columns of rollouts.parquet to the values that are known before a rollout is measured."""
    return {
        "model": model,
        "estimator": estimator,
        "prompt_id": item.prompt_id,
        "rollout_id": item.rollout_id,
        "prompt": item.prompt,
        "completion": item.completion,
        "finish": item.finish,
        "num_prompt_tokens": len(item.prompt_ids),
        "num_tokens": len(item.completion_ids or ()),
        "prompt_ids": list(item.prompt_ids),
        "completion_ids": list(item.completion_ids or ()),
    }


def _rollout_rows(
    model: str,
    items: Sequence[Item],
    batch: TokenBatch,
    signals: TokenSignals,
    parts: Mapping[Part, TokenSignals],
    units: UnitSpec,
) -> list[dict[str, Any]]:
    """Return the rows of rollouts.parquet, with the correlations of each rollout.

    Args:
        model: the name of the model.
        items: the rollouts.
        batch: their token ids.
        signals: the signals of the tokens that are correlated.
        parts: a mapping from each part of a rollout (thought, answer) to the signals of its tokens alone.
        units: the options that say what is correlated: tokens, types or steps, and of which part of a rollout.
    """
    min_tokens = units.min_tokens
    spearman = correlate(signals, min_tokens=min_tokens)
    over_steps = correlate(signals, unit="step", min_tokens=units.min_steps)
    pearson = correlate(signals, method="pearson", min_tokens=min_tokens)
    control = dataclasses.replace(signals, strength=signals.logprob_control.where(signals.measured, torch.nan))
    controls = correlate(control, min_tokens=min_tokens)
    assert signals.steps is not None
    num_steps = (signals.steps.num_tokens > 0).sum(1)
    spec = ScoreSpec(min_tokens=min_tokens, min_steps=units.min_steps, control="shuffled")
    scores = rollout_scores(signals, batch, spec)
    of_parts = {part: rollout_scores(own, batch, spec).by_unit for part, own in parts.items()}
    lengths = None if signals.magnitudes is None else signals.magnitudes.unembedding_norm
    rows = []
    for index, item in enumerate(items):
        rows.append(
            {
                **item_columns(model, signals.spec.estimator, item),
                "num_measured": int(signals.measured[index].sum()),
                "num_steps": int(num_steps[index]),
                "spearman": spearman[index].value,
                "spearman_low": spearman[index].low,
                "spearman_high": spearman[index].high,
                "num_effective": spearman[index].num_effective,
                "pearson": pearson[index].value,
                **{f"spearman_{unit}": float(scores.by_unit[unit][index]) for unit in UNITS},
                **{part_column(u, part): float(own[u][index]) for part, own in of_parts.items() for u in UNITS},
                "spearman_step_low": over_steps[index].low,
                "spearman_step_high": over_steps[index].high,
                "spearman_given_length": float(scores.given_length[index]),
                "logprob_control": controls[index].value,
                "shuffled": -float(scores.inversion[index]),
                "entropy_mean": float(signals.entropy[index].nanmean()),
                "strength_mean": float(signals.strength[index].nanmean()),
                "logprob_mean": float(signals.logprob[index].nanmean()),
                "self_certainty_mean": float(signals.self_certainty[index].nanmean()),
                "impurity_mean": _mean_of(signals.impurity, index),
                "attention_entropy_mean": _mean_of(signals.attention_entropy, index),
                "unembedding_norm_mean": _mean_of(lengths, index),
                "effective_rank_mean": _mean_of(signals.steps.effective_rank, index),
            }
        )
    return rows


def _mean_of(values: Tensor | None, row: int) -> float:
    """Return the mean of one row of `values`, without its NaN values; NaN if `values` is None (not measured)."""
    return math.nan if values is None else float(values[row].nanmean())
