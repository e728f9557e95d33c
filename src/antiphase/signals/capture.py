"""Watch the projections of a model during one forward pass, without changing the model.

`observe` is the only place where antiphase touches a model. It adds hooks, may switch the attention implementation,
and puts the model in evaluation mode. This also switches off gradient checkpointing, whose recomputation would call
the hooks twice. All of it is undone afterwards, also after an exception. Parameters and `.grad` are never written.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, Projection, backbone, modules_of, outer_norms
from antiphase.signal_spec import PROJECTIONS
from antiphase.signals import frozen_attention


@dataclass
class Capture:
    """Inputs and outputs of the watched projection modules in the latest forward pass.

    `before_norm` holds the final hidden states before the model's last norm; None if the model has no last norm.
    """

    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    before_norm: Tensor | None = None
    norms: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def input_of(self, projection: Projection) -> Tensor:
        """The projection's input `[batch, token, columns]`, with its graph."""
        return self._get(self.inputs, projection.module)

    def outputs_of(self, modules: Sequence[nn.Module]) -> list[Tensor]:
        """The modules' outputs `[batch, token, features]`, with their graph; `Projection.select` picks columns."""
        return [self._get(self.outputs, module) for module in modules]

    @staticmethod
    def _get(tensors: dict[nn.Module, Tensor], module: nn.Module) -> Tensor:
        if module not in tensors:
            raise UnsupportedModelError(
                f"{type(module).__name__} was not called in the forward pass, so its gradient cannot be measured. "
                "Leave its layer out with layers=..."
            )
        return tensors[module]

    def record(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Keep the input and output of a projection module; this is a forward hook."""
        if torch.is_grad_enabled() and not output.requires_grad:
            # If nothing before needs a gradient (frozen weights, the first watched layer), the graph starts here.
            output = output.detach().requires_grad_(True)
        self.inputs[module], self.outputs[module] = args[0], output
        return output

    def record_norm(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the input and output of a normalisation module; this is a forward hook."""
        if args and isinstance(output, Tensor):
            self.norms.append((args[0], output))

    def clear(self) -> None:
        """Drop the tensors and the graph that they hold."""
        self.inputs.clear()
        self.outputs.clear()
        self.norms.clear()
        self.before_norm = None

    def find_last_norm(self, hidden: Tensor) -> None:
        """Keep the input of the norm whose output is the final hidden states."""
        for before, after in self.norms:
            if after is hidden or (after.shape == hidden.shape and after.data_ptr() == hidden.data_ptr()):
                self.before_norm = before.detach()
        self.norms.clear()


@dataclass(frozen=True)
class Observed:
    """A model under observation: run it, then read `capture`."""

    model: nn.Module
    layers: Sequence[AttentionLayer]
    capture: Capture

    def hidden(self, input_ids: Tensor, *, grad: bool, positions: Tensor | None = None) -> Tensor:
        """Final hidden states `[batch, token, hidden]` of right-padded rows.

        The attention mask is all ones, since under a causal mask no real token sees the padding on the right.
        `positions` `[batch, token]` are needed if the rows do not start at position 0.
        With `grad`, the graph starts at the first watched layer, and the layers before it keep no activations.
        """
        self.capture.clear()
        with torch.set_grad_enabled(False):
            handle = None
            if grad:
                # The first watched module switches grad mode on inside the no-grad block, and the block ends it.
                first = self.layers[0].module
                handle = first.register_forward_pre_hook(lambda *_: torch.set_grad_enabled(True) and None)
            try:
                where = {} if positions is None else {"position_ids": positions}
                output = backbone(self.model)(
                    input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False, **where
                )
            finally:
                if handle is not None:
                    handle.remove()
        hidden = cast(Tensor, output.last_hidden_state)
        self.capture.find_last_norm(hidden)
        return hidden


@contextlib.contextmanager
def observe(
    model: nn.Module, layers: Sequence[AttentionLayer], *, freeze_attention: bool = False
) -> Iterator[Observed]:
    """Hook the projections of `layers`; with `freeze_attention`, run the model on the frozen attention.

    Args:
        model: an unwrapped Hugging Face causal LM.
        layers: the attention layers to watch, in order.
        freeze_attention: whether the model runs on the frozen attention of `frozen_attention`.
    """
    capture = Capture()
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        if freeze_attention:
            stack.enter_context(_attention_implementation(model, frozen_attention.FROZEN))
        for module in modules_of(layers, PROJECTIONS):
            stack.callback(module.register_forward_hook(capture.record).remove)
        stack.enter_context(watching_norms(model, capture))
        stack.callback(capture.clear)
        yield Observed(model, layers, capture)


@contextlib.contextmanager
def watching_norms(model: nn.Module, capture: Capture | None = None) -> Iterator[Capture]:
    """Inside the block, record the inputs and outputs of the norms outside the decoder's layers."""
    capture = Capture() if capture is None else capture
    handles = [norm.register_forward_hook(capture.record_norm) for norm in outer_norms(model)]
    try:
        yield capture
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside the block, and restore every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    frozen_attention.register()
    # Modules may hold the whole configuration or a nested one, so each is switched and restored separately.
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = vars(module).get("config")
        if isinstance(config, PretrainedConfig):
            configs[id(config)] = config
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    try:
        for config in configs.values():
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
