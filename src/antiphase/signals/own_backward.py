"""The backward pass of the estimator `own`, which measures each layer as soon as its gradients are known.

For a projection with the inputs a_i and the gradients δ_i at its outputs, `own` needs the norms ‖δ_i‖ and ‖a_i‖ alone.
So a forward hook keeps only the norms of each input. In the backward pass, a hook on each output keeps only the norms
of the gradient at this output. The inputs, outputs and gradients of all layers are never kept at the same time.

The joint strength of a step (sentence) needs the vectors a_i and δ_i themselves. If joint strengths are wanted, the
inputs of a layer are kept until the backward pass has reached the layer. The gradients are kept until the joint
strengths of the layer are computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import AttentionLayer, modules_of
from antiphase.models.layouts import Projection
from antiphase.signal_spec import PROJECTIONS, ProjectionName, SignalSpec
from antiphase.signals.capture import Capture
from antiphase.signals.cells import placed
from antiphase.signals.chunk import Chunk
from antiphase.signals.joint import StepFactors, per_length
from antiphase.signals.norms import vector_norm

# The greatest number of elements in the factors of steps that a GPU processes at once.
_GROUP_ELEMENTS = 1 << 28


class OwnBackward(Capture):
    """Records what the estimator `own` needs of a forward pass, and measures the layers in the backward pass.

    Args:
        layers: the attention layers to measure.
        spec: gives the projections and the norm.
        keep_inputs: whether the inputs of the projections are kept. The joint strengths of steps need them.
    """

    def __init__(self, layers: Sequence[AttentionLayer], spec: SignalSpec, *, keep_inputs: bool) -> None:
        super().__init__()
        self.layers, self.spec, self.keep_inputs = layers, spec, keep_inputs
        # For each module, the projections that it computes, each with the place of its layer and its name.
        self.measured: dict[nn.Module, list[tuple[int, ProjectionName, Projection]]] = {}
        for place, layer in enumerate(layers):
            for name in (name for name in spec.projections if name in layer.projections):
                projection = layer.projections[name]
                self.measured.setdefault(projection.module, []).append((place, name, projection))
        self.first = set(modules_of(layers[:1], PROJECTIONS))
        self.roots: list[Tensor] = []
        self.input_norms: dict[nn.Module, Tensor] = {}
        self.latest: tuple[Tensor, Tensor] | None = None
        self.layer_pass: _LayerPass | None = None

    def keep(self, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Keep the norms of the input of a projection module, and add a hook for the gradient at its output.

        For the first observed layer, the outputs themselves are kept, since the backward pass ends there.
        """
        if not torch.is_grad_enabled():
            return
        if module in self.first or output.is_leaf:
            self.roots.append(output)
        if module not in self.measured:
            return
        if self.keep_inputs:
            self.inputs[module] = inputs.detach()
        # Q, K and V read the same tensor.
        if self.latest is None or self.latest[0] is not inputs:
            self.latest = inputs, vector_norm(inputs.detach(), self.spec.norm)
        self.input_norms[module] = self.latest[1]
        output.register_hook(partial(self._arrived, module))

    def ends_at(self, module: nn.Module) -> bool:
        """Return whether the module belongs to the first observed layer, where the backward pass ends."""
        return module in self.first and torch.is_grad_enabled()

    def _arrived(self, module: nn.Module, gradient: Tensor) -> None:
        assert self.layer_pass is not None
        self.layer_pass.arrived(module, gradient)

    def run(
        self, chunk: Chunk, hidden: Tensor, seed: Tensor
    ) -> tuple[
        Float[Tensor, "measured layer projection"],
        Float[Tensor, "step layer projection"] | None,
        Float[Tensor, "step layer projection"] | None,
    ]:
        """Run the backward pass of the latest forward pass, and free its graph.

        Args:
            chunk: the rows that the forward pass ran, and their targets.
            hidden: the final hidden states, `[row, token, hidden]`, with their graph.
            seed: the gradient, at the hidden states, of the sum of all needed targets.

        Returns:
            (the strengths of the targets to be measured, the joint strength of every step, the effective rank of every
            step's gradient). The last two are None if the chunk has no steps (sentences).

        Raises:
            UnsupportedModelError: positions influence each other outside the attention, or no gradient reaches a
                projection.
        """
        self.layer_pass = _LayerPass(self, chunk, hidden)
        torch.autograd.grad(hidden, self.roots, seed, allow_unused=True)
        return self.layer_pass.result()

    def clear(self) -> None:
        """Drop everything that was kept of the latest passes."""
        super().clear()
        self.roots.clear()
        self.input_norms.clear()
        self.latest = self.layer_pass = None


class _LayerPass:
    """Collects what one backward pass measures, layer after layer.

    Args:
        kept: what the hooks have kept of the forward pass.
        chunk: the rows and their targets.
        hidden: the final hidden states.
    """

    def __init__(self, kept: OwnBackward, chunk: Chunk, hidden: Tensor) -> None:
        self.kept, self.chunk, self.spec = kept, chunk, kept.spec
        self.unasked = Unasked(chunk, hidden.shape[:2])
        self.places: dict[torch.device, _Places] = {}
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.like = hidden.new_empty(len(self._on(hidden.device).measured[0]), dtype=dtype)
        self.strengths: list[dict[ProjectionName, Tensor]] = [{} for _ in kept.layers]
        self.terms: list[dict[ProjectionName, _Term]] = [{} for _ in kept.layers]
        self.names = [set(self.spec.projections) & layer.projections.keys() for layer in kept.layers]
        self.group: list[int] = []
        self.joints: dict[int, Tensor] = {}

    def _on(self, device: torch.device) -> "_Places":
        """Return the indices of the targets (generated tokens) as tensors on a device.

        The layers of a model may be on several devices.
        """
        if device not in self.places:
            self.places[device] = _Places(self.chunk, self.spec, device)
        return self.places[device]

    def arrived(self, module: nn.Module, gradient: Float[Tensor, "row token features"]) -> None:
        """Measure the projections that a module computes. The backward pass has just reached the module's output.

        Args:
            module: the module.
            gradient: the gradient at its output.
        """
        for place, name, projection in self.kept.measured[module]:
            delta = projection.select(gradient)
            here = self._on(delta.device)
            norms = vector_norm(delta, self.spec.norm)
            self.unasked.note(norms, self.kept.layers[place].name)
            found = norms[here.measured] * self.kept.input_norms[module].to(delta.device)[here.measured]
            self.strengths[place][name] = found.to(self.like.device)
            if self.chunk.steps is None:
                continue
            inputs = self.kept.inputs[module].to(delta.device)
            # Q, K and V read the same storage. It is alive, so its address identifies the input.
            self.terms[place][name] = _Term(
                delta[here.seeded], inputs[here.seeded], self.kept.inputs[module].data_ptr()
            )
            if len(self.terms[place]) == sum(
                name in self.kept.layers[place].projections for name in self.spec.projections
            ):
                self._layer_is_complete(place)

    def _layer_is_complete(self, place: int) -> None:
        """Add a layer to the group of layers whose joint strengths are computed together.

        The joint strengths of the group are computed now in three cases: the group is full, the backward pass reaches
        no further layer, or its next layer has other projections.

        Args:
            place: the index of the layer among the measured layers.
        """
        layers = self.kept.layers
        self.group.append(place)
        others_follow = place > 0 and layers[place - 1].projections.keys() == layers[place].projections.keys()
        if others_follow and len(self.group) < _layers_at_once(list(self.terms[place].values())):
            return
        names = [name for name in self.spec.projections if name in self.terms[place]]
        terms = [[self.terms[one][name] for name in names] for one in self.group]
        found = _joint(lambda device: self._on(device).steps, terms).to(self.like.device)
        for one, values in zip(self.group, found.unbind(2), strict=True):
            columns = dict(zip(names, values.unbind(-1), strict=True))
            self.joints[one] = placed(columns, self.spec.projections, self._steps_like())
            self.terms[one].clear()
            for projection in layers[one].projections.values():
                self.kept.inputs.pop(projection.module, None)
        self.group.clear()

    def _steps_like(self) -> Tensor:
        return self.like.new_empty(2, self.chunk.num_steps)

    def result(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return (the strengths of the targets, the joint strengths of the steps, the effective ranks of the steps).

        The last two are None if the chunk has no steps. `OwnBackward.run` gives the shapes, and the errors.
        """
        self.unasked.check()
        for layer, names, found in zip(self.kept.layers, self.names, self.strengths, strict=True):
            for name in names - found.keys():
                raise UnsupportedModelError(
                    f"no gradient reaches projection {name} of {layer.name}, so it cannot be measured. Leave this "
                    "layer out with layers=..."
                )
        strength = torch.stack([placed(found, self.spec.projections, self.like) for found in self.strengths], 1)
        if self.chunk.steps is None:
            return strength, None, None
        absent = placed({}, self.spec.projections, self._steps_like())
        every = [self.joints.get(place, absent) for place in range(len(self.kept.layers))]
        joint, ranks = torch.stack(every, 2).unbind(0)
        return strength, per_length(joint, self.chunk.steps), ranks


class _Places:
    """The indices of the positions that predict the targets (generated tokens) of a chunk, on one device.

    Args:
        chunk: the rows and their targets.
        spec: gives the norm, which the joint strengths of steps need.
        device: the device of the indices.
    """

    def __init__(self, chunk: Chunk, spec: SignalSpec, device: torch.device) -> None:
        rows, columns = chunk.rows.to(device), chunk.columns.to(device) - 1
        measured, seeded = chunk.measured.to(device), chunk.seeded.to(device)
        # Where the gradients of the targets are: of those to be measured, and of all that are needed.
        self.measured = (rows[measured], columns[measured])
        self.seeded = (rows[seeded], columns[seeded])
        steps = chunk.steps
        self.steps = None if steps is None else StepFactors(steps.to(device), chunk.num_steps, spec.norm)


class Unasked:
    """Checks that one backward pass keeps the gradients of different targets (generated tokens) separate.

    A gradient may enter only positions that predict a target whose gradient is needed. If it enters another position
    (a leak), then positions influence each other, and the gradients of the targets are mixed.

    Args:
        chunk: the rows and their targets.
        shape: the number of rows and the number of positions of the gradients.
    """

    def __init__(self, chunk: Chunk, shape: Sequence[int]) -> None:
        mask = torch.ones(*shape, dtype=torch.bool, device=chunk.rows.device)
        mask[chunk.rows[chunk.seeded], chunk.columns[chunk.seeded] - 1] = False
        self.device, self.places = mask.device, {mask.device: torch.nonzero(mask, as_tuple=True)}
        self.leaks: list[tuple[str, Tensor]] = []

    def note(self, gradient: Tensor, name: str) -> None:
        """Look for a leak in the gradient of a layer, and remember the result for `check`.

        The result stays on the device, so the CPU need not wait for it.

        Args:
            gradient: the gradient, or its norm, at every position, `[row, token, ...]`.
            name: the name of the layer, for the error message.
        """
        if gradient.device not in self.places:
            rows, columns = self.places[self.device]
            self.places[gradient.device] = rows.to(gradient.device), columns.to(gradient.device)
        leaked = gradient[self.places[gradient.device]]
        self.leaks.append((name, (leaked.isfinite().all() & (leaked != 0).any()).to(self.device)))

    def check(self) -> None:
        """Raise UnsupportedModelError if `note` has found a leak.

        A gradient that is not finite does not count as a leak. It raises an error elsewhere.
        """
        if not self.leaks or not bool(torch.stack([leak for _, leak in self.leaks]).any()):
            return
        name = next(name for name, leak in self.leaks if bool(leak))
        raise UnsupportedModelError(
            f"positions influence each other outside softmax attention (seen at {name}), so one backward pass "
            "cannot keep the gradients of the tokens separate. Use the estimator 'full'."
        )


@dataclass(frozen=True)
class _Term:
    """The vectors of one projection from which a step's gradient Σ_i δ_i a_iᵀ is computed; i are the step's tokens.

    Args:
        delta: the gradients δ_i at the projection's output.
        inputs: the projection's inputs a_i.
        key: a number that identifies the inputs. Projections with the same inputs have the same key.
    """

    delta: Float[Tensor, "target rows"]
    inputs: Float[Tensor, "target columns"]
    key: int


def _layers_at_once(terms: Sequence[_Term]) -> int:
    """Return for how many layers the joint strengths are computed together.

    On a CPU this is 1. On a GPU it is as many as `_GROUP_ELEMENTS` allows.

    Args:
        terms: the vectors of one layer, one entry for each projection. They give the size of a layer.
    """
    if not terms or terms[0].delta.device.type != "cuda":
        return 1
    largest = max(len(term.delta) * (term.delta.shape[1] + term.inputs.shape[1]) for term in terms)
    return max(1, _GROUP_ELEMENTS // max(1, largest))


def _joint(
    steps_on: Callable[[torch.device], StepFactors | None], group: Sequence[Sequence[_Term]]
) -> Float[Tensor, "two step layer projection"]:
    """Return the norm and the effective rank of every step's gradient, for each projection of some layers.

    The first axis has the norms at index 0 and the ranks at index 1. The result is on the device of the first layer.

    Args:
        steps_on: a function of a device. It returns the `StepFactors`, which compute the norms, for this device.
        group: for each layer, the vectors of each projection.
    """
    device = group[0][0].delta.device
    alike = {tuple((term.delta.shape, term.inputs.shape, term.delta.device) for term in terms) for terms in group}
    if len(alike) > 1:
        return torch.cat([_joint(steps_on, [terms]).to(device) for terms in group], 2)
    steps = steps_on(device)
    assert steps is not None
    columns = []
    for terms in zip(*group, strict=True):
        keys = tuple(term.key for term in terms)
        found = steps.norms_and_ranks([term.delta for term in terms], [term.inputs for term in terms], keys)
        columns.append(torch.stack(found))
    steps.forget()
    return torch.stack(columns, -1).transpose(1, 2)
