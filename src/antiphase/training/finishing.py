"""Finishes a run of `antiphase train`: saves the whole model, also if the run was killed after its last step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from antiphase.training.heldout import HeldOutCallback
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trajectory import read_trajectory


def load_finished(trainer: Any, checkpoint: Path, heldout: HeldOutCallback | None) -> None:
    """Load the model of a run that was killed after its last step. Evaluate it if the last evaluation is missing.

    Args:
        trainer: the trainer, which has not trained yet.
        checkpoint: the checkpoint of the last step.
        heldout: the callback that evaluates the policy; None if the run has no held-out problems.
    """
    trainer.clock.start()
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    trainer.watch.restore(trainer.state.stateful_callbacks["Watch"]["attributes"])
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # Only TRL's `train` spreads the model over the processes, and lets each of them load its part.
        with contextlib.suppress(_Prepared), _stopped_at_the_beginning(trainer):
            super(CorRPOTrainer, trainer).train(str(checkpoint))
    else:
        trainer._load_from_checkpoint(str(checkpoint))
    step = trainer.state.global_step
    # The main process may still be writing to the trajectory.
    trainer.accelerator.wait_for_everyone()
    done = any(row["kind"] == "eval" and row["step"] == step for row in read_trajectory(trainer.trajectory.folder))
    if heldout is not None and not done:
        heldout.evaluate(step, track=False)
        trainer.times.finish()


def save_whole(trainer: Any) -> None:
    """Save the model in one piece, even where FSDP 2 would save a shard for each process."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()


class _Prepared(Exception):  # noqa: N818
    """Exception that ends `trainer.train` as soon as the model is prepared and loaded. It reports no failure."""


class _Stop(TrainerCallback):  # type: ignore[misc]
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the training before its first step."""
        raise _Prepared


@contextlib.contextmanager
def _stopped_at_the_beginning(trainer: Any) -> Iterator[None]:
    """Make `trainer.train` raise `_Prepared` before its first step, inside the `with` block.

    transformers would train at least one step, even from the checkpoint of the last step. The exception prevents this.
    """
    stop = _Stop()
    trainer.add_callback(stop)
    try:
        yield
    finally:
        trainer.remove_callback(stop)
