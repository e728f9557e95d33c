"""Numbers of our own for the trainer's log history and its trackers (TensorBoard, W&B, trackio)."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer


def log_numbers(trainer: Any, control: Any, values: Mapping[str, Any]) -> None:
    """Log at the current step, without touching the host's own next log line.

    TRL's `log` would empty the metrics that it is collecting, and any log clears the request for the step's line.
    """
    asked = control.should_log
    Trainer.log(trainer, {key: value for key, value in values.items() if not isinstance(value, str)})
    control.should_log = asked
