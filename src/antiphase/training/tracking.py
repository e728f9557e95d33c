"""Logs antiphase's own numbers to the trainer's history and its trackers (TensorBoard, W&B, trackio)."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer


def log_numbers(trainer: Any, control: Any, values: Mapping[str, Any]) -> None:
    """Log numbers at the current step, without changing the trainer's own log line of this step.

    The method `log` of transformers is called, since TRL's own would empty the metrics that it is collecting. Both
    clear the request for the step's own log line, so the request is set again.
    """
    asked = control.should_log
    Trainer.log(trainer, {key: value for key, value in values.items() if not isinstance(value, str)})
    control.should_log = asked
