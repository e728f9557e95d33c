"""A model whose layers are on two devices, or whose weights are offloaded, is measured as a model on one device.

The second device is a stand-in (`tagged_device`), which refuses every operation that mixes it with the CPU.
"""

import gc
import weakref

import pytest
import torch

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.errors import UnsupportedModelError
from antiphase.models.placement import devices_text, input_device, is_offloaded
from antiphase.models.reloading import reloading
from antiphase.models.weights import check_finite, weights_digest
from antiphase.signals.capture import observe
from antiphase.signals.measure import chosen_layers
from conftest import tiny_model
from spread_cases import SHAPES, offloaded, spread
from tagged_device import NAME, Device
from test_device import COMPLETIONS, ESTIMATORS, PROMPTS, steps_of, tensors_of

CPU, TAGGED = torch.device("cpu"), torch.device(NAME, 0)
FAST = ("own", "last", "full")


@pytest.fixture
def second_device(monkeypatch):
    monkeypatch.setattr(Device, "available", True)
    monkeypatch.setattr(Device, "cpu_is_a_gpu", True)


def batch(padding="right", repeated=1):
    return TokenBatch.from_ids(PROMPTS * repeated, COMPLETIONS * repeated, padding_side=padding)


def compare(truth_model, model, spec, rollouts=None, error=1e-6):
    rollouts = batch("left") if rollouts is None else rollouts
    truth, found = (
        tensors_of(token_signals(one, rollouts, spec, steps=steps_of(rollouts))) for one in (truth_model, model)
    )
    assert set(truth) == set(found)
    assert "steps.strength" in truth
    for key, value in found.items():
        assert value.device == rollouts.input_ids.device, key
        torch.testing.assert_close(value, truth[key], rtol=error, atol=error, equal_nan=True, msg=key)
    return found


def spec_of(estimator, **changes):
    return SignalSpec(estimator, ESTIMATORS[estimator], step_strength="joint", num_alternatives=2, **changes)


@pytest.mark.parametrize("first", [CPU, TAGGED], ids=["cpu first", "tagged first"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_layers_on_two_devices(estimator, shape, first, second_device) -> None:
    model = tiny_model()
    places = [(first, TAGGED if first == CPU else CPU)[number] for number in SHAPES[shape]]
    moved = spread(model, places)
    assert input_device(moved) == first
    assert devices_text(moved) == f"cpu + {NAME}:0"
    # The stand-in multiplies matrices by the CPU, but writes attention out in other operations.
    compare(model, moved, spec_of(estimator), error=2e-5)


@pytest.mark.parametrize("name", ["llama-mqa-tied", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt-neox", "bitnet"])
@pytest.mark.parametrize("estimator", FAST)
def test_other_models_on_two_devices(estimator, name, second_device) -> None:
    model = tiny_model(name)
    compare(model, spread(model, [TAGGED, TAGGED, CPU, CPU]), spec_of(estimator), error=2e-5)


@pytest.mark.parametrize("budget", [6, 24, 4096], ids=["in passes", "few at a time", "with shared prefixes"])
def test_prefixes_and_passes_on_two_devices(budget, second_device) -> None:
    model, long = tiny_model(), [list(range(5, 60))] * 4
    rollouts = TokenBatch.from_ids(long, [[10 + i, 11, 12, 40, 41] for i in range(4)])
    compare(model, spread(model, [TAGGED, TAGGED, CPU, CPU]), spec_of("own", token_budget=budget), rollouts, 2e-5)


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["llama-gqa", "llama-mqa-tied", "gemma2", "gpt2", "bitnet"])
@pytest.mark.parametrize("estimator", FAST)
def test_offloaded_weights(estimator, name, where, tmp_path) -> None:
    model = tiny_model(name)
    moved = offloaded(model, where, tmp_path)
    assert is_offloaded(moved)
    assert all(one.is_meta for one in moved.parameters())
    found = compare(model, moved, spec_of(estimator))
    assert found["magnitudes.unembedding_norm"].isfinite().any()
    assert all(one.is_meta for one in moved.parameters())


@pytest.mark.parametrize("estimator", FAST)
def test_weights_in_main_memory_beside_another_device(estimator, second_device) -> None:
    model = tiny_model()
    moved = spread(model, [TAGGED, TAGGED, "cpu", "cpu"])
    assert devices_text(moved) == f"{NAME}:0 + cpu (offloaded)"
    compare(model, moved, spec_of(estimator), error=2e-5)


@pytest.mark.parametrize("estimator", ["oracle", "oracle-own"])
def test_oracles_refuse_offloaded_weights(estimator, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"offloaded .* oracle needs the gradient at the weights"):
        token_signals(offloaded(tiny_model(), "cpu", tmp_path), batch(), SignalSpec(estimator))


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["llama-gqa", "llama-mqa-tied", "gpt2"])
def test_checks_read_offloaded_weights(name, where, tmp_path) -> None:
    model = tiny_model(name)
    assert weights_digest(offloaded(model, where, tmp_path)) == weights_digest(model)
    check_finite(offloaded(model, where, tmp_path / "again"), "tiny")
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0] = torch.nan
    with pytest.raises(Exception, match="contains NaN or infinity"):
        check_finite(offloaded(model, where, tmp_path / "nan"), "tiny")


def held(model, tmp_path, hooked):
    """How many weights of the layers are alive after a forward pass whose graph is alive."""
    moved, alive = offloaded(model, "disk", tmp_path), []
    layers = chosen_layers(moved, SignalSpec())

    def note(module, args):
        alive.extend(weakref.ref(one) for one in module.parameters(recurse=False))

    for layer in layers:
        for projection in layer.projections.values():
            hook = projection.module._hf_hook
            before = hook.pre_forward

            def loading(module, *args, before=before, **kwargs):
                result = before(module, *args, **kwargs)
                note(module, args)
                return result

            hook.pre_forward = loading
    with torch.enable_grad(), observe(moved, layers) as seen:
        hidden = seen.hidden(torch.tensor([[5, 6, 7, 8]]), grad=True)
        assert hidden.requires_grad
        gc.collect()
        return sum(one() is not None for one in alive), len(alive)


def test_the_graph_keeps_no_offloaded_weight(tmp_path, monkeypatch) -> None:
    kept, loaded = held(tiny_model(), tmp_path, True)
    assert (kept, loaded) == (0, 12)


def test_hooks_are_put_back(tmp_path) -> None:
    moved = offloaded(tiny_model(), "cpu", tmp_path)
    before = [vars(module).get("_hf_hook") for module in moved.modules()]
    with pytest.raises(KeyError), reloading(moved):
        raise KeyError
    assert [vars(module).get("_hf_hook") for module in moved.modules()] == before
