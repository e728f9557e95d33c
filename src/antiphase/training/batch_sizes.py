"""Keeps the sizes of a run's batches in its checkpoints, and compares them when the run is continued.

Four numbers decide which prompts each optimizer step trains on; `_WORDS` lists them. A run that continues must have
the same four numbers. How a step's rollouts are divided among processes and gradient accumulation steps may change, so
a run can go on with fewer or more devices.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError

# What each number is, in words.
_WORDS = {
    "rollouts_of_step": "the number of rollouts that an optimizer step trains on",
    "generation_batch_size": "the number of rollouts that are generated together (generation_batch_size)",
    "num_generations": "the number of rollouts of each prompt (num_generations)",
    "num_iterations": "how often a step trains on the same rollouts (num_iterations)",
}


def batch_sizes(args: Any) -> dict[str, int]:
    """Return a mapping from names to the four batch sizes that must stay the same when a run is continued.

    Numbers of rollouts count the rollouts of all processes together. `_WORDS` says what each of the four numbers is.

    Args:
        args: the trainer's arguments.
    """
    sizes = {name: int(getattr(args, name)) for name in _WORDS if name != "rollouts_of_step"}
    step = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    return {"rollouts_of_step": int(step), **sizes}


def check_batch_sizes(folder: Path, before: Mapping[str, int], args: Any) -> None:
    """Raise InvalidInputError if a run that continues has other batch sizes than the run that wrote the checkpoint.

    Args:
        folder: the checkpoint.
        before: the batch sizes that the checkpoint holds. A checkpoint of an early version of antiphase holds none;
            then nothing is compared.
        args: the trainer's arguments of the run that continues.
    """
    now = batch_sizes(args)
    differing = [name for name in now if name in before and before[name] != now[name]]
    if differing:
        shown = "; ".join(f"{_WORDS[name]} was {before[name]}, is {now[name]}" for name in differing)
        raise InvalidInputError(
            f"{str(folder)!r} holds a checkpoint of other batches, so it cannot be continued: {shown}. With other "
            "batches, the prompts would come in another order, and some would come twice or never. Now there are "
            f"{args.world_size} process{'es' * (args.world_size != 1)} × per_device_train_batch_size "
            f"{args.per_device_train_batch_size} × gradient_accumulation_steps {args.gradient_accumulation_steps}. "
            "These three may change if their product stays. To train on with other batches, pass the checkpoint as "
            "the model of a new run."
        )
