"""Logs antiphase's own numbers to the trainer's history and its trackers (TensorBoard, W&B, trackio)."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer


def log_numbers(trainer: Any, control: Any, values: Mapping[str, Any]) -> None:
    """Log numbers at the current step, without a change to the trainer's regular log of this step.

    The method `log` of transformers is called, because TRL's method `log` would also empty the metrics that TRL is
    collecting. Logging clears the flag `control.should_log`, which asks for the regular log, so the flag is set again.

    Args:
        trainer: the trainer.
        control: the trainer's control object, which holds the flag.
        values: a mapping from names to the numbers. Values that are texts are not logged.
    """
    asked = control.should_log
    Trainer.log(trainer, {key: value for key, value in values.items() if not isinstance(value, str)})
    control.should_log = asked
