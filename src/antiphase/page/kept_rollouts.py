"""Make what a page shows of the rollouts that a training kept (docs/files.md, `kept_rollouts/`).

The result is one `Subject` with the rollouts of all optimizer steps at which rollouts were kept. The policy changes
from step to step, so the page ranks tokens within one step, and shows the rollouts of one step at a time.
"""

from typing import Any

import numpy as np
import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.page.document import Steps, Subject
from antiphase.page.spacing import spaces_before

# Numbers of a rollout that the page shows, by their columns. The page reads an undefined one as `undefined`.
NUMBERS = ("task_reward", "weight", "reward", "advantage", "inversion", "correlation")
_BY_UNIT = {
    "spearman_type": "correlation_type",
    "spearman_step": "correlation_step",
    "spearman_given_length": "correlation_given_length",
}


def kept_subject(label: str, kept: pd.DataFrame) -> Subject:
    """Return the kept rollouts of a training run as a `Subject` (what the page shows of a model).

    The summary of a training has no correlations of these rollouts, so the `readings` of the subject are empty.

    Args:
        label: the name of the run.
        kept: the rows of the kept rollouts, in the order of their steps; at least one.

    Raises:
        InvalidInputError: the numbers of tokens and of signals of a rollout differ.
    """
    lengths = kept.num_tokens.to_numpy(dtype=np.int64)
    starts = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    columns = {name: _joined(label, kept, name, lengths) for name in ("tokens", "entropy", "logprob", "strength")}
    estimator = str(kept.estimator.iloc[0])
    strength = columns["strength"].astype(np.float32)
    correlations = {name: _numbers(kept, name) for name in ("correlation_token", *_BY_UNIT.values())}
    by_unit = {name: {estimator: correlations[column]} for name, column in _BY_UNIT.items()}
    if np.isnan(strength).all():
        # Only the strengths of steps were measured, so there is no ρ over tokens or types.
        del by_unit["spearman_type"]
    rollouts = kept[["rollout_id", "prompt_id", "prompt", "finish", "num_tokens", "num_thought_tokens"]]
    facts: Any = [_facts(row) for row in kept.to_dict("records")]
    texts = columns["tokens"].tolist()
    spaced = np.zeros(len(texts), dtype=bool)
    for row, completion in enumerate(kept.completion.tolist()):
        low, high = int(starts[row]), int(starts[row + 1])
        spaced[low:high] = spaces_before(str(completion), texts[low:high])
    return Subject(
        label=label,
        run=0,
        readings=[],
        rollouts=rollouts.assign(kept=facts).reset_index(drop=True),
        correlations={estimator: correlations["correlation_token"]},
        shuffled={},
        tokens=pd.DataFrame(
            {
                "token": columns["tokens"],
                "entropy": columns["entropy"].astype(np.float32),
                "logprob": columns["logprob"].astype(np.float32),
                "spaced": spaced,
            }
        ),
        starts=starts,
        strengths={estimator: strength},
        by_unit=by_unit,
        steps=_steps(kept, lengths, estimator),
        reward_unit=str(kept.unit.iloc[-1]),
    )


def _facts(row: dict[Any, Any]) -> dict[str, Any]:
    """Return the training's own numbers of a rollout, such as its rewards, as values for JSON."""
    rewards = dict(row["rewards"]) if row["rewards"] is not None else {}
    return {"step": int(row["step"]), **{name: row[name] for name in NUMBERS}, "rewards": rewards}


def _numbers(kept: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column of the table as numbers, one for each rollout; NaN where undefined."""
    return kept[name].to_numpy(dtype=np.float64)


def _joined(label: str, kept: pd.DataFrame, name: str, lengths: np.ndarray) -> np.ndarray:
    """Join the lists in a column into one array `[token]`. Each list holds the values of one rollout's tokens.

    Raises:
        InvalidInputError: a list does not have as many values as its rollout has tokens.
    """
    values = kept[name].tolist()
    if [len(own) for own in values] != lengths.tolist():
        raise InvalidInputError(
            f"{label}: the column {name} does not have one value for each token of the kept rollouts."
        )
    return np.concatenate([np.asarray(own, dtype=object) for own in values]) if values else np.zeros(0, dtype=object)


def _steps(kept: pd.DataFrame, lengths: np.ndarray, estimator: str) -> Steps:
    """Return the steps (sentences) of the kept rollouts. A step ends where the next one begins."""
    begins = [np.asarray(own, dtype=np.int64) for own in kept.step_start]
    counts = np.array([len(own) for own in begins], dtype=np.int64)
    ends = [np.append(own[1:], length)[: len(own)] for own, length in zip(begins, lengths, strict=True)]
    start, end = (np.concatenate([np.zeros(0, dtype=np.int64), *parts]) for parts in (begins, ends))
    signals = [
        np.concatenate([np.zeros(0, dtype=np.float32), *(np.asarray(own, dtype=np.float32) for own in kept[name])])
        for name in ("step_entropy", "step_strength")
    ]
    return Steps(
        starts=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        start=start,
        num_tokens=end - start,
        position=((start + end - 1) / 2).astype(np.float32),
        entropies={estimator: signals[0]},
        strengths={estimator: signals[1]},
    )
