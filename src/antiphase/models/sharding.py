"""Refuse a model whose weights are sharded over processes, so that each process holds only parts of the matrices.

A strength is a norm of the gradient of a whole matrix. The nuclear norms of the parts do not add up to the nuclear
norm of the whole matrix. Also, sharded weights need the same passes in all processes, but in a measurement each
process runs passes of its own. A device map is no such case: it puts whole layers on different devices.
"""

import sys

from torch import nn

from antiphase.errors import UnsupportedModelError

_FSDP = (
    "the weight {path} is sharded by FSDP 2, so this process holds only a part of it. Gather the weights in all "
    "processes while you measure: `with antiphase.models.whole_weights.whole_weights(model): ...`. "
    "CorRPOTrainer and InversionCallback do so themselves. For a model that is larger than one GPU, use a device map "
    "(--device-map auto)."
)
_TENSOR_PARALLEL = (
    "the weight {path} is sharded over processes (tensor parallelism), and the nuclear norms of the parts of a matrix "
    "do not add up to that of the whole. Load the model with a device map instead (--device-map auto), which keeps "
    "every matrix whole."
)


def check_whole(model: nn.Module) -> None:
    """Raise UnsupportedModelError if a weight of the model is sharded over processes. The message says what to do."""
    tensors, fsdp = (sys.modules.get(f"torch.distributed.{name}") for name in ("tensor", "fsdp"))
    if tensors is None:
        return
    for path, weight in model.named_parameters():
        if isinstance(weight, tensors.DTensor):
            by_fsdp = fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in model.modules())
            raise UnsupportedModelError((_FSDP if by_fsdp else _TENSOR_PARALLEL).format(path=path))
