"""Verify and measure a batch of completed rollouts, and make tables of the results.

The signals are measured on the token ids that were sampled, in the same way as in `antiphase probe`.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from antiphase.evaluation.evaluation_config import NO_SIGNALS
from antiphase.evaluation.plan import GREEDY, ProblemBatch
from antiphase.models.loading import LoadedModel
from antiphase.progress import Progress
from antiphase.runs.items import Item
from antiphase.runs.measuring import ROLLOUT_SCHEMA, item_columns, measure_items
from antiphase.runs.parts import Kind
from antiphase.runs.unit_spec import UnitSpec
from antiphase.signal_spec import SignalSpec
from antiphase.steps.thoughts import completion_text
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.strict_flexible import strict_and_flexible
from antiphase.tasks.verdict import NO_ANSWER, answer_part

SCHEMA = pa.schema(
    [
        *ROLLOUT_SCHEMA,
        *((name, pa.string()) for name in ("task", "problem_id", "reference", "answer", "outcome", "reason")),
        ("sample", pa.int32()),
        *((name, pa.bool_()) for name in ("greedy", "correct", "well_formed", "strict", "flexible")),
    ]
)


def score_batch(
    batch: ProblemBatch,
    loaded: LoadedModel,
    specs: Sequence[SignalSpec],
    pool: VerifierPool,
    bar: Progress,
    *,
    units: UnitSpec,
    timeout: float,
    by_projection: bool = False,
) -> dict[Kind, pa.Table]:
    """Verify and measure completed rollouts, and return their rows of the tables tokens, steps and rollouts.

    Args:
        batch: the completed rollouts.
        loaded: the model that measures.
        specs: what to measure, one spec for each estimator. If empty, nothing is measured.
        pool: the processes that verify the completions.
        bar: the progress bar.
        units: the options of the units (types, tokens, steps) over which entropy and strength are correlated.
        timeout: the seconds that one verification may take. If it takes longer, the completion counts as wrong.
        by_projection: whether to keep the strength of every layer and projection.
    """
    items = batch.items
    texts = [
        completion_text(loaded.tokenizer, item.completion_ids or (), item.prompt_ids, pool.tags) for item in items
    ]
    verdicts = pool.check(
        list(zip(texts, batch.problems, strict=True)), timeout, finishes=[item.finish for item in items]
    )
    said = [answer_part(batch.plan.task, text, pool.tags) or "" for text in texts]
    judged = {}
    for place, item in enumerate(items):
        problem, verdict = batch.problems[place], verdicts[place]
        scores = strict_and_flexible(batch.plan.task, said[place], problem, correct=verdict.correct)
        judged[item.rollout_id] = {
            "task": batch.plan.task.spec,
            "problem_id": problem.problem_id,
            "reference": problem.answer,
            # A completion without an answer has no vote in maj@k.
            "answer": None if verdict.outcome in NO_ANSWER else batch.plan.task.extracted(said[place], problem),
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "sample": batch.samples[place],
            "greedy": batch.samples[place] == GREEDY,
            "correct": verdict.correct,
            "well_formed": batch.plan.task.well_formed(said[place], problem),
            "strict": scores.strict,
            "flexible": scores.flexible,
        }
    if specs:
        measured = measure_items(loaded, items, specs, units, bar)
        tokens, rows = measured.tokens, measured.rollouts
        if not by_projection:
            tokens = tokens[[name for name in tokens.columns if not name.startswith("strength_L")]]
        task = pd.Series(batch.plan.task.spec, index=tokens.index, dtype="str", name="task")
        tokens = pd.concat([tokens.iloc[:, :2], task, tokens.iloc[:, 2:]], axis=1)
        name = pa.array([batch.plan.task.spec] * len(measured.steps), pa.string())
        steps = measured.steps.add_column(2, "task", name)
    else:
        steps = pa.table({name: pa.array([], pa.string()) for name in ("model", "estimator", "task")})
        tokens = pd.DataFrame({name: pd.Series(dtype="str") for name in ("model", "estimator", "task")})
        rows = [_unmeasured(loaded.name, item) for item in items]
    table = pa.Table.from_pylist([{**row, **judged[row["rollout_id"]]} for row in rows], schema=SCHEMA)
    return {"tokens": pa.Table.from_pandas(tokens, preserve_index=False), "steps": steps, "rollouts": table}


def _unmeasured(model: str, item: Item) -> dict[str, Any]:
    """Return the row of a rollout whose signals are not measured, with NaN for every signal."""
    known = {**item_columns(model, NO_SIGNALS, item), "num_measured": 0, "num_steps": None}
    return {field.name: known.get(field.name, math.nan) for field in ROLLOUT_SCHEMA}
