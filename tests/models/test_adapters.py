"""`--adapter`: the numbers of a merged model, the identity on resume, and what is refused."""

import json

import pytest
import torch

import antiphase
from antiphase.cli import main
from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError, UnsupportedModelError
from antiphase.models.loading import inspect_model, load_model
from antiphase.signals.measure import token_signals
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model

peft = pytest.importorskip("peft", reason="peft is not installed")
BATCH = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [list(range(10, 40)), list(range(60, 85))])
ROWS = [{"prompt": "Say", "completion": "the quick brown fox jumps over the lazy dog"}]


def save_adapter(path, *, seed: int = 3, targets=("q_proj", "v_proj", "down_proj"), **changes):
    """Save an adapter that changes much, and return it merged with its base."""
    model = tiny_model(**changes)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=3, target_modules=list(targets), init_lora_weights=False, lora_alpha=9)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(path)
    return adapted.merge_and_unload()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the adapter, the merged model)."""
    folder = tmp_path_factory.mktemp("adapters")
    merged = save_adapter(folder / "lora")
    merged.save_pretrained(folder / "merged")
    byte_tokenizer().save_pretrained(folder / "merged")
    return folder / "lora", folder / "merged"


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_an_adapter_gives_the_numbers_of_the_merged_model(saved, model_dir, estimator: str) -> None:
    adapter, merged = map(str, saved)
    spec = antiphase.SignalSpec(estimator=estimator)
    apart, together = load_model(str(model_dir), adapter=adapter), load_model(merged)
    found, truth, plain = (
        token_signals(model, BATCH, spec) for model in (apart.model, together.model, load_model(str(model_dir)).model)
    )
    for one, other in zip(antiphase.correlate(found), antiphase.correlate(truth), strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)
    torch.testing.assert_close(found.strength, truth.strength, rtol=1e-5, atol=0, equal_nan=True)
    torch.testing.assert_close(found.entropy, truth.entropy, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert not torch.allclose(found.strength, plain.strength, rtol=1e-2, equal_nan=True)


def test_an_adapter_as_the_model_is_the_same(saved, model_dir, tmp_path) -> None:
    (tmp_path / "lora").mkdir()
    for file in saved[0].iterdir():
        (tmp_path / "lora" / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(model_dir)}))
    one = load_model(str(tmp_path / "lora"))
    other = load_model(str(model_dir), adapter=str(saved[0]))
    assert torch.equal(*(token_signals(loaded.model, BATCH).strength.nan_to_num() for loaded in (one, other)))
    with pytest.raises(InvalidInputError, match="is itself an adapter"):
        inspect_model(str(tmp_path / "lora"), adapter=str(saved[0]))


@pytest.mark.parametrize("command", ["probe", "eval"])
def test_a_run_keeps_its_adapter(saved, model_dir, command: str, tmp_path, capsys) -> None:
    words = [
        command,
        str(model_dir),
        "--max-new-tokens",
        "12",
        "--num-resamples",
        "10",
        "--out",
        str(tmp_path / "run"),
    ]
    words += ["--quiet", "--no-figures", "--no-report", "--min-tokens", "3"]
    if command == "eval":
        words += ["--tasks", "sums", "--num-problems", "2", "--samples", "1", "--no-greedy"]
    else:
        words += ["--num-prompts", "2"]
    assert main([*words, "--adapter", str(saved[0])]) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["adapter"] == str(saved[0])
    assert set(config["weights_sha256"]) == {str(model_dir), str(saved[0])}
    assert None not in config["weights_sha256"].values()
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    assert "adapter was" in capsys.readouterr().err
    assert main([*words, "--resume", "--adapter", str(saved[0])]) == 0


def test_another_adapter_in_the_same_place_is_not_resumed(model_dir, tmp_path) -> None:
    wanted = {
        "rollouts": ROWS, "out": tmp_path / "run", "progress": False, "figures": False, "report": False,
        "adapter": tmp_path / "lora",
    }  # fmt: skip
    save_adapter(tmp_path / "lora")
    first = antiphase.probe(model_dir, **wanted)
    (tmp_path / "run" / "summary.json").unlink()
    save_adapter(tmp_path / "lora", seed=4)
    with pytest.raises(InvalidInputError, match="weights_sha256"):
        antiphase.probe(model_dir, resume=True, **wanted)
    second = antiphase.probe(model_dir, **{**wanted, "out": None})
    assert first.spearman != second.spearman


def test_options_that_do_not_go_with_an_adapter(saved, model_dir) -> None:
    adapter = str(saved[0])
    with pytest.raises(InvalidInputError, match="goes with one model, but 2 are named"):
        antiphase.probe([model_dir, "demo"], adapter=adapter)
    with pytest.raises(InvalidInputError, match="cannot pass an adapter to the engine 'vllm'"):
        antiphase.probe(model_dir, adapter=adapter, engine="vllm")
    with pytest.raises(InvalidInputError, match="is an adapter, which antiphase does not load with the engine 'vllm'"):
        antiphase.probe(adapter, engine="vllm")
    with pytest.raises(InvalidInputError, match="adapter does not go with checkpoints"):
        antiphase.probe_checkpoints([model_dir], adapter=adapter)
    with pytest.raises(InvalidInputError, match="model in memory"):
        antiphase.probe(tiny_model(), tokenizer=byte_tokenizer(), adapter=adapter, rollouts=ROWS)


def test_what_is_no_adapter_is_refused_before_the_weights(saved, model_dir, tmp_path, monkeypatch) -> None:
    with pytest.raises(ModelNotFoundError, match="is no saved adapter"):
        inspect_model(str(model_dir), adapter=str(model_dir))
    with pytest.raises(ModelNotFoundError, match="is no local directory, and it could not be read from the hub"):
        inspect_model(str(model_dir), adapter="nobody/lora")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "adapter_config.json").write_bytes((saved[0] / "adapter_config.json").read_bytes())
    with pytest.raises(ModelNotFoundError, match="has no weights"):
        inspect_model(str(model_dir), adapter=str(tmp_path / "empty"))
    (tmp_path / "empty" / "adapter_model.safetensors").write_bytes(b"12")
    (tmp_path / "empty" / "adapter_config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="is damaged"):
        inspect_model(str(model_dir), adapter=str(tmp_path / "empty"))
    prompts = peft.get_peft_model(tiny_model(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompts.save_pretrained(tmp_path / "prompts")
    with pytest.raises(UnsupportedModelError, match="learns a prompt"):
        inspect_model(str(model_dir), adapter=str(tmp_path / "prompts"))
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(MissingExtraError, match="peft"):
        inspect_model(str(model_dir), adapter=str(saved[0]))


def test_an_adapter_of_another_model_is_refused(model_dir, tmp_path) -> None:
    save_adapter(tmp_path / "wide", hidden_size=48)
    with pytest.raises(ModelNotFoundError, match=r"^the adapter .* does not fit the model"):
        load_model(str(model_dir), adapter=str(tmp_path / "wide"))
    save_adapter(tmp_path / "deep", num_hidden_layers=4)
    with pytest.raises(ModelNotFoundError, match=r"does not fit the model .*has the unknown weight .*layers\.3"):
        load_model(str(model_dir), adapter=str(tmp_path / "deep"))
    save_adapter(tmp_path / "other", architecture="phi3", targets=["qkv_proj"])
    with pytest.raises(ModelNotFoundError, match=r"^the adapter .* does not fit the model"):
        load_model(str(model_dir), adapter=str(tmp_path / "other"))
