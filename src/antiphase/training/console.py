"""Prints the progress lines of `antiphase train`, and stops a training on Ctrl-C or SIGTERM with a checkpoint."""

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from antiphase.inversion.alarm import SAMPLED_ACCURACY


def _number(logs: dict[str, Any], key: str, form: str) -> str:
    value = logs.get(key)
    return "–" if value is None or not math.isfinite(float(value)) else format(float(value), form)


def time_left(seconds: float) -> str:
    """Return a duration as text, such as `2 h 05 min`, `12 min` or `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class ConsoleCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that prints a line for each log of the trainer.

    The line holds the accuracy, the means of inversion ι, entropy and completion length, the weight λ of inversion,
    the time of a step and the time left.
    """

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self.write = write or (lambda line: print(line, flush=True))
        self._began, self._first = 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock at the first step, after the evaluation of the untrained policy."""
        if not self._began:
            self._began, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Print a line for this log, if the log has the metrics of a measured batch."""
        if not state.is_world_process_zero or not logs or "inversion/mean" not in logs:
            return
        done = state.global_step - self._first
        each = (time.monotonic() - self._began) / max(done, 1)
        undefined = float(logs.get("inversion/undefined") or 0.0)
        # Dynamic sampling chooses the batch by its rewards, so the accuracy of the batch would mislead.
        accuracy = SAMPLED_ACCURACY if SAMPLED_ACCURACY in logs else "task/accuracy"
        self.write(
            f"step {state.global_step}/{state.max_steps}: accuracy {_number(logs, accuracy, '.3f')}, "
            f"inversion {_number(logs, 'inversion/mean', '+.3f')}"
            + (f" ({undefined:.0%} undefined)" if undefined else "")
            + f", entropy {_number(logs, 'rollout/entropy', '.2f')}, length {_number(logs, 'rollout/length', '.0f')}, "
            f"λ {_number(logs, 'inversion/weight', '.3g')}; {each:.1f} s a step "
            f"(measuring {_number(logs, 'inversion/seconds', '.1f')} s), "
            f"{time_left(each * (state.max_steps - state.global_step))} left"
        )


class Interruption(TrainerCallback):  # type: ignore[misc]
    """Callback that stops a training on Ctrl-C or SIGTERM.

    At the first signal, the present step is finished, a checkpoint is saved, and the training stops. At the second
    signal, the training stops at once.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.asked = False
        self.stopped = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        # Python handles signals in the main thread alone. In another thread, the caller must handle them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Let the trainer save a checkpoint and stop, if any process got a signal."""
        asked = self.asked
        if self.accelerator.num_processes > 1:
            flag = torch.tensor([float(asked)], device=self.accelerator.device)
            asked = bool(self.accelerator.gather(flag).sum() > 0)
        if asked and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True
        return control
