"""The callback of `CorRPOTrainer`: it writes the trajectory, raises the collapse alarm, and keeps its own state.

The alarm is raised when inversion rises while task accuracy falls. The state is part of each checkpoint.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from antiphase.inversion.alarm import collapsing
from antiphase.training.batch_sizes import batch_sizes
from antiphase.training.trainer_config import OWN_FIELDS, CorRPOConfig
from antiphase.training.trajectory import Trajectory, begin_once


class CollapseWarning(UserWarning):
    """Warning that inversion rises while task accuracy falls."""


class Watch(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Callback that writes the measured batches of a run to its trajectory, and raises the collapse alarm.

    Args:
        trajectory: the rows are written to it.
        config: the trainer's arguments.
    """

    def __init__(self, trajectory: Trajectory, config: CorRPOConfig) -> None:
        self.trajectory = trajectory
        self.config = config
        self.dropped = False
        self.stopped = False
        self.alarms: list[int] = []
        # Number of batches before the alarm may be raised again.
        self.quiet = 0
        self.inversion: list[float] = []
        self.accuracy: list[float] = []

    def state(self) -> dict[str, Any]:
        """Return the state that trainer_state.json holds in each checkpoint."""
        attributes = {
            "settings": {name: getattr(self.config, name) for name in OWN_FIELDS},
            "batches": batch_sizes(self.config),
            "dropped": self.dropped,
            "alarms": self.alarms,
            "quiet": self.quiet,
            "inversion": self.inversion,
            "accuracy": self.accuracy,
        }
        return {"args": {}, "attributes": attributes}

    def restore(self, attributes: Mapping[str, Any]) -> None:
        """Set the state to that of a checkpoint."""
        self.dropped, self.quiet = bool(attributes["dropped"]), int(attributes["quiet"])
        for name in ("alarms", "inversion", "accuracy"):
            setattr(self, name, list(attributes[name]))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the trajectory, or continue it."""
        if state.is_world_process_zero:
            begin_once(self.trajectory, state)

    def step(self, step: int, metrics: Mapping[str, float], is_main_process: bool) -> None:
        """Write the row of a measured batch, and raise the alarm if inversion rises while accuracy falls."""
        if is_main_process:
            self.trajectory.append("step", step, metrics)
        window = self.config.inversion_alarm_window
        self.inversion = [*self.inversion, metrics["inversion/mean"]][-window:]
        self.accuracy = [*self.accuracy, metrics["task/accuracy"]][-window:]
        self.quiet -= 1
        if self.config.inversion_alarm == "off" or not collapsing(self.inversion, self.accuracy, window):
            return
        if self.quiet > 0:
            return
        self.quiet = window
        self.alarms.append(step)
        self._raise(step, window, is_main_process)

    def _raise(self, step: int, window: int, is_main_process: bool) -> None:
        action = self.config.inversion_alarm
        done = {"warn": "Training goes on", "stop": "Training stops", "drop": "λ is 0 from now on"}[action]
        self.dropped |= action == "drop"
        self.stopped |= action == "stop"
        if is_main_process:
            self.trajectory.append("alarm", step, {"window": window, "action": action})
            warnings.warn(
                f"step {step}: inversion rose while task accuracy fell over the last {window} batches. {done} "
                f"(inversion_alarm='{action}').",
                CollapseWarning,
                stacklevel=2,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Stop the training if the alarm stopped it."""
        if self.stopped:
            control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **_: Any) -> None:
        """Write the metrics of an evaluation by TRL to the trajectory."""
        if state.is_world_process_zero:
            numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
            self.trajectory.append("eval", state.global_step, numbers)
