"""Prepares the policy inside a trainer for measuring: with all its parameters, in its own dtype, without autocast.

Processes may measure different numbers of rollouts, so they must not have to wait for each other while they measure.
Sharded parameters are therefore gathered before measuring and released after it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import unwrap
from antiphase.models.whole_weights import whole_weights, without_recomputation
from antiphase.training.launch import FSDP1


def check_sharding(accelerator: Any, model: nn.Module) -> None:
    """Check that every process can gather all weights for measuring, and that the model can be saved as a whole.

    Args:
        accelerator: the trainer's accelerator.
        model: the policy, before accelerate prepares it.

    Raises:
        UnsupportedModelError: FSDP 1 is used, which allows no backward pass while parameters are gathered; or the
            model is already spread over processes by tensor parallelism; or ZeRO-3 would save no whole model at the
            end.
    """
    from torch.distributed.tensor import DTensor
    from trl.distributed import DistributedBackend

    if DistributedBackend(accelerator).fsdp_version == 1:
        raise UnsupportedModelError(FSDP1)
    plugin = accelerator.state.deepspeed_plugin
    deepspeed = plugin is not None and bool(plugin.deepspeed_config.get("tensor_parallel"))
    if deepspeed or any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise UnsupportedModelError(
            "the model's weights are spread over processes by tensor parallelism, or were sharded while they were "
            "loaded. Inversion is measured with whole weights in each process. Load the whole model in each "
            "process, without tensor parallelism, and use FSDP 2 or DeepSpeed ZeRO-3."
        )
    zero = {} if plugin is None else plugin.deepspeed_config.get("zero_optimization", {})
    # The weights of an adapter are saved in any case.
    adapter = hasattr(model, "peft_config")
    if zero.get("stage") == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True and not adapter:
        raise UnsupportedModelError(
            "stage3_gather_16bit_weights_on_model_save is not set, so DeepSpeed ZeRO-3 would save only the shards of "
            "the model, which cannot be loaded as a model. Set zero3_save_16bit_model: true in the accelerate config, "
            "or stage3_gather_16bit_weights_on_model_save: true in the zero_optimization of DeepSpeed's config."
        )


def check_compilation(accelerator: Any) -> None:
    """Raise UnsupportedModelError if accelerate would compile a copy of the model, layer by layer.

    TRL asks the original model whether it is in training mode. But only the compiled copy is set to training mode. So
    TRL would treat every training batch as a batch of an evaluation.
    """
    from accelerate.utils import DistributedType, DynamoBackend

    state = accelerator.state
    in_place = state.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    plugin = state.dynamo_plugin
    if plugin.backend != DynamoBackend.NO and plugin.use_regional_compilation and not in_place:
        raise UnsupportedModelError(
            "TRL's GRPO does not work with the regional compilation of accelerate: TRL would treat every training "
            "batch as an evaluation batch. Set use_regional_compilation to false in the accelerate config (or unset "
            "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION); torch_compile alone works."
        )


def is_sharded(accelerator: Any) -> bool:
    """Return whether the parameters are spread over processes (FSDP, ZeRO-3)."""
    from trl.distributed import DistributedBackend

    backend = DistributedBackend(accelerator)
    return bool(backend.is_zero3 or backend.is_fsdp)


@contextlib.contextmanager
def whole_policy(model: nn.Module, accelerator: Any, gradient_checkpointing_kwargs: Any = None) -> Iterator[nn.Module]:
    """Open a block in which every process has the unwrapped policy with all its parameters.

    The policy runs its plain code, not the code that `torch_compile` made of it. Under ZeRO-3 and FSDP 2, every
    process holds a full copy of the weights while the block lasts, as it does while rollouts are generated. Under DDP,
    every process has a full copy anyway.

    Args:
        model: the model that accelerate prepared.
        accelerator: the accelerator that prepared it.
        gradient_checkpointing_kwargs: the trainer's argument of this name. Gathering under ZeRO-3 switches gradient
            checkpointing off, and this argument is needed to switch it on again.
    """
    from trl.distributed import DistributedBackend

    with contextlib.ExitStack() as stack:
        if DistributedBackend(accelerator).is_zero3:
            from trl.models import unwrap_model_for_generation

            policy = stack.enter_context(
                unwrap_model_for_generation(
                    model, accelerator, gradient_checkpointing_kwargs=gradient_checkpointing_kwargs
                )
            )
        else:
            # With `torch_compile`, FSDP's root is the compiled wrapper, so the weights of `model` are gathered.
            stack.enter_context(whole_weights(model))
            policy = accelerator.unwrap_model(model, keep_torch_compile=False)
            stack.enter_context(without_recomputation(policy))
        stack.enter_context(_uncompiled(accelerator))
        stack.enter_context(_own_dtype(policy))
        yield policy


@contextlib.contextmanager
def plain_generation(model: nn.Module) -> Iterator[None]:
    """Switch off the sampling options of the model's own generation config, while the block lasts.

    TRL does not set all options of sampling: it leaves out `suppress_tokens` and `min_p`, for example. transformers
    takes these options from the model's generation config. The tokens would then come from another distribution than
    the loss, the held-out problems and the probes assume. So inside the block, the generation config holds only its
    end, padding and BOS tokens.

    Args:
        model: the unwrapped model, which may have adapters.
    """
    from transformers import GenerationConfig

    owners = [part for part in (model, unwrap(model)) if getattr(part, "generation_config", None) is not None]
    before = [part.generation_config for part in owners]
    for part, config in zip(owners, before, strict=True):
        kept = {name: getattr(config, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
        part.generation_config = cast(Any, GenerationConfig(**kept))
    try:
        yield
    finally:
        for part, config in zip(owners, before, strict=True):
            part.generation_config = config


def _uncompiled(accelerator: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which modules that were compiled in place run their uncompiled code.

    Under FSDP 2 and ZeRO-3, `torch_compile` compiles the layers in place. Compiled code may leave out the hooks with
    which gradients are measured.
    """
    from accelerate.utils import DynamoBackend

    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return contextlib.nullcontext()
    return cast("contextlib.AbstractContextManager[Any]", torch.compiler.set_stance("force_eager"))


@contextlib.contextmanager
def _own_dtype(model: nn.Module) -> Iterator[None]:
    """Remove accelerate's mixed-precision wrapper while the block lasts.

    Inversion is measured in the dtype of the weights. accelerate wraps `forward` in autocast and keeps the original
    under `_original_forward`.
    """
    state = vars(model)
    if "_original_forward" not in state:
        yield
        return
    wrapped = state["forward"]
    state["forward"] = state["_original_forward"]
    try:
        yield
    finally:
        state["forward"] = wrapped
