"""Refuses a launcher's settings under which inversion cannot be measured. This module imports no torch and no TRL.

`accelerate launch` and `torchrun` set environment variables, which say how the training is spread over processes. So
these settings are known before a model is loaded. The module `policy` refuses settings that are known only later.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

from antiphase.errors import InvalidInputError, MissingExtraError

FSDP1 = (
    "inversion cannot be measured under FSDP 1: its gathered parameters allow no backward pass. Use FSDP 2 "
    "(fsdp_version: 2 in the accelerate config), DeepSpeed ZeRO, or DDP."
)
# How TRL uses vLLM: a server of its own, or an engine inside the processes of the training.
VLLM_MODES = ("server", "colocate")
# The ways to spread one rollout over processes, by their names in accelerate's configurations.
_WITHIN_A_ROLLOUT = {"tp": "tensor parallelism", "cp": "context parallelism", "sp": "sequence parallelism"}


def check_launch(environment: Mapping[str, str]) -> None:
    """Raise InvalidInputError if a launcher's settings do not allow inversion to be measured.

    This check runs at the start of the command, when nothing but the launcher has set these environment variables.

    Args:
        environment: the environment variables, such as `os.environ`.

    Raises:
        InvalidInputError: the launcher asks for FSDP 1, for Megatron-LM, or for tensor, context or sequence
            parallelism.
    """
    if _is_on(environment, "ACCELERATE_USE_FSDP") and environment.get("FSDP_VERSION", "1") == "1":
        raise InvalidInputError(FSDP1)
    _check_others(environment)


def check_environment_of(fsdp: Any, environment: Mapping[str, str]) -> None:
    """Raise InvalidInputError if the environment variables do not allow inversion to be measured.

    This check runs when a trainer's arguments are made. Another trainer may have run in this process before. In that
    case, accelerate has set ACCELERATE_USE_FSDP but not FSDP_VERSION, so the variables do not say whether FSDP 1 or
    FSDP 2 was used. So FSDP 1 is refused here only if FSDP_VERSION is 1 and the argument `fsdp` is empty. The trainer
    later checks which version is really used.

    Args:
        fsdp: the trainer's argument `fsdp`; not empty if the arguments ask for FSDP.
        environment: the environment variables, such as `os.environ`.

    Raises:
        InvalidInputError: the environment asks for FSDP 1, for Megatron-LM, or for tensor, context or sequence
            parallelism.
    """
    if not fsdp and _is_on(environment, "ACCELERATE_USE_FSDP") and environment.get("FSDP_VERSION") == "1":
        raise InvalidInputError(FSDP1)
    _check_others(environment)


def _check_others(environment: Mapping[str, str]) -> None:
    """Raise InvalidInputError if the environment asks for Megatron-LM, or lets several processes share one rollout."""
    if _is_on(environment, "ACCELERATE_USE_MEGATRON_LM"):
        raise InvalidInputError(
            "TRL does not train with Megatron-LM (distributed_type: MEGATRON_LM in the accelerate config). Use "
            "MULTI_GPU (DDP), FSDP with fsdp_version: 2, or DEEPSPEED."
        )
    if _is_on(environment, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        sizes = {name: environment.get(f"PARALLELISM_CONFIG_{name.upper()}_SIZE", "1") for name in _WITHIN_A_ROLLOUT}
        check_parallelism({name: int(size) for name, size in sizes.items()})


def check_parallelism(sizes: Mapping[str, int]) -> None:
    """Raise InvalidInputError if several processes are to share one rollout.

    Args:
        sizes: a mapping from the name of a parallelism (`tp`, `cp` or `sp`) to the number of processes that share a
            rollout.

    Raises:
        InvalidInputError: one of the numbers is above 1.
    """
    for name, size in sizes.items():
        if size > 1:
            raise InvalidInputError(
                f"{_WITHIN_A_ROLLOUT[name]} ({name}_size {size}) is not supported: inversion is measured on whole "
                f"rollouts with whole weights in each process. Set {name}_size to 1, and shard the weights with "
                "FSDP 2 or DeepSpeed ZeRO-3."
            )


def check_arguments(args: Any) -> None:
    """Raise InvalidInputError if a trainer's arguments do not allow inversion to be measured.

    `check_launch` does the same for environment variables.

    Args:
        args: the trainer's arguments, after transformers has read them.

    Raises:
        InvalidInputError: the arguments ask for FSDP 1, for FSDP on XLA devices, or for tensor parallelism.
    """
    if (args.fsdp_plugin_args or {}).get("fsdp_version") == 1:
        raise InvalidInputError(FSDP1)
    if args.fsdp and (args.fsdp_config or {}).get("xla"):
        raise InvalidInputError("fsdp_config with xla: inversion is not measured on XLA devices. Leave xla out.")
    parallelism = args.parallelism_config
    if parallelism is not None:
        check_parallelism({name: getattr(parallelism, f"{name}_size") for name in _WITHIN_A_ROLLOUT})
    for key in ("tp_plan", "tp_size", "distributed_config"):
        if (args.model_init_kwargs or {}).get(key) is not None:
            raise InvalidInputError(
                f"model_init_kwargs has {key}, which spreads the weights while the model is loaded. Leave it out, "
                "and shard the weights with FSDP 2 or DeepSpeed ZeRO-3."
            )


def check_vllm(args: Any) -> None:
    """Raise InvalidInputError for vLLM options that TRL would refuse only after it has loaded the model.

    Args:
        args: the trainer's arguments, after transformers has read them.

    Raises:
        InvalidInputError: the mode is unknown, or the processes cannot be divided among the engines.
    """
    if not args.use_vllm:
        return
    if args.vllm_mode not in VLLM_MODES:
        raise InvalidInputError(f"vllm_mode must be one of {', '.join(VLLM_MODES)}; got {args.vllm_mode!r}.")
    size = args.vllm_tensor_parallel_size
    if args.vllm_mode == "colocate" and args.world_size % size:
        raise InvalidInputError(
            f"vllm_tensor_parallel_size {size} does not divide the number of processes, {args.world_size}. In the "
            "mode colocate, every engine is shared by the same number of processes."
        )


def check_installed(args: Any) -> None:
    """Raise MissingExtraError if the trainer's arguments ask for vLLM, and it is not installed."""
    if args.use_vllm and importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm", "use_vllm")


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes", "y", "on", "t")
