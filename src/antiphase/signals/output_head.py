"""Apply the model's own output head, with its bias, softcap and logit scale, to given final hidden states.

For this the model's forward runs with a stand-in for its backbone, which returns the given hidden states.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import backbone


@dataclass
class _BackboneOutput(ModelOutput):  # type: ignore[misc]
    """What the model gets in place of the output of its backbone: the given final hidden states.

    Every other attribute that the model may read is None.
    """

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def head_of(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the model's own function from final hidden states `[target, hidden]` to logits `[target, vocab]`.

    Inside the `with` block the model's backbone is replaced, so the model must not be called directly. The logits are
    on the device of the hidden states, also if the head is on another device.

    Raises:
        UnsupportedModelError: the model does not compute its logits from the output of its backbone. The yielded
            function raises this error when it is called.
    """
    body = backbone(model)
    before = body.__dict__.get("forward")

    def head(hidden: Tensor) -> Tensor:
        calls = []

        def stand_in(*_: Any, **__: Any) -> _BackboneOutput:
            calls.append(1)
            return _BackboneOutput(last_hidden_state=hidden[None])

        body.__dict__["forward"] = stand_in
        ids = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=hidden.device)
        logits = cast(Any, model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        if not calls:
            raise UnsupportedModelError(
                f"{type(model).__name__} does not compute its logits from the output of its decoder."
            )
        return cast(Tensor, logits)[0].to(hidden.device)

    try:
        yield head
    finally:
        if before is None:
            body.__dict__.pop("forward", None)
        else:
            body.__dict__["forward"] = before
