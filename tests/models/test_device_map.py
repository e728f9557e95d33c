"""Load a model by a device map: over main memory and the disk, with adapters and quantised weights, and run it."""

import json

import pytest
import torch

import antiphase
from antiphase import SignalSpec, TokenBatch, cli, load_model, token_signals
from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError
from antiphase.models.placement import is_offloaded
from antiphase.models.weights import weights_digest
from antiphase.rollouts.sampling import Sampling, generate
from quantized_cases import bitsandbytes, compressed_int8, fp8, save_float

BATCH = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [[10, 11, 12, 13], [60, 61, 62]])


def written(path, places):
    path.write_text(json.dumps(places))
    return str(path)


@pytest.fixture
def on_disk(tmp_path):
    """A device map that offloads two layers and the head to the disk."""
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    return written(
        tmp_path / "map.json", {**places, "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    )


@pytest.mark.parametrize("name", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_named_maps_give_the_model(name, model_dir) -> None:
    loaded = load_model(str(model_dir), device_map=name)
    assert (loaded.devices, loaded.dtype) == ("cpu", "float32")
    assert weights_digest(loaded.model) == weights_digest(load_model(str(model_dir)).model)


def test_a_whole_model_on_disk(model_dir, tmp_path, capsys) -> None:
    loaded = load_model(str(model_dir), device_map=written(tmp_path / "map.json", {"": "disk"}))
    plain = load_model(str(model_dir))
    assert "meta device" not in capsys.readouterr().err
    assert (loaded.devices, loaded.device) == ("cpu + disk (offloaded)", torch.device("cpu"))
    assert all(weight.is_meta for weight in loaded.model.parameters())
    drawn = [generate(one, [[5, 6, 7], [8, 9]], Sampling(max_new_tokens=8), [1, 2]) for one in (loaded, plain)]
    assert drawn[0] == drawn[1]
    found, truth = (token_signals(one.model, BATCH) for one in (loaded, plain))
    torch.testing.assert_close(found.strength, truth.strength, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("estimator", ["own", "full"])
def test_a_file_offloads_to_disk(estimator, model_dir, on_disk) -> None:
    loaded, plain = load_model(str(model_dir), device_map=on_disk), load_model(str(model_dir))
    assert loaded.devices == "cpu + disk (offloaded)"
    assert is_offloaded(loaded.model)
    assert loaded.device == torch.device("cpu")
    assert weights_digest(loaded.model) == weights_digest(plain.model)
    found, truth = (token_signals(one.model, BATCH, SignalSpec(estimator)) for one in (loaded, plain))
    torch.testing.assert_close(found.strength, truth.strength, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_an_offloaded_model_in_another_dtype(model_dir, on_disk) -> None:
    loaded, plain = (load_model(str(model_dir), dtype="bfloat16", device_map=one) for one in (on_disk, None))
    assert loaded.dtype == "bfloat16"
    assert weights_digest(loaded.model) == weights_digest(plain.model)
    found, truth = (token_signals(one.model, BATCH) for one in (loaded, plain))
    torch.testing.assert_close(found.strength, truth.strength, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("command", ["probe", "eval"])
def test_commands_with_offloaded_layers(command, model_dir, on_disk, tmp_path) -> None:
    rest = ["--max-new-tokens", "12", "--quiet", "--no-figures", "--min-tokens", "4", "--token-budget", "512"]
    if command == "probe":
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text("".join(f'{{"prompt": "Count to {i}."}}\n' for i in range(3)))
        rest += ["--prompts", str(prompts)]
    else:
        rest += ["--tasks", "sums", "--num-problems", "3", "--samples", "1", "--temperature", "1"]
    tables = []
    for name, more in (("spread", ["--device-map", on_disk]), ("plain", [])):
        assert cli.main([command, str(model_dir), *rest, *more, "--out", str(tmp_path / name)]) == 0
        tables.append(antiphase_tokens(tmp_path / name))
    assert tables[0].token_id.equals(tables[1].token_id)
    assert (tables[0].strength - tables[1].strength).abs().max() < 1e-6
    summary = json.loads((tmp_path / "spread" / "summary.json").read_text())
    assert summary["results"][0]["device"] == "cpu + disk (offloaded)"


def antiphase_tokens(folder):
    import pandas as pd

    return pd.read_parquet(folder / "tokens.parquet")


def test_wrong_maps_are_refused(model_dir, tmp_path) -> None:
    one = {"model": "cpu", "lm_head": "cpu"}
    for text, message in (
        ("nowhere.json", "no such file can be read"),
        (written(tmp_path / "list.json", ["cpu"]), "must map the names of modules"),
        (written(tmp_path / "bool.json", {"model": True}), "must map the names of modules"),
        (written(tmp_path / "part.json", {"model.norm": "cpu"}), "gives no place to the weight"),
        (written(tmp_path / "name.json", {**one, "model.layer.0": "cpu"}), "is no module of this model"),
        (written(tmp_path / "far.json", {**one, "lm_head": "cuda:71"}), "cannot be used here"),
        (written(tmp_path / "what.json", {**one, "lm_head": "gpu"}), "cannot be used here"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            load_model(str(model_dir), device_map=text)
    with pytest.raises(InvalidInputError, match="not both"):
        load_model(str(model_dir), device="cpu", device_map="auto")
    with pytest.raises(InvalidInputError, match="not both"):
        antiphase.probe(str(model_dir), device="cpu", device_map="auto")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(InvalidInputError, match="no valid JSON"):
        antiphase.probe(str(model_dir), device_map=str(bad))


def test_a_device_map_without_accelerate(model_dir, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="a device map needs the package 'accelerate'"):
        antiphase.probe(str(model_dir), device_map="auto")


def test_an_adapter_on_offloaded_weights(model_dir, on_disk, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    peft.get_peft_model(load_model(str(model_dir)).model, config).save_pretrained(tmp_path / "lora")
    loaded, plain = (
        load_model(str(model_dir), adapter=str(tmp_path / "lora"), device_map=one) for one in (on_disk, None)
    )
    found, truth = (token_signals(one.model, BATCH) for one in (loaded, plain))
    torch.testing.assert_close(found.strength, truth.strength, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert weights_digest(loaded.model) == weights_digest(plain.model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [fp8, compressed_int8])
def test_dequantised_weights_on_disk(kind, tmp_path, on_disk) -> None:
    path, _ = kind(save_float(tmp_path / "base"), tmp_path)
    loaded, plain = (load_model(str(path), device_map=one) for one in (on_disk, None))
    assert weights_digest(loaded.model) == weights_digest(plain.model)
    found, truth = (token_signals(one.model, BATCH) for one in (loaded, plain))
    torch.testing.assert_close(found.strength, truth.strength, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_stay_quantised_are_not_offloaded(tmp_path, on_disk) -> None:
    path, _ = bitsandbytes(save_float(tmp_path / "base"), tmp_path, 4)
    plain, mapped = load_model(str(path)), load_model(str(path), device_map="auto")
    assert torch.equal(*(token_signals(one.model, BATCH).strength.nan_to_num(0) for one in (plain, mapped)))
    with pytest.raises(ModelNotFoundError, match=r"bitsandbytes \(4 bit\).*CPU or the disk"):
        load_model(str(path), device_map=on_disk)
