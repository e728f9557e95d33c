"""Give every process all weights of a model that FSDP 2 shards, so that the model can be measured and evaluated.

FSDP 2 (PyTorch's `fully_shard`) spreads the weights over the processes. Hooks on the modules gather the weights of a
layer before its forward and backward pass, and release them afterwards. Each of these hooks waits for all processes.
So processes that run different numbers of passes would wait for each other for ever, and rollouts of different lengths
need different numbers of passes.

Here the weights are gathered once, and the hooks are taken off until the block ends. Inside the block, no pass waits
for another process, and no pass leaves anything behind in FSDP: no gradient, no setting and no order of passes. The
price is memory: every process holds all weights while the block lasts.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from antiphase.errors import UnsupportedModelError


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Inside a `with` block, give every process all weights of an FSDP 2 model, and run the model without FSDP.

    All processes must open and close the block together. In between, each process may run the model as often as it
    likes. A model without FSDP 2 is left as it is.

    Args:
        model: the model that accelerate or `fully_shard` prepared, or a module that contains it.

    Raises:
        UnsupportedModelError: the installed PyTorch runs FSDP 2 in another way than expected.
    """
    from torch.distributed.fsdp import FSDPModule

    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.unshard()
    try:
        with contextlib.ExitStack() as stack:
            for shard in shards:
                stack.enter_context(_without_hooks(shard))
            yield
    finally:
        for shard in shards:
            shard.reshard()


@contextlib.contextmanager
def without_recomputation(model: nn.Module) -> Iterator[None]:
    """Inside a `with` block, switch off the activation checkpointing of accelerate's FSDP plugin.

    With `fsdp_activation_checkpointing`, accelerate puts a wrapper around each layer, which runs the layer again in
    the backward pass. The hooks of a measurement would then be called twice. Inside the block, the wrappers call
    their layers once.
    """
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import ActivationWrapper

    wrappers = [module for module in model.modules() if isinstance(module, ActivationWrapper)]
    for wrapper in wrappers:
        vars(wrapper)["forward"] = wrapper._checkpoint_wrapped_module
    try:
        yield
    finally:
        for wrapper in wrappers:
            del vars(wrapper)["forward"]


@contextlib.contextmanager
def _without_hooks(shard: Any) -> Iterator[None]:
    """Inside a `with` block, take FSDP's hooks off a module. Other hooks stay.

    transformers also lets FSDP's hooks run around the method `generate`. Inside the block, `generate` runs without
    them.
    """
    state = shard._get_fsdp_state()
    tables = (shard._forward_pre_hooks, shard._forward_hooks)
    before = [dict(table) for table in tables]
    for table in tables:
        own = [number for number, hook in table.items() if _owner(hook) is state]
        if not own:
            raise UnsupportedModelError(
                f"FSDP 2 of the installed PyTorch has no hooks on {type(shard).__name__}, so its weights cannot be "
                "used as a whole. Use DDP or DeepSpeed ZeRO, or install the tested PyTorch."
            )
        for number in own:
            del table[number]
    registered = vars(shard).get("generate")
    if registered is not None:
        shard.generate = registered.__wrapped__
    try:
        yield
    finally:
        for table, hooks in zip(tables, before, strict=True):
            added = {number: hook for number, hook in table.items() if number not in hooks}
            table.clear()
            table.update(hooks | added)
        if registered is not None:
            shard.generate = registered


def _owner(hook: Any) -> Any:
    """Return the object to which a hook belongs if the hook is a method; None if it is a plain function.

    The method may be wrapped in functions.
    """
    while hook is not None:
        if getattr(hook, "__self__", None) is not None:
            return hook.__self__
        hook = getattr(hook, "__wrapped__", None)
    return None
