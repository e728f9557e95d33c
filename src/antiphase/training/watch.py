"""The callback of `CorRPOTrainer` that writes the trajectory, and raises an alarm when the training collapses.

The alarm is raised when a training shows a sign of collapse; see `collapse_signs`. The callback's state, such as the
latest metrics, is part of each checkpoint.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from antiphase.inversion.alarm import ACCURACY, INVERSION, SAMPLED_ACCURACY, WATCHED, Sign, collapse_signs
from antiphase.training.batch_sizes import batch_sizes
from antiphase.training.trainer_config import OWN_FIELDS, CorRPOConfig
from antiphase.training.trajectory import Trajectory, begin_once


class CollapseWarning(UserWarning):
    """Warning that a training shows a sign of collapse, such as completions that become much shorter."""


class Watch(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Callback that writes the metrics of each batch to the run's trajectory, and raises the collapse alarm.

    Args:
        trajectory: the file to which the metrics are written.
        config: the trainer's arguments.
    """

    def __init__(self, trajectory: Trajectory, config: CorRPOConfig) -> None:
        self.trajectory = trajectory
        self.config = config
        self.dropped = False
        self.stopped = False
        self.alarms: list[int] = []
        # By sign, the number of batches before it may raise the alarm again.
        self.quiet: dict[str, int] = {}
        self.history: dict[str, list[float]] = {}

    def state(self) -> dict[str, Any]:
        """Return the callback's state, which each checkpoint holds in its trainer_state.json."""
        attributes = {
            "settings": {name: getattr(self.config, name) for name in OWN_FIELDS},
            "batches": batch_sizes(self.config),
            "dropped": self.dropped,
            "alarms": self.alarms,
            "quiet": self.quiet,
            "history": self.history,
        }
        return {"args": {}, "attributes": attributes}

    def restore(self, attributes: Mapping[str, Any]) -> None:
        """Take over the state that a checkpoint holds.

        Args:
            attributes: the entry `attributes` of the state that `state` returned when the checkpoint was saved. The
                state of the first version of antiphase, which had fewer metrics and one alarm sign, can be read too.
        """
        self.dropped, self.alarms = bool(attributes["dropped"]), list(attributes["alarms"])
        quiet = attributes["quiet"]
        self.quiet = dict(quiet) if isinstance(quiet, Mapping) else {"accuracy": int(quiet)}
        history = attributes.get("history")
        if history is None:
            history = {INVERSION: attributes["inversion"], ACCURACY: attributes["accuracy"]}
        self.history = {name: list(values) for name, values in history.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the trajectory file, or continue it after a checkpoint."""
        if state.is_world_process_zero:
            begin_once(self.trajectory, state)

    def step(self, step: int, metrics: Mapping[str, float], is_main_process: bool) -> None:
        """Write a batch's metrics to the trajectory. Raise the alarm if the last batches show a sign of collapse."""
        if is_main_process:
            self.trajectory.append("step", step, metrics)
        window = self.config.inversion_alarm_window
        seen = {**metrics, ACCURACY: metrics.get(SAMPLED_ACCURACY, metrics.get(ACCURACY, math.nan))}
        for name in WATCHED:
            self.history[name] = [*self.history.get(name, ()), seen.get(name, math.nan)][-window:]
        self.quiet = {name: left - 1 for name, left in self.quiet.items() if left > 1}
        if self.config.inversion_alarm == "off":
            return
        signs = [sign for sign in collapse_signs(self.history, window) if sign.name not in self.quiet]
        if not signs:
            return
        self.quiet |= {sign.name: window for sign in signs}
        self.alarms.append(step)
        self._raise(step, window, signs, is_main_process)

    def _raise(self, step: int, window: int, signs: Sequence[Sign], is_main_process: bool) -> None:
        action = self.config.inversion_alarm
        done = {"warn": "Training goes on", "stop": "Training stops", "drop": "λ is 0 from now on"}[action]
        self.dropped |= action == "drop"
        self.stopped |= action == "stop"
        if is_main_process:
            text = "; ".join(sign.text for sign in signs)
            names = [sign.name for sign in signs]
            self.trajectory.append(
                "alarm", step, {"window": window, "action": action, "signs": names, "message": text}
            )
            warnings.warn(
                f"step {step}: {text}, over the last {window} batches. {done} (inversion_alarm='{action}').",
                CollapseWarning,
                stacklevel=2,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Stop the training if the collapse alarm has asked for it."""
        if self.stopped:
            control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **_: Any) -> None:
        """Write the metrics of one of TRL's own evaluations to the trajectory."""
        if state.is_world_process_zero:
            numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
            self.trajectory.append("eval", state.global_step, numbers)
