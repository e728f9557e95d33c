"""Puts antiphase's numbers of a batch into what TRL logs: its table of completions, and its metrics."""

import math
from collections.abc import Mapping
from typing import Any

from antiphase.scores import RolloutScores
from antiphase.training.batch_checks import COLUMNS, check_columns_of, check_lengths, check_metrics


def log_columns(trainer: Any, scores: RolloutScores) -> None:
    """Add antiphase's columns (`COLUMNS`) to TRL's table of completions; an undefined number becomes None.

    Args:
        trainer: TRL's trainer. Its reward functions have scored the batch.
        scores: the scores of the rollouts of this process.

    Raises:
        InvalidInputError: a reward function logged a column of the same name, or a column that does not have one
            value for each rollout.
    """
    check_columns_of(trainer._pending_extra_logs)
    check_lengths(trainer._pending_extra_logs, len(scores.inversion))
    for name in COLUMNS:
        values = getattr(scores, name).tolist()
        trainer._pending_extra_logs[name] = [value if math.isfinite(value) else None for value in values]


def log_metrics(trainer: Any, metrics: Mapping[str, float]) -> None:
    """Add the metrics of a batch to TRL's metrics.

    They are added to the metrics of training if the trainer's model is in training mode, else to those of evaluation.

    Args:
        trainer: TRL's trainer.
        metrics: the numbers of the batch by name, of all processes together.

    Raises:
        InvalidInputError: a reward function logged a metric of the same name.
    """
    check_metrics(trainer._pending_metrics, metrics)
    kept = trainer._metrics["train" if trainer.model.training else "eval"]
    for name, value in metrics.items():
        kept[name].append(value)
