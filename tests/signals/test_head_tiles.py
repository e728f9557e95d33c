"""The head by tiles of the vocabulary gives what the head over the whole vocabulary gives, or is not used."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from antiphase.errors import NonFiniteError
from antiphase.signals import entropy, target_gradient, vocabulary_tiles
from antiphase.signals.entropy import HeadSignals, head_signals
from antiphase.signals.output_head import head_of
from antiphase.types import MAGNITUDES, SignalSpec
from conftest import ARCHITECTURES, VOCAB, pure_double, tiny_model
from tagged_device import NAME, TaggedTensor

TARGETS = 7
IDS = torch.tensor([20, 21, 299, 0, 64, 63, 150])
SIGNALS = ("entropy", "logprob", "logprob_control", "self_certainty", "impurity")
SPEC = SignalSpec(num_alternatives=5, temperature=0.8)


def states(dtype: torch.dtype = torch.float64, number: int = TARGETS) -> torch.Tensor:
    return torch.randn(number, 24, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Tiles so small that the vocabulary has several; collects for each call of the head whether they were used."""
    used, in_tiles = [], vocabulary_tiles.head_in_tiles

    def watched(*args, **options):
        found = in_tiles(*args, **options)
        used.append(found is not None)
        return found

    monkeypatch.setattr(entropy, "head_in_tiles", watched)
    monkeypatch.setattr(vocabulary_tiles, "_TILE", (3, 64))
    return used


def over_the_whole(model, hidden, ids, spec=SPEC) -> HeadSignals:
    """The signals from whole rows of logits, with seeds from a backward pass through the whole head."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (vocabulary_tiles, target_gradient):
            patch.setattr(module, "plain_linear", lambda _: None)
        return head_signals(model, hidden, ids, spec, want_seed=True)


def assert_same(fast: HeadSignals, slow: HeadSignals, rtol: float, atol: float) -> None:
    for name in SIGNALS:
        left, right = getattr(fast, name), getattr(slow, name)
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    for name in MAGNITUDES:
        left, right = getattr(fast.magnitudes, name), getattr(slow.magnitudes, name)
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol, equal_nan=True)
    torch.testing.assert_close(fast.seed, slow.seed, rtol=max(rtol, atol), atol=atol)
    torch.testing.assert_close(fast.alternatives.logprobs, slow.alternatives.logprobs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_are_the_whole_in_float64(architecture: str, tiles: list[bool]) -> None:
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        fast = head_signals(model, states(), IDS, SPEC, want_seed=True)
        slow = over_the_whole(model, states(), IDS)
    assert tiles == [True, False]
    assert_same(fast, slow, rtol=1e-12, atol=1e-13)
    assert torch.equal(fast.alternatives.token_ids, slow.alternatives.token_ids)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 0.05), (torch.float16, 0.005)])
@pytest.mark.parametrize("architecture", ["llama-gqa", "gemma2", "cohere", "granite", "gpt2", "phi3"])
def test_tiles_are_the_whole_in_the_models_dtype(
    architecture: str, dtype: torch.dtype, error: float, tiles: list[bool]
) -> None:
    model = tiny_model(architecture, dtype)
    fast = head_signals(model, states(dtype), IDS, SPEC, want_seed=True)
    assert_same(fast, over_the_whole(model, states(dtype), IDS), rtol=error, atol=error)
    assert tiles == [True, False]
    assert fast.entropy.dtype == torch.float32
    assert fast.seed.dtype == dtype


def test_a_bias_and_a_head_that_scales_its_input(tiles: list[bool]) -> None:
    model = tiny_model(dtype=torch.float64)
    model.lm_head = torch.nn.Linear(24, VOCAB, dtype=torch.float64).requires_grad_(False)
    inner = model.model.forward

    def scaled(**options):
        output = inner(**options)
        output.last_hidden_state = output.last_hidden_state * 3
        return output

    model.model.forward = scaled
    fast = head_signals(model, states(), IDS, SPEC, want_seed=True)
    assert_same(fast, over_the_whole(model, states(), IDS), rtol=1e-12, atol=1e-13)
    assert tiles == [True, False]


@pytest.mark.parametrize("architecture", ["llama-gqa", "gemma2"])
def test_under_autocast(architecture: str, tiles: list[bool]) -> None:
    model, hidden = tiny_model(architecture), states(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = head_signals(model, hidden, IDS, SPEC, want_seed=True)
        slow = over_the_whole(model, hidden, IDS)
    assert tiles == [True, False]
    assert_same(fast, slow, rtol=0.05, atol=0.05)


def changed(model, change, *, hooked: bool = False) -> None:
    """Let a model's forward change its logits; or a hook of the model, which sees the same output."""
    forward = model.forward

    def with_change(**options):
        output = forward(**options)
        output.logits = change(model, options, output.logits)
        return output

    if hooked:
        model.register_forward_hook(
            lambda module, args, kwargs, output: setattr(output, "logits", change(model, kwargs, output.logits)),
            with_kwargs=True,
        )
    else:
        model.forward = with_change


def at_5(model, options, logits):
    logits[..., 5] = -1e9
    return logits


def near_the_end(model, options, logits):
    logits[..., 290] = -1e9
    return logits


def times_norm(model, options, logits):
    return logits * model.model(input_ids=options["input_ids"]).last_hidden_state.norm(dim=-1, keepdim=True)


def mean_of_the_first(model, options, logits):
    """Mixes logits where the first of a tile is large, so not on every target."""
    return torch.where(logits[..., :1] > 1.0, logits - logits.mean(-1, keepdim=True), logits)


VECTOR = torch.linspace(-1, 1, VOCAB, dtype=torch.float64)
# What a head may do with its logits, and whether tiles are right for it.
CHANGES = {
    "nothing": (lambda m, o, z: z, True),
    "a cap": (lambda m, o, z: 3 * (z / 3).tanh(), True),
    "a cap that is not smooth": (lambda m, o, z: z.clamp(-1, 1), True),
    "times the norm of the state": (times_norm, False),
    "minus the mean": (lambda m, o, z: z - z.mean(-1, keepdim=True), False),
    "normalised": (lambda m, o, z: z.log_softmax(-1), False),
    "divided by the greatest": (lambda m, o, z: z / z.detach().abs().amax(-1, keepdim=True), False),
    "writes into a place": (at_5, False),
    "writes into a later place": (near_the_end, False),
    "plus a vector": (lambda m, o, z: z + VECTOR, False),
    "times a vector of the tile's size": (lambda m, o, z: z * VECTOR[: z.shape[-1]], False),
    "another order": (lambda m, o, z: z.flip(-1), False),
    "fewer logits": (lambda m, o, z: z[..., :-7], False),
    "a mean, for some targets": (mean_of_the_first, False),
}


@pytest.mark.parametrize("hooked", [False, True], ids=["forward", "hook"])
@pytest.mark.parametrize("kind", CHANGES)
def test_heads_of_another_form(kind: str, hooked: bool, tiles: list[bool]) -> None:
    model = tiny_model(dtype=torch.float64)
    change, right = CHANGES[kind]
    changed(model, change, hooked=hooked)
    ids = IDS.clamp(max=280) if kind == "fewer logits" else IDS
    for _ in range(2):
        fast = head_signals(model, states(), ids, SPEC, want_seed=True)
        assert_same(fast, over_the_whole(model, states(), ids), rtol=1e-12, atol=1e-13)
    assert tiles == [right, False, right, False]


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind != "a mean, for some targets"])
def test_the_first_call_has_one_target(kind: str, tiles: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """One target needs one tile alone, but the model is tested with several."""
    monkeypatch.setattr(vocabulary_tiles, "_TILE", (4, 100))
    model = tiny_model(dtype=torch.float64)
    change, right = CHANGES[kind]
    changed(model, change)
    ids = IDS.clamp(max=280) if kind == "fewer logits" else IDS
    head_signals(model, states()[:1], ids[:1], SPEC, want_seed=True)
    fast = head_signals(model, states(), ids, SPEC, want_seed=True)
    assert_same(fast, over_the_whole(model, states(), ids), rtol=1e-12, atol=1e-13)
    assert tiles == [right, right, False]


def test_memory_that_runs_out_in_the_test_of_a_head_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(vocabulary_tiles, "_equal_in_tiles", no_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        head_signals(tiny_model(dtype=torch.float64), states(), IDS, SPEC, want_seed=True)


def test_undefined_logits_beside_equal_ones(tiles: list[bool]) -> None:
    """Two NaN and a tie at the last rank leave fewer equal logits than ranks."""
    model = tiny_model(dtype=torch.float64)

    def change(model, options, logits):
        return torch.where(torch.isin(logits.argsort().argsort(), torch.tensor([0, 1])), torch.nan, logits.round())

    changed(model, change)
    for number in (3, 4, 5):
        with pytest.raises(NonFiniteError):
            head_signals(model, states(), IDS, SignalSpec(num_alternatives=number), want_seed=True)


@pytest.mark.parametrize("kind", ["hooked", "subclass", "own forward"])
def test_output_layers_of_another_form(kind: str, tiles: list[bool]) -> None:
    model = tiny_model(dtype=torch.float64)
    layer = model.lm_head
    if kind == "hooked":
        layer.register_forward_hook(lambda module, args, output: output.square())
    elif kind == "own forward":
        inner = layer.forward
        layer.forward = lambda x: inner(x**3)
    else:

        class Cubed(torch.nn.Linear):
            def forward(self, x):
                return super().forward(x**3)

        layer.__class__ = Cubed
    fast = head_signals(model, states(), IDS, SPEC, want_seed=True)
    assert_same(fast, over_the_whole(model, states(), IDS), rtol=1e-12, atol=1e-13)
    assert tiles == [False, False]


def test_a_head_that_mixes_logits_of_later_targets_only(tiles: list[bool]) -> None:
    # The test of the model looks at the first two targets; the comparison in each call looks at all.
    model = tiny_model(dtype=torch.float64)
    first = states()[0]

    def change(model, options, logits):
        hidden = model.model(input_ids=options["input_ids"]).last_hidden_state
        plain = (hidden - first).abs().sum(-1, keepdim=True) < 1e-9
        return torch.where(plain, logits, logits - logits.mean(-1, keepdim=True))

    changed(model, change)
    head_signals(model, states()[:1].repeat(2, 1), IDS[:2], SPEC, want_seed=True)
    for _ in range(2):
        fast = head_signals(model, states(), IDS, SPEC, want_seed=True)
        assert_same(fast, over_the_whole(model, states(), IDS), rtol=1e-12, atol=1e-13)
    assert tiles == [True, False, False, False, False]


def test_a_model_whose_forward_is_replaced_is_tested_again(tiles: list[bool]) -> None:
    model = tiny_model(dtype=torch.float64)
    head_signals(model, states(), IDS, SPEC, want_seed=True)
    changed(model, CHANGES["minus the mean"][0])
    fast = head_signals(model, states(), IDS, SPEC, want_seed=True)
    assert_same(fast, over_the_whole(model, states(), IDS), rtol=1e-12, atol=1e-13)
    assert tiles == [True, False, False]


@pytest.mark.parametrize("architecture", ["llama-gqa", "gemma2"])
def test_the_seed_of_the_log_probability(architecture: str) -> None:
    spec = dataclasses.replace(SPEC, target="logprob")
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        found = head_signals(model, states(), IDS, spec, want_seed=True).seed
        hidden = states().requires_grad_()
        with head_of(model) as head:
            log_p = (head(hidden) / spec.temperature).log_softmax(-1).gather(-1, IDS[:, None])
            (truth,) = torch.autograd.grad(log_p.sum(), hidden)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Finds the number of elements of the largest tensor that an operation makes, weights and their views aside."""

    def __init__(self, model) -> None:
        super().__init__()
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.weights:
                self.number = max(self.number, tensor.numel())
        return found


@pytest.mark.parametrize("num_alternatives", [0, 4])
@pytest.mark.parametrize(("architecture", "dtype"), [("llama-gqa", torch.float32), ("gemma2", torch.bfloat16)])
def test_no_tensor_is_larger_than_a_tile(
    architecture: str, dtype: torch.dtype, num_alternatives: int, tiles: list[bool], monkeypatch
) -> None:
    monkeypatch.setattr(vocabulary_tiles, "_TILE", (16, 64))
    monkeypatch.setattr(vocabulary_tiles, "_SEED_ELEMENTS", 24 * 16)
    model, hidden = tiny_model(architecture, dtype), states(dtype, 40)
    ids, spec = torch.arange(40), SignalSpec(num_alternatives=num_alternatives)
    head_signals(model, hidden, ids, spec, want_seed=True)  # also tests the model, on two targets
    with Largest(model) as largest:
        head_signals(model, hidden, ids, spec, want_seed=True)
    assert tiles == [True, True]
    assert largest.number == max(16 * 64, hidden.numel())


def test_banned_tokens_and_undefined_logits(tiles: list[bool]) -> None:
    model = tiny_model(dtype=torch.float64)
    model.lm_head = torch.nn.Linear(24, VOCAB, dtype=torch.float64).requires_grad_(False)
    model.lm_head.bias[:130] = -torch.inf
    model.lm_head.bias[200] = -torch.inf
    ids = IDS.clamp(min=140)
    fast = head_signals(model, states(), ids, SPEC, want_seed=True)
    slow = over_the_whole(model, states(), ids)
    assert_same(fast, slow, rtol=1e-12, atol=1e-13)
    assert fast.entropy.isfinite().all()
    assert (fast.self_certainty == torch.inf).all()
    with pytest.raises(NonFiniteError, match=r"target token 0 \(id 20\)"):
        head_signals(model, states(), IDS, SPEC, want_seed=True)
    model.lm_head.bias[200] = torch.nan
    with pytest.raises(NonFiniteError, match="contain NaN"):
        head_signals(model, states(), ids, SPEC, want_seed=True)
    model.lm_head.bias[200] = torch.inf
    with pytest.raises(NonFiniteError, match="contain NaN"):
        head_signals(model, states(), ids, SPEC, want_seed=False)


def test_tiles_on_another_device(tiles: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_tiles, "_GPU_TILE", (3, 64))
    here = tiny_model("gemma2")
    there = tiny_model("gemma2").to(NAME)
    monkeypatch.setattr(vocabulary_tiles, "plain_linear", lambda model: model.lm_head)
    truth = head_signals(here, states(torch.float32), IDS, SPEC, want_seed=True)
    found = head_signals(there, states(torch.float32).to(NAME), IDS.to(NAME), SPEC, want_seed=True)
    assert tiles == [True, True]
    for name in (*SIGNALS, "seed"):
        assert isinstance(getattr(found, name), TaggedTensor)
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(truth, name), rtol=1e-5, atol=1e-5)


def test_no_targets(tiles: list[bool]) -> None:
    found = head_signals(tiny_model(), states(torch.float32)[:0], IDS[:0], SPEC, want_seed=True)
    assert found.entropy.shape == (0,)
    assert found.seed.shape == (0, 24)
