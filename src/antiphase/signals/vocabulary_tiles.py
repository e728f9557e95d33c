"""Apply the output head to tiles: to some targets and a part of the vocabulary at a time.

The output layer of most heads is a plain linear layer. The logits of a part of the vocabulary then need only some rows
of its weight. What follows the layer (a softcap, a scale, a wider dtype) is the model's own code: the model's forward
runs with a stand-in for the layer, which returns the layer's output for the tile.

This is right if what follows the layer treats each logit on its own. `can_tile` finds this out for each model, on a
few targets: cut into tiles, the head must give the same logits as in one piece, and the gradient of a target's logit
at the output of the layer must be zero except at the target. `chosen_logits` computes the logit of each target alone,
and its gradient at the hidden state, which is the seed. In each call, these logits are compared with those of the
tiles. If one of the tests fails, `signals.entropy` applies the head to the whole vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from antiphase.devices import says_out_of_memory
from antiphase.signal_spec import SignalSpec
from antiphase.signals.alternatives import Candidates
from antiphase.signals.logit_sums import LogitSums, joined_sums, sums_of
from antiphase.signals.target_gradient import plain_linear, seeds_by_rows

Head = Callable[[Tensor], Tensor]

# The number of targets and of tokens of the vocabulary in one tile. On a CPU, larger tiles take more memory and are
# not faster. A GPU needs large tiles to be busy.
_TILE = (1024, 2048)
_GPU_TILE = (4096, 16384)
# Seeds are computed for this many elements of hidden states at a time.
_SEED_ELEMENTS = 1 << 17
# The number of targets on which `can_tile` tests a model.
_TESTED = 2

# For each model: what its head consisted of when it was tested, and the result.
_TESTS: MutableMapping[nn.Module, tuple[tuple[int, ...], bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class TiledHead:
    """The results of applying the output head to tiles (parts of the vocabulary), for each target (generated token).

    Args:
        sums: the sums from which the signals are computed.
        candidates: the tokens with the greatest logits, sorted by id; None if none are asked for.
        seed: ∂target/∂h, the gradient of the target at the final hidden state; None if it is not asked for.
    """

    sums: LogitSums
    candidates: Candidates | None
    seed: Float[Tensor, "target hidden"] | None


def head_in_tiles(
    model: nn.Module,
    head: Head,
    hidden: Float[Tensor, "target hidden"],
    token_ids: Int[Tensor, "target"],
    spec: SignalSpec,
    *,
    want_seed: bool,
) -> TiledHead | None:
    """Apply the output head to tiles, and return sums over the logits of each target (generated token).

    The result is None if the head cannot be cut into tiles, and must be applied to the whole vocabulary.

    Args:
        model: the model.
        head: the model's function from hidden states to logits; see `head_of`.
        hidden: the final hidden states, without an autograd graph.
        token_ids: the generated tokens.
        spec: gives the temperature, the target and the number of alternatives.
        want_seed: whether the gradient of each target at the final hidden state (the seed) is also computed. If it
            is wanted for the target `logprob`, the function returns None, because this seed depends on all logits.

    Cost: one matrix product of the hidden states with the weight of the output layer.
    Memory: one tile, two blocks of `sums_of`, and a few numbers per target.
    """
    layer = plain_linear(model)
    if layer is None or (want_seed and spec.target != "logit") or not len(hidden):
        return None
    targets, width = _tile_shape(len(hidden), layer.out_features, hidden.device)
    if not can_tile(model, head, layer, hidden, token_ids):
        return None
    alone, seed = chosen_logits(head, layer, hidden, token_ids, want_seed=want_seed)
    sums: list[LogitSums] = []
    best: list[Candidates] = []
    for states, ids in zip(hidden.split(targets), token_ids.split(targets), strict=True):
        found, candidates = _over_vocabulary(head, layer, states, ids, spec, width)
        sums.append(found)
        if candidates is not None:
            best.append(candidates)
    whole = joined_sums(sums)
    if not bool(_same(alone, whole.chosen.to(alone.dtype)).all()):
        _TESTS[model] = _consists_of(model, layer), False
        return None
    return TiledHead(whole, Candidates.joined(best), seed)


def can_tile(model: nn.Module, head: Head, layer: nn.Linear, hidden: Tensor, token_ids: Tensor) -> bool:
    """Test whether a model's output head can be applied to parts of the vocabulary.

    The result is true if all computation after the output layer, such as a softcap, treats each logit on its own. The
    test is repeated only if the model's forward, hooks or output layer have been replaced.

    Args:
        model: the model.
        head: the model's function from hidden states to logits.
        layer: the output layer.
        hidden: the final hidden states. The test uses the first few.
        token_ids: the generated tokens.
    """
    head_parts = _consists_of(model, layer)
    before = _TESTS.get(model)
    if before is not None and before[0] == head_parts:
        return before[1]
    states, ids = hidden[:_TESTED].detach(), token_ids[:_TESTED]
    # The test always cuts the vocabulary, also if this call would need only one tile: later calls need more.
    smallest = (_TILE if hidden.device.type == "cpu" else _GPU_TILE)[1]
    width = min(smallest, -(-layer.out_features // 2))
    try:
        result = _equal_in_tiles(head, layer, states, ids, width)
    except (RuntimeError, IndexError, ValueError, TypeError, AssertionError) as error:
        if says_out_of_memory(error):
            raise
        # The head cannot work on a part of the vocabulary, for example because it writes into a fixed place.
        result = False
    if bool(states.isfinite().all()):
        _TESTS[model] = head_parts, result
    return result


def _consists_of(model: nn.Module, layer: nn.Linear) -> tuple[int, ...]:
    """Return numbers that identify a model's output layer, its forward and its hooks.

    `can_tile` tests the model again if they have changed.
    """
    hooks = [*model._forward_hooks.values(), *model._forward_pre_hooks.values()]
    return (id(layer), id(vars(model).get("forward")), *map(id, hooks))


def chosen_logits(
    head: Head, layer: nn.Linear, hidden: Tensor, token_ids: Tensor, *, want_seed: bool
) -> tuple[Tensor, Tensor | None]:
    """Return (the logit of each generated token, the gradient of this logit at the final hidden state).

    The logits of all other tokens are not computed. The second value is None unless `want_seed` is true. Autograd
    computes it through the whole head, so it contains every path from the hidden state to the logit. The product of
    the state with the token's row of the weight is in float32 or wider.
    """
    logits: list[Tensor] = []
    seeds: list[Tensor] = []
    size = max(1, _SEED_ELEMENTS // hidden.shape[1])
    for states, ids in zip(hidden.detach().split(size), token_ids.split(size), strict=True):
        with torch.set_grad_enabled(want_seed), _standing_in(layer, partial(_rows_of, layer, ids)):
            leaf = states.requires_grad_() if want_seed else states
            found = head(leaf)[:, 0]
            if want_seed:
                seeds.append(torch.autograd.grad(found.sum(), leaf)[0])
            logits.append(found.detach())
    return torch.cat(logits), torch.cat(seeds) if want_seed else None


def _rows_of(layer: nn.Linear, token_ids: Tensor, inputs: Tensor) -> Tensor:
    """Return the output of the layer for one token of the vocabulary per input, `[..., target, 1]`.

    Args:
        layer: the output layer.
        token_ids: the token of each input.
        inputs: the inputs of the layer, `[..., target, hidden]`.
    """
    wide = torch.promote_types(inputs.dtype, torch.float32)
    found = (inputs.to(wide) * layer.weight.detach()[token_ids]).sum(-1, keepdim=True)
    if layer.bias is not None:
        found = found + layer.bias.detach()[token_ids, None]
    device = inputs.device.type
    return found.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype)


def _over_vocabulary(
    head: Head, layer: nn.Linear, states: Tensor, token_ids: Tensor, spec: SignalSpec, width: int
) -> tuple[LogitSums, Candidates | None]:
    """Go through the vocabulary in tiles, for some targets, and return (the sums, the most probable tokens).

    The second value is None if no alternatives are asked for.

    Args:
        head: the model's function from hidden states to logits.
        layer: the output layer.
        states: the final hidden states that predict the targets (generated tokens).
        token_ids: the ids of the targets.
        spec: gives the temperature and the number of alternatives.
        width: the number of tokens of the vocabulary in a tile.
    """
    sums, best = None, None
    for first in range(0, layer.out_features, width):
        found, best = _of_tile(head, layer, states, token_ids, spec, first, width, best)
        sums = found if sums is None else sums.merged(found, spec.temperature)
    assert sums is not None
    return sums, best


def _of_tile(
    head: Head,
    layer: nn.Linear,
    states: Tensor,
    token_ids: Tensor,
    spec: SignalSpec,
    first: int,
    width: int,
    best: Candidates | None,
) -> tuple[LogitSums, Candidates | None]:
    """Compute one tile of logits, and return (the sums over it, the most probable tokens so far).

    The arguments are those of `_over_vocabulary`, and two more. The memory of the tile is freed on return.

    Args:
        first: the id of the first token of the tile.
        best: the most probable tokens of the tiles before this one; None if there are none.
    """
    with torch.no_grad():
        rows = layer.weight[first : first + width]
        bias = None if layer.bias is None else layer.bias[first : first + width]
        with _standing_in(layer, lambda x: functional.linear(x, rows, bias)):
            logits = head(states)
        if spec.num_alternatives:
            best = Candidates.of(logits, spec.num_alternatives, first, best)
        return sums_of(logits, token_ids, spec.temperature, first), best


def _equal_in_tiles(head: Head, layer: nn.Linear, states: Tensor, token_ids: Tensor, width: int) -> bool:
    """Test a head on some hidden states, and return whether it can be applied to tiles of `width` tokens.

    Two things must hold. The logits must be the same in tiles as in one piece. And each logit must depend only on the
    output of the output layer for the same token.
    """
    with torch.enable_grad():
        whole, seed = seeds_by_rows(layer, head, states.clone().requires_grad_(), token_ids)
    if seed is None or whole.shape[-1] != layer.out_features:
        return False
    outputs: list[Tensor] = []

    def kept(inputs: Tensor) -> Tensor:
        outputs.append(functional.linear(inputs, layer.weight, layer.bias))
        return outputs[-1].clone()

    with torch.no_grad():
        with _standing_in(layer, kept):
            whole = head(states)
        for first in range(0, layer.out_features, width):
            part = outputs[0][..., first : first + width]
            with _standing_in(layer, partial(_instead, part)):
                found = head(states)
            expected = whole[:, first : first + width]
            # The last elements of a tile may be computed by other instructions, which round differently.
            close = 4 * torch.finfo(found.dtype).eps
            if found.shape != expected.shape or not torch.allclose(found, expected, close, close, equal_nan=True):
                return False
    alone = chosen_logits(head, layer, states, token_ids, want_seed=True)
    assert alone[1] is not None
    chosen = whole.gather(-1, token_ids[:, None])[:, 0]
    return bool(_same(alone[0], chosen).all()) and bool(_same(alone[1], seed, whole.dtype).all())


def _instead(output: Tensor, inputs: Tensor) -> Tensor:
    """Ignore the inputs, and return a copy of `output`. The model may write into the copy.

    This function replaces the forward of the output layer.
    """
    return output.clone()


def _same(left: Tensor, right: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a mask that is True where two tensors are equal up to rounding, or both NaN.

    Args:
        left: a tensor.
        right: the other tensor.
        dtype: the dtype whose rounding is allowed; None means the dtype of `left`.
    """
    error = torch.finfo(dtype or left.dtype).eps ** 0.5
    return torch.isclose(left, right, error, error, equal_nan=True)


def _tile_shape(num_targets: int, vocabulary: int, device: torch.device) -> tuple[int, int]:
    """Return the size of a tile of logits: (number of targets, number of tokens of the vocabulary).

    If there are few targets, a tile contains more of the vocabulary.
    """
    targets, width = _TILE if device.type == "cpu" else _GPU_TILE
    wider = max(1, targets // num_targets)
    return targets, min(vocabulary, width * wider)


@contextlib.contextmanager
def _standing_in(layer: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the method `forward` of a layer inside a `with` block.

    The layer must use the `forward` of its class, and must not have been given one of its own before.
    """
    layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        layer.__dict__.pop("forward")
