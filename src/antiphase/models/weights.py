"""Check that the weights of a model are finite, and compute a checksum of them. Offloaded weights are read too."""

import hashlib
import itertools
from typing import Any, cast

import torch
from torch import nn

from antiphase.errors import NonFiniteError
from antiphase.models.architecture import unwrap
from antiphase.models.placement import named_weights
from antiphase.models.quantization import quantization_of


def weights_digest(model: nn.Module) -> str:
    """Return a checksum of the weights of a model.

    Only the first 32 and the last 32 numbers of every parameter are read. Models with different weights almost always
    get different checksums. GPTQ and AWQ keep their weights in buffers of whole numbers instead of parameters, so
    these buffers are read too.
    """
    inner, digest = unwrap(model), hashlib.sha256()
    named = named_weights(inner)
    if quantization_of(cast(Any, inner).config) is not None:
        whole = ((name, one) for name, one in named_weights(inner, buffers=True) if not one.is_floating_point())
        named = itertools.chain(named, whole)
    for name, parameter in named:
        flat = parameter.flatten()
        ends = torch.cat([flat[:32], flat[-32:]]).cpu().double()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + ends.numpy().tobytes())
    return digest.hexdigest()


def check_finite(model: nn.Module, name: str) -> None:
    """Raise NonFiniteError if a floating-point weight is NaN or infinite. The message names the parameter."""
    for parameter_name, parameter in named_weights(unwrap(model)):
        if parameter.is_floating_point() and not bool(parameter.isfinite().all()):
            raise NonFiniteError(
                f"{name!r}: the weight {parameter_name} contains NaN or infinity. Either the checkpoint is damaged, "
                "or its dtype is too narrow for its weights: try --dtype float32."
            )
