"""Checks that the installed TRL has the methods and attributes that `CorRPOTrainer` relies on.

TRL runs the training, and `CorRPOTrainer` overrides some of its methods. The checks run when the trainer is
built.
"""

import inspect
from typing import Any

from antiphase.errors import UnsupportedModelError

TESTED = "1.16"
# Every method of TRL that the trainer overrides or calls, with the parameters that it must have.
METHODS: dict[str, tuple[str, ...]] = {
    "_generate": ("self", "prompts"),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "log": ("self", "logs", "start_time"),
    "training_step": ("self", "model", "inputs", "num_items_in_batch"),
    "_prepare_inputs": ("self", "generation_batch"),
    "_save_checkpoint": ("self", "model", "trial"),
}
PARAMETERS = ("model", "reward_funcs", "args", "reward_processing_classes")
ATTRIBUTES = (
    "reward_funcs",
    "reward_func_names",
    "reward_weights",
    "reward_processing_classes",
    "num_generations",
    "num_generations_eval",
    "eos_token_ids",
    "_metrics",
    "_logs",
    "_pending_extra_logs",
    "_pending_metrics",
    "log_completions",
    "rollout_func",
)


class HostError(UnsupportedModelError):
    """Error for an installed TRL that lacks something that antiphase needs, or behaves differently than expected."""


def _advice() -> str:
    from importlib import metadata

    return (
        f"antiphase is tested with TRL {TESTED}, found {metadata.version('trl')}. Install the tested one: "
        "pip install 'antiphase[train]'."
    )


def check_host(trainer_class: type[Any]) -> None:
    """Check that TRL's trainer has the methods in `METHODS`, with the parameters that are listed there.

    Args:
        trainer_class: TRL's trainer.

    Raises:
        HostError: a method is missing or takes other parameters, or the constructor lacks one of `PARAMETERS`.
    """
    for name, expected in METHODS.items():
        method = getattr(trainer_class, name, None)
        if method is None:
            raise HostError(f"TRL's {trainer_class.__name__} has no method {name}. {_advice()}")
        found = tuple(inspect.signature(method).parameters)
        if found != expected:
            raise HostError(
                f"TRL's {trainer_class.__name__}.{name} takes ({', '.join(found)}), expected ({', '.join(expected)}). "
                f"{_advice()}"
            )
    parameters = inspect.signature(trainer_class.__init__).parameters
    for name in PARAMETERS:
        if name not in parameters:
            raise HostError(f"TRL's {trainer_class.__name__} has no parameter {name}. {_advice()}")


def check_instance(trainer: Any) -> None:
    """Check that a constructed trainer has the attributes in `ATTRIBUTES`, which antiphase reads later.

    Raises:
        HostError: an attribute is missing.
    """
    for name in ATTRIBUTES:
        if name not in vars(trainer):
            raise HostError(f"TRL's trainer has no attribute {name}. {_advice()}")
    if not {"train", "eval"} <= set(trainer._metrics):
        raise HostError(f"TRL's trainer keeps no metrics of 'train' and 'eval'. {_advice()}")
