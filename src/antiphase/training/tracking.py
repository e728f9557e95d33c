"""Logs antiphase's own numbers to the trainer's history and its trackers (TensorBoard, W&B, trackio)."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer


def log_numbers(trainer: Any, control: Any, values: Mapping[str, Any]) -> None:
    """Log numbers at the current step. The host's own log line of this step stays as it would be.

    TRL's `log` would empty the metrics that it is collecting, so transformers' `log` is called. Either of them clears
    the request for the step's own log line, which is therefore put back.
    """
    asked = control.should_log
    Trainer.log(trainer, {key: value for key, value in values.items() if not isinstance(value, str)})
    control.should_log = asked
