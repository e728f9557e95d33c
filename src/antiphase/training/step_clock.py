"""Measures how long each part of a training takes: the class `StepClock`, and the trainer `TimedTrainer` that uses it.

`antiphase.inversion.step_times` lists the parts, such as generation, measuring and update. At each moment exactly one
part is running, so the times of the parts add up to the whole time. TRL's own timers (`trl.extras.profiling`) are not
used here. They overlap, leave out the update, and send their times only to some trackers.

The clock does not wait for a GPU. Generation, rewards and measuring end with values on the CPU, so their times are
right. The last kernels of an update may still run when the next part begins. Their time is then added to the time of
the next part.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer

from antiphase.inversion.step_times import BETWEEN_STEPS, PARTS, PREFIX
from antiphase.training.trajectory import TIMES, Trajectory, begin_once


class StepClock:
    """A stopwatch that measures the time of each part of a training.

    A part can run inside another part. While the inner part runs, the clock of the outer part stands still.
    Evaluation, saving and logging, which happen between steps, are an exception: their times include all parts that
    run inside them.

    Args:
        now: a function that returns the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.start()

    def start(self) -> None:
        """Set all times to 0, and begin the part `other`."""
        self._running: list[str] = ["other"]
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = self.now()

    @property
    def running(self) -> str:
        """The name of the part that is running."""
        return self._running[-1]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a `with` block to the time of a part. After the block, the part that ran before goes on."""
        self._switch()
        self._running.append(self.running if self.running in BETWEEN_STEPS else name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def go_on_with(self, name: str) -> None:
        """Make `name` the part that runs from now on, except inside the `with` blocks of the method `part`."""
        self._switch()
        self._running[0] = name

    def lap(self) -> dict[str, float]:
        """Return a mapping from each part's name to its seconds since the last call. Then set all times to 0."""
        self._switch()
        seconds, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return seconds

    def _switch(self) -> None:
        """Add the time since the last switch to the part that is running."""
        now = self.now()
        self._seconds[self.running] += now - self._since
        self._since = now


def timed(trainer: Any, part: str) -> contextlib.AbstractContextManager[None]:
    """Return a context manager that times the code inside a `with` block.

    The clock of the trainer adds this time to the time of the part. If the trainer has no clock, nothing is timed.
    """
    clock: StepClock | None = vars(trainer).get("clock")
    return contextlib.nullcontext() if clock is None else clock.part(part)


class TimedTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's `GRPOTrainer` whose attribute `clock` measures the time of each part of its steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.clock = StepClock()
        super().__init__(*args, **kwargs)

    def _generate(self, prompts: Any) -> Any:
        with self.clock.part("generation"):
            return super()._generate(prompts)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.part("reward"):
            return super()._calculate_rewards(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        # TRL calls this in the loss, and for old and reference log-probabilities before the update.
        with self.clock.part("update" if self.clock.running == "update" else "logprobs"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        with self.clock.part("other"):
            return super()._prepare_inputs(generation_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward and backward pass of a micro-batch, and return the loss.

        The part `update` begins here, and ends when the optimizer has made its step.
        """
        with self.clock.part("update"):
            loss = super().training_step(*args, **kwargs)
        # The optimizer's step follows. `StepTimes` ends the update.
        self.clock.go_on_with("update")
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Call `transformers.Trainer.evaluate`, and measure its time as the part `evaluation`."""
        with self.clock.part("evaluation"):
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.part("saving"):
            return super()._save_checkpoint(*args, **kwargs)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Call TRL's method `log`, and measure its time as the part `logging`."""
        with self.clock.part("logging"):
            super().log(*args, **kwargs)


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Callback that writes the file `times.jsonl` in the run's folder: how long each part of each step took.

    Args:
        trainer: the trainer whose clock is read.
    """

    def __init__(self, trainer: TimedTrainer) -> None:
        self.trainer, self.trajectory = trainer, Trajectory(Path(trainer.args.output_dir), TIMES)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the file, or continue it. Write a row with the times before the first step, with `num_steps` 0."""
        if state.is_world_process_zero:
            begin_once(self.trajectory, state)
        self._write(state.global_step, 0)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the part `update`, since the optimizer has made its step."""
        self.trainer.clock.go_on_with("other")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write and log the times of the step that ends. The next step begins here."""
        for name, value in self._write(state.global_step - 1, 1).items():
            self.trainer._metrics["train"][name].append(value)

    def finish(self) -> None:
        """Write a row with the times after the last step, such as that of an evaluation, with `num_steps` 0."""
        self._write(self.trainer.state.global_step, 0)

    def _write(self, step: int, num_steps: int) -> dict[str, float]:
        seconds = {PREFIX + part: value for part, value in self.trainer.clock.lap().items()}
        if self.trainer.accelerator.is_main_process:
            self.trajectory.append("time", step, {"num_steps": num_steps, **seconds})
        return seconds
