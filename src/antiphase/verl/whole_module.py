"""Run a model that FSDP 2 shards as an ordinary model with all its weights, for measuring.

The hooks of FSDP 2 gather the weights of a layer before each of its passes, and wait for all processes. Processes
whose rollouts have different lengths run different numbers of passes, so they would wait for ever. Here all weights
are gathered once, and the hooks are taken off while the block lasts. FSDP then keeps no gradient and no state of the
passes. Every process needs memory for all weights during this time.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from antiphase.errors import UnsupportedModelError


@contextlib.contextmanager
def whole_module(model: nn.Module) -> Iterator[nn.Module]:
    """Gather all weights of the FSDP 2 modules in a model, and run it without FSDP's hooks, inside the block.

    All processes must open and close the block together. A model without FSDP is left as it is.

    Raises:
        UnsupportedModelError: the installed PyTorch runs FSDP 2 in another way than expected.
    """
    from torch.distributed.fsdp import FSDPModule

    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    try:
        for shard in shards:
            shard.unshard()
        with contextlib.ExitStack() as stack:
            for shard in shards:
                stack.enter_context(_without_hooks(shard))
            yield model
    finally:
        for shard in shards:
            shard.reshard()


@contextlib.contextmanager
def _without_hooks(shard: Any) -> Iterator[None]:
    """Take FSDP's forward hooks off one module inside the block. Other hooks stay."""
    state = shard._get_fsdp_state()
    tables = (shard._forward_pre_hooks, shard._forward_hooks)
    taken = [{number: hook for number, hook in table.items() if _owner(hook) is state} for table in tables]
    if not all(taken):
        raise UnsupportedModelError(
            f"FSDP 2 of the installed PyTorch has no hooks on {type(shard).__name__}, so its weights cannot be used "
            "as a whole. Install the PyTorch that antiphase is tested with."
        )
    before = [list(table) for table in tables]
    for table, own in zip(tables, taken, strict=True):
        for number in own:
            del table[number]
    try:
        yield
    finally:
        for table, own, order in zip(tables, taken, before, strict=True):
            rest = dict(table)
            table.clear()
            for number in [*order, *(number for number in rest if number not in order)]:
                hook = own.get(number, rest.get(number))
                if hook is not None:
                    table[number] = hook


def _owner(hook: Any) -> Any:
    """Return the object whose method a hook is, also if functions wrap the method; None if there is none."""
    while hook is not None:
        owner = getattr(hook, "__self__", None)
        if owner is not None:
            return owner
        hook = getattr(hook, "__wrapped__", None)
    return None
