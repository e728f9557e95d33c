"""Adds antiphase's scores and metrics of a batch to TRL's logs: to its table of completions and to its metrics."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from antiphase.scores import RolloutScores
from antiphase.training.batch_checks import COLUMNS, check_columns_of, check_lengths, check_metrics


def log_columns(trainer: Any, scores: RolloutScores) -> None:
    """Add antiphase's columns, which hold the scores of each rollout, to TRL's table of completions.

    `COLUMNS` lists the columns. An undefined score becomes None.

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
        metrics: a mapping from the name of each metric to its value over the rollouts of all processes.

    Raises:
        InvalidInputError: a reward function logged a metric of the same name.
    """
    check_metrics(trainer._pending_metrics, metrics)
    kept = trainer._metrics["train" if trainer.model.training else "eval"]
    for name, value in metrics.items():
        kept[name].append(value)


def mean_over_processes(logged: Mapping[str, float], gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return a mapping from the name of each metric to its mean over the processes that logged it.

    All processes call this function together. A process logs only the metrics of its own rollouts, so processes may
    log different metrics, or none.

    Args:
        logged: the metrics that the reward functions of this process logged for the batch.
        gather: a function that takes this process's tensor, and returns the tensors of all processes joined along the
            first axis.
    """
    names = sorted(set(gather_object(list(logged))))
    if not names:
        return {}
    values = gather(torch.tensor([[logged.get(name, math.nan) for name in names]]))
    return dict(zip(names, values.nanmean(0).tolist(), strict=True))
