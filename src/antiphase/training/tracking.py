"""Logs antiphase's own numbers to the trainer's history and its trackers (TensorBoard, W&B, trackio)."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer


def log_numbers(trainer: Any, control: Any, values: Mapping[str, Any]) -> None:
    """Log numbers at the current step, without changing the trainer's own log line of this step.

    The method `log` of transformers is called, because TRL's method `log` would also empty the metrics that TRL is
    collecting. Either method clears the request for the step's own log line, so the request is set again.

    Args:
        trainer: the trainer.
        control: the trainer's control object, which holds the request.
        values: the numbers by name. Texts among them are not logged.
    """
    asked = control.should_log
    Trainer.log(trainer, {key: value for key, value in values.items() if not isinstance(value, str)})
    control.should_log = asked
