"""On a device that is not the CPU: nothing meets a tensor of another device, and the numbers are the CPU's.

The device of these tests is a stand-in (`tagged_device`). It finds what mixes devices, reads numbers one by one or
asks for float64, and no fault of a GPU's own kernels. `benchmarks/gpu/` is for those.
"""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

import antiphase
from antiphase import SignalSpec, TokenBatch, correlate, token_signals
from antiphase import devices as devices_of_antiphase
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.scores import ScoreSpec, rollout_scores
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from conftest import byte_tokenizer, tiny_model
from tagged_device import NAME, Device, TaggedTensor
from training_cases import run, same

ESTIMATORS = {"own": "all", "last": "last", "full": "all", "oracle": "all", "oracle-own": "all"}
MODELS = ("llama-gqa", "qwen2", "qwen3", "mistral-window", "gemma2", "gemma3", "phi3", "gpt2", "gpt-neox")
PROMPTS = [[5, 6, 7, 8, 9], [8, 9], [5, 6, 7, 8, 9]]
COMPLETIONS = [[10, 11, 12, 40, 41, 42, 99], [13, 14, 60, 61], [31, 200, 5, 7, 100, 101]]


@pytest.fixture(autouse=True)
def available(monkeypatch):
    monkeypatch.setattr(Device, "available", True)


@pytest.fixture
def no_double(monkeypatch):
    monkeypatch.setattr(Device, "has_double", False)
    monkeypatch.setattr(devices_of_antiphase, "_WITHOUT_DOUBLE", {NAME})


def on_device(model):
    return copy.deepcopy(model).to(NAME)


def batch_on(device, padding="right", completions=COMPLETIONS):
    return TokenBatch.from_ids(PROMPTS, completions, padding_side=padding, device=device)


def steps_of(batch):
    place = batch.completion_mask.long().cumsum(1) - 1
    return torch.where(batch.completion_mask, place // 3, -1)


def tensors_of(signals):
    found = {}
    for field in dataclasses.fields(signals):
        value = getattr(signals, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif dataclasses.is_dataclass(value) and not isinstance(value, SignalSpec):
            found |= {f"{field.name}.{name}": tensor for name, tensor in tensors_of(value).items()}
    return found


def test_the_stand_in_refuses_what_a_gpu_refuses() -> None:
    here, there = torch.ones(3), torch.ones(3, device=NAME)
    for mixed in (
        lambda: here + there,
        lambda: there.index_add_(0, torch.tensor([0]), here[:1]),
        lambda: torch.where(there > 0, here, there),
        lambda: there[torch.ones(3, dtype=torch.bool)].dot(here),
        lambda: torch.cat([here, there]),
        lambda: here.add_(there),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there * torch.tensor(2.0)).tolist() == [2.0, 2.0, 2.0]
    assert there[torch.tensor([0, 2])].shape == (2,)
    assert str(there.device) == f"{NAME}:0"
    assert type(there.cpu()) is Tensor


def test_the_stand_in_counts_what_would_wait() -> None:
    Device.transfers.clear()
    values = torch.arange(4.0, device=NAME)
    total = (values * 2).sum()
    assert not Device.transfers
    assert float(total) == 12.0
    assert values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert sum(Device.transfers.values()) == 2


CASES = [
    *((name, estimator, "left") for name in MODELS for estimator in ("own", "last")),
    *((name, "full", "right") for name in ("llama-gqa", "gemma2", "gpt2")),
    *(("llama-gqa", estimator, "right") for estimator in ("own", "last", "oracle", "oracle-own")),
]


@pytest.mark.parametrize(("name", "estimator", "padding"), CASES)
def test_signals_are_those_of_the_cpu(name, estimator, padding) -> None:
    model = tiny_model(name)
    spec = SignalSpec(estimator, ESTIMATORS[estimator], step_strength="joint", num_alternatives=2)
    here, there = batch_on("cpu", padding), batch_on(NAME, padding)
    truth = token_signals(model, here, spec, steps=steps_of(here))
    found = token_signals(on_device(model), there, spec, steps=steps_of(there))
    expected, got = tensors_of(truth), tensors_of(found)
    assert set(expected) == set(got)
    assert "steps.strength" in got
    for key, value in got.items():
        assert value.device.type == NAME, key
        torch.testing.assert_close(value.cpu(), expected[key], rtol=2e-5, atol=2e-5, equal_nan=True, msg=key)


@pytest.mark.parametrize("norm", ["nuclear", "frobenius", "l1"])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_a_device_without_float64(estimator, norm, no_double) -> None:
    model = tiny_model("llama-gqa")
    spec = SignalSpec(estimator, ESTIMATORS[estimator], norm=norm, step_strength="joint")
    here, there = batch_on("cpu"), batch_on(NAME)
    truth = token_signals(model, here, spec, steps=steps_of(here))
    found = token_signals(on_device(model), there, spec, steps=steps_of(there))
    torch.testing.assert_close(found.strength.cpu(), truth.strength, rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(found.steps.strength.cpu(), truth.steps.strength, rtol=1e-4, atol=1e-4, equal_nan=True)
    scores = rollout_scores(found, there, ScoreSpec(unit="token", min_tokens=3))
    assert not scores.inversion.isnan().all()


def test_a_batch_on_the_cpu_and_a_model_on_the_device() -> None:
    model, batch = tiny_model("llama-gqa"), batch_on("cpu")
    found = token_signals(on_device(model), batch, SignalSpec("own"))
    truth = token_signals(model, batch, SignalSpec("own"))
    assert found.strength.device.type == "cpu"
    torch.testing.assert_close(found.strength, truth.strength, equal_nan=True, rtol=2e-5, atol=2e-5)


def transfers(model, completions, spec):
    batch = batch_on(NAME, completions=completions)
    Device.transfers.clear()
    token_signals(model, batch, spec, steps=steps_of(batch))
    return sum(Device.transfers.values())


@pytest.mark.parametrize(("estimator", "more"), [("own", 0), ("last", 0), ("full", 6)])
def test_waits_do_not_grow_with_the_tokens(estimator, more) -> None:
    """`full` waits a few times for every block of 16 backward passes, of which there is one more here."""
    model = on_device(tiny_model("llama-gqa"))
    spec = SignalSpec(estimator, ESTIMATORS[estimator], step_strength="joint", token_budget=4096)
    few, many = [[10 + i for i in range(12)]] * 3, [[10 + i for i in range(24)]] * 3
    transfers(model, few, spec)  # the first call also tries the model on a short row
    assert transfers(model, many, spec) <= transfers(model, few, spec) + more


@pytest.mark.parametrize("unit", ["token", "type", "step"])
def test_scores_and_correlations(unit) -> None:
    model = tiny_model("llama-gqa")
    here, there = batch_on("cpu"), batch_on(NAME)
    found = token_signals(on_device(model), there, SignalSpec("own"), steps=steps_of(there))
    truth = token_signals(model, here, SignalSpec("own"), steps=steps_of(here))
    spec = ScoreSpec(unit=unit, min_tokens=3, min_steps=3)
    torch.testing.assert_close(
        rollout_scores(found, there, spec).inversion, rollout_scores(truth, here, spec).inversion, equal_nan=True
    )
    assert [str(one) for one in correlate(found, min_tokens=4)] == [str(one) for one in correlate(truth, min_tokens=4)]


@pytest.fixture
def no_inference_mode(monkeypatch):
    """Inference mode refuses tensors that wrap others, such as the stand-in's; no device needs that."""
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation(temperature, no_inference_mode) -> None:
    loaded = [LoadedModel("tiny", model, byte_tokenizer(), None) for model in (tiny_model(), tiny_model().to(NAME))]
    sampling = Sampling(max_new_tokens=12, temperature=temperature)
    here, there = (generate(one, PROMPTS, sampling, rollout_seeds(3, PROMPTS)) for one in loaded)
    assert there == here


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "tiny"
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def test_probe_without_float64(tiny, tmp_path, no_inference_mode, no_double) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "Count to {i}."}}\n' for i in range(2)))
    found = antiphase.probe(tiny, device=NAME, prompts=str(prompts), max_new_tokens=8, progress=False)
    assert found.to_frame().strength.notna().all()


def test_probe(tiny, tmp_path, no_inference_mode) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "Count to {i}."}}\n' for i in range(4)))
    settings = {"prompts": str(prompts), "max_new_tokens": 12, "estimators": ("own", "full"), "progress": False}
    here, there = (antiphase.probe(tiny, device=device, **settings) for device in ("cpu", NAME))
    assert there.result()["device"].startswith(NAME)
    columns = ["entropy", "logprob", "strength"]
    assert there.to_frame().token_id.equals(here.to_frame().token_id)
    assert (there.to_frame()[columns] - here.to_frame()[columns]).abs().max().max() < 1e-3
    for unit in ("token", "type", "step"):
        found, expected = (run.correlation(unit)["value"] for run in (there, here))
        assert found == pytest.approx(expected, abs=0.02, nan_ok=True)


@pytest.fixture
def accelerate_on_device(monkeypatch):
    """accelerate decides once in a process which device it takes."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", NAME)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    monkeypatch.undo()
    AcceleratorState._reset_state(reset_partial_state=True)


def trained(folder, trainer=CorRPOTrainer, config=CorRPOConfig, **changes):
    model = tiny_model().to(NAME)
    found = run(folder, trainer=trainer, config=config, model=model, use_cpu=False, max_steps=2, **changes)
    assert found.accelerator.device.type == NAME
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_training(tmp_path, no_inference_mode, accelerate_on_device) -> None:
    host = trained(tmp_path, GRPOTrainer, GRPOConfig)
    assert same(trained(tmp_path, inversion_weight=0.0), host)
    paper = {"inversion_unit": "step", "inversion_splitter": "fixed:3", "inversion_combine": "penalty"}
    paper |= {"inversion_estimator": "full", "inversion_step_strength": "joint", "inversion_min_steps": 3}
    for term in ({}, paper):
        trainer = trained(tmp_path, inversion_weight=0.5, **term)
        assert not same(trainer, host)
        logs = [entry for entry in trainer.state.log_history if "inversion/mean" in entry]
        assert len(logs) == 2
        assert all(entry["inversion/undefined"] < 1 for entry in logs)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_training_without_float64(tmp_path, no_inference_mode, accelerate_on_device, no_double) -> None:
    logs = trained(tmp_path, inversion_weight=0.5).state.log_history
    assert [entry["inversion/weight"] for entry in logs if "inversion/weight" in entry] == [0.5, 0.5]


def test_parameters_are_on_the_device() -> None:
    assert all(isinstance(p.data, TaggedTensor) for p in tiny_model().to(NAME).parameters())
    assert antiphase.models.loading.resolve_device(NAME) == torch.device(NAME)
