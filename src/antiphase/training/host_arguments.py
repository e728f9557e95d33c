"""Makes the arguments of TRL's `GRPOTrainer` from those of `CorRPOTrainer`, and adds the inversion reward to them."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from trl import GRPOTrainer

from antiphase.training.checks import check_classes, check_columns, check_functions
from antiphase.training.reward_functions import checked
from antiphase.training.trainer_config import CorRPOConfig


def host_arguments(
    trainer: Any,
    model: Any,
    reward_funcs: Any,
    args: CorRPOConfig,
    positional: Sequence[Any],
    named: Mapping[str, Any],
) -> inspect.BoundArguments:
    """Return the arguments with which the constructor of TRL's `GRPOTrainer` is called.

    The trainer's method `inversion` becomes the last reward function, with the weight 0. Every other reward function
    is wrapped, so that its values are checked at every call.

    Args:
        trainer: the `CorRPOTrainer` that is being constructed.
        model: the model or its name.
        reward_funcs: one reward function, several of them, or None.
        args: the trainer's configuration, which is not changed.
        positional, named: the other arguments of `GRPOTrainer`, as positional arguments or as keyword arguments.

    Raises:
        InvalidInputError: arguments do not fit together.
    """
    functions = [] if reward_funcs is None else reward_funcs
    functions = list(functions) if isinstance(functions, list | tuple) else [functions]
    check_functions(functions, args)
    host_args = copy.copy(args)
    if args.reward_weights is not None:
        host_args.reward_weights = [*args.reward_weights, 0.0]
    bound = inspect.signature(GRPOTrainer.__init__).bind(
        trainer,
        model,
        [*(checked(function, lambda: trainer._reader) for function in functions), trainer.inversion],
        host_args,
        *positional,
        **named,
    )
    check_columns(bound.arguments, functions)
    classes = bound.arguments.get("reward_processing_classes")
    if classes is not None:
        classes = classes if isinstance(classes, list) else [classes]
        check_classes(classes, len(functions))
        bound.arguments["reward_processing_classes"] = [*classes, None]
    return bound
