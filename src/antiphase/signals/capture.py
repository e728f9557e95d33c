"""Record the inputs and outputs of a model's attention projections during a forward pass.

A measurement changes a model only in `observe`, and only inside a `with` block. `observe` adds hooks, can replace the
attention implementation, and puts the model in evaluation mode. Evaluation mode also switches off gradient
checkpointing, which would call the hooks twice. All of this is undone at the end of the block, also after an
exception. Parameters and `.grad` are never changed.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, backbone, modules_of, outer_norms
from antiphase.models.layouts import Projection
from antiphase.models.quantization import without_repacking
from antiphase.models.reloading import reloading
from antiphase.signal_spec import PROJECTIONS
from antiphase.signals import frozen_attention


@dataclass
class Capture:
    """What the hooks recorded in the latest forward pass.

    Args:
        inputs: the input of each observed projection module.
        outputs: the output of each observed projection module.
        before_norm: the final hidden states before the model's last normalisation layer; None if there is none.
        norms: the input and output of each normalisation layer outside the decoder's layers. `find_last_norm` empties
            the list.
        called: the observed projection modules that were called.
        copies: whether the model gets a copy of each output. A model that changes outputs in place must get copies, so
            that the gradient at the output itself, before the change, is measured.
    """

    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    before_norm: Tensor | None = None
    norms: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    called: set[nn.Module] = field(default_factory=set)
    copies: bool = False

    def input_of(self, projection: Projection) -> Tensor:
        """Return the recorded input of a projection, `[batch, token, columns]`, with its autograd graph."""
        return self._get(self.inputs, projection.module)

    def outputs_of(self, modules: Sequence[nn.Module]) -> list[Tensor]:
        """Return the recorded output of each module, `[batch, token, features]`, with its autograd graph.

        `Projection.select` picks the columns of one projection from the output of a fused module.
        """
        return [self._get(self.outputs, module) for module in modules]

    @staticmethod
    def _get(tensors: dict[nn.Module, Tensor], module: nn.Module) -> Tensor:
        if module not in tensors:
            raise UnsupportedModelError(
                f"{type(module).__name__} was not called in the forward pass, so its gradient cannot be measured. "
                "Leave its layer out with layers=..."
            )
        return tensors[module]

    def record(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Check a call of a projection module, and keep its input and output. This is a forward hook.

        The returned tensor takes the place of the module's output in the model. It is a copy if the model needs one.

        Raises:
            UnsupportedModelError: the module was called before in the same forward pass, or it passes no gradient.
        """
        if module in self.called:
            raise UnsupportedModelError(
                f"a projection ({type(module).__name__}) is called twice in one forward pass, because several layers "
                "share it. antiphase does not measure such layers."
            )
        if torch.is_grad_enabled() and args[0].requires_grad and not output.requires_grad:
            raise UnsupportedModelError(
                f"{type(module).__name__} passes no gradient to its input, so the strengths of this model would be "
                "wrong. If its weights are quantised, load a version of the model that is not."
            )
        if torch.is_grad_enabled() and not output.requires_grad:
            # Without this, there would be no graph in the first observed layer of a model with frozen weights.
            output = output.detach().requires_grad_(True)
        self.called.add(module)
        self.keep(module, args[0], output)
        return output.clone() if self.copies or self.ends_at(module) else output

    def keep(self, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Keep the input and the output of a projection module. A subclass may keep something else instead."""
        self.inputs[module], self.outputs[module] = inputs, output

    def ends_at(self, module: nn.Module) -> bool:
        """Return whether a backward pass ends at the output of this module. The model then gets a copy of the output.

        In this class, the result is always False. A subclass may override this method.
        """
        return False

    def record_norm(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the input and output of a normalisation module. This is a forward hook."""
        if args and isinstance(output, Tensor):
            self.norms.append((args[0], output))

    def clear(self) -> None:
        """Drop all recorded tensors, and with them the autograd graph."""
        self.inputs.clear()
        self.outputs.clear()
        self.norms.clear()
        self.called.clear()
        self.before_norm = None

    def find_last_norm(self, hidden: Tensor) -> None:
        """Set `before_norm` to the input of the normalisation layer whose output is the final hidden states."""
        for before, after in self.norms:
            if after is hidden or (after.shape == hidden.shape and after.data_ptr() == hidden.data_ptr()):
                self.before_norm = before.detach()
        self.norms.clear()


@dataclass(frozen=True)
class Observed:
    """A model with hooks. After each call of `hidden`, `capture` contains what the hooks recorded.

    Args:
        model: the model.
        layers: the attention layers whose projections are recorded.
        capture: the recorded inputs and outputs.
    """

    model: nn.Module
    layers: Sequence[AttentionLayer]
    capture: Capture

    def hidden(self, input_ids: Tensor, *, grad: bool, positions: Tensor | None = None) -> Tensor:
        """Run the model's backbone, and return its final hidden states `[batch, token, hidden]`.

        They are on the device of `input_ids`, also if the layers of the model are spread over several devices.

        The attention mask is all ones, since under a causal mask no real token sees the padding on the right.

        Args:
            input_ids: the token ids, padded on the right.
            grad: whether an autograd graph is built. It then starts at the first observed layer, and the layers before
                it keep no activations.
            positions: the position of each token, `[batch, token]`. They are needed if rows do not start at position
                0.
        """
        self.capture.clear()
        with torch.set_grad_enabled(False):
            handle = None
            if grad:
                # The first observed layer switches grad mode on. The end of the no-grad block restores the old mode.
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
        # The last layers may be on another device than the first ones.
        if self.capture.before_norm is not None:
            self.capture.before_norm = self.capture.before_norm.to(input_ids.device)
        return hidden.to(input_ids.device)


@contextlib.contextmanager
def observe(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    *,
    freeze_attention: bool = False,
    capture: Capture | None = None,
) -> Iterator[Observed]:
    """Record the projections of some attention layers inside a `with` block.

    Args:
        model: a Hugging Face causal LM without PEFT wrapper.
        layers: the attention layers to observe, in order.
        freeze_attention: whether the model runs with the attention of the module `frozen_attention` instead of its
            own.
        capture: what keeps the inputs and outputs; the default keeps all of them.
    """
    capture = Capture() if capture is None else capture
    # OLMo and OLMoE clip queries, keys and values in place if this is set.
    capture.copies = getattr(cast(Any, model).config.get_text_config(), "clip_qkv", None) is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(without_repacking(model))
        stack.enter_context(reloading(model))
        if freeze_attention:
            stack.enter_context(_attention_implementation(model, frozen_attention.FROZEN))
        for module in modules_of(layers, PROJECTIONS):
            stack.callback(module.register_forward_hook(capture.record).remove)
        stack.enter_context(watching_norms(model, capture))
        stack.callback(capture.clear)
        yield Observed(model, layers, capture)


@contextlib.contextmanager
def watching_norms(model: nn.Module, capture: Capture | None = None) -> Iterator[Capture]:
    """Inside a `with` block, record the inputs and outputs of the normalisation modules outside the decoder's layers.

    An example is the last normalisation layer, which stands before the output head. The records are in the field
    `norms` of the yielded `Capture`. If `capture` is given, it is the object that is yielded.
    """
    capture = Capture() if capture is None else capture
    handles = [norm.register_forward_hook(capture.record_norm) for norm in outer_norms(model)]
    try:
        yield capture
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside a `with` block, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Run the model with the attention implementation `name` inside a `with` block."""
    frozen_attention.register()
    # A module holds the whole configuration or a nested one, so each configuration is changed and restored separately.
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
