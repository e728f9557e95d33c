"""Quantised checkpoints are measured as the float model of their dequantised weights, or refused in one line."""

import importlib.util
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import antiphase
import quantized_cases as cases
from antiphase.cli import main
from antiphase.errors import ModelNotFoundError, UnsupportedModelError
from antiphase.models.loading import inspect_model, load_model
from antiphase.models.quantization import Quantization, check_gradients, prepare_config, quantization_of
from antiphase.models.weights import weights_digest
from antiphase.signal_spec import SignalSpec
from antiphase.signals.measure import token_signals
from antiphase.statistics.correlation import correlate
from antiphase.types import TokenBatch
from conftest import tiny_model

BATCH = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [list(range(10, 40)), list(range(60, 85))])


def with_package(*names):
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return cases.save_float(tmp_path_factory.mktemp("float") / "model")


def bnb4(base, folder):
    return cases.bitsandbytes(base, folder, 4, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def bnb8(base, folder):
    return cases.bitsandbytes(base, folder, 8)


BITSANDBYTES = with_package("bitsandbytes", "accelerate")
GPTQMODEL = with_package("gptqmodel", "optimum", "accelerate")
# The tolerances: GPTQ and AWQ dequantise to float16, and bitsandbytes rounds the inputs of 8-bit modules.
KINDS = [
    pytest.param(cases.fp8, 1e-5, marks=with_package("accelerate")),
    pytest.param(cases.compressed_int8, 1e-5, marks=with_package("compressed_tensors", "accelerate")),
    pytest.param(bnb4, 1e-4, marks=BITSANDBYTES),
    pytest.param(bnb8, 0.1, marks=BITSANDBYTES),
    pytest.param(cases.gptq, 3e-3, marks=GPTQMODEL),
    pytest.param(cases.awq, 3e-3, marks=GPTQMODEL),
]


@pytest.fixture
def _lenient():
    """Third parties warn while they load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize(("kind", "tolerance"), KINDS)
def test_the_numbers_are_those_of_the_dequantised_weights(kind, tolerance: float, base, tmp_path) -> None:
    path, twin = kind(base, tmp_path)
    inspect_model(str(path))
    quantised, floats = load_model(str(path)), load_model(str(twin))
    for estimator in ("own", "last", "full", "own"):
        spec = SignalSpec(estimator=estimator)
        found, truth = (token_signals(one.model, BATCH, spec) for one in (quantised, floats))
        torch.testing.assert_close(found.strength, truth.strength, rtol=tolerance, atol=0, equal_nan=True)
        torch.testing.assert_close(found.entropy, truth.entropy, rtol=tolerance, atol=tolerance, equal_nan=True)
        for one, other in zip(correlate(found), correlate(truth), strict=True):
            assert one.value == pytest.approx(other.value, abs=10 * tolerance)
    plain = token_signals(load_model(str(base)).model, BATCH, SignalSpec())
    assert not torch.allclose(found.strength, plain.strength, rtol=5e-3, equal_nan=True)


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize(
    ("kind", "method", "bits", "note"),
    [
        pytest.param(cases.fp8, "fp8", None, "FP8, and they are dequantised for", marks=with_package("accelerate")),
        pytest.param(bnb4, "bitsandbytes", 4, "bitsandbytes (4 bit), and they are measured as", marks=BITSANDBYTES),
        pytest.param(None, None, None, None),
    ],
)
def test_summaries_and_tables_name_the_quantisation(kind, method, bits, note, base, tmp_path) -> None:
    path = str(base if kind is None else kind(base, tmp_path)[0])
    rows = [{"prompt": "Say", "completion": "the quick brown fox jumps over the lazy dog"}]
    quiet = {"progress": False, "figures": False, "report": False}
    found = antiphase.probe(path, rollouts=rows, out=tmp_path / "run", **quiet)
    evaluated = antiphase.evaluate(
        path, tasks="gsm8k", num_problems=2, samples=1, max_new_tokens=8, out=tmp_path / "eval", **quiet
    )
    for run in (found, evaluated):
        result, shown = run.summary["results"][0], " ".join(str(run).split())
        if method is None:
            assert "quantization" not in result
            assert "are quantised with" not in shown
        else:
            assert result["quantization"] == {"method": method, "bits": bits, "dequantized": method == "fp8"}
            assert f"the weights are quantised with {note}" in shown
    model = load_model(path)
    in_memory = antiphase.probe(model.model, tokenizer=model.tokenizer, rollouts=rows, out=tmp_path / "other", **quiet)
    assert ("quantization" in in_memory.summary["results"][0]) == (method == "bitsandbytes")


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        pytest.param(cases.fp8, False, marks=with_package("accelerate")),
        pytest.param(bnb4, True, marks=BITSANDBYTES),
        pytest.param(cases.gptq, True, marks=GPTQMODEL),
    ],
)
def test_the_oracle_needs_weights_that_have_a_gradient(kind, refused: bool, base, tmp_path) -> None:
    path, _ = kind(base, tmp_path)
    for model in (inspect_model(str(path))[0], load_model(str(path)).model):
        if refused:
            with pytest.raises(UnsupportedModelError, match=r"quantised with .*'oracle' needs the gradient"):
                token_signals(model, BATCH, SignalSpec(estimator="oracle"))
    if not refused:
        token_signals(load_model(str(path)).model, BATCH, SignalSpec(estimator="oracle", targets_per_rollout=1))


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize("kind", [pytest.param(bnb4, marks=BITSANDBYTES), pytest.param(cases.gptq, marks=GPTQMODEL)])
def test_other_quantised_weights_have_another_digest(kind, base, tmp_path) -> None:
    path, _ = kind(base, tmp_path)
    before = weights_digest(load_model(str(path)).model)
    assert weights_digest(load_model(str(path)).model) == before
    state = load_file(path / "model.safetensors")
    name = next(n for n in state if n.endswith(("k_proj.weight", "k_proj.qweight")))
    state[name].view(-1)[0] += 1
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert weights_digest(load_model(str(path)).model) != before


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        pytest.param(cases.fp8, 1e-5, marks=with_package("accelerate", "peft")),
        pytest.param(bnb4, 1e-4, marks=[BITSANDBYTES, with_package("peft")]),
    ],
)
def test_an_adapter_on_quantised_weights(kind, tolerance: float, base, tmp_path) -> None:
    import peft

    path, twin = kind(base, tmp_path)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(load_model(str(base)).model, config).save_pretrained(tmp_path / "lora")
    found, truth = (
        token_signals(load_model(str(one), adapter=str(tmp_path / "lora")).model, BATCH) for one in (path, twin)
    )
    torch.testing.assert_close(found.strength, truth.strength, rtol=tolerance, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("quantization", "absent", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel", r"GPTQ \(4 bit\).* pip install .*gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel", r"AWQ \(4 bit\).* pip install .*gptqmodel"),
        ({"load_in_4bit": True}, "bitsandbytes", r"bitsandbytes \(4 bit\).* pip install .*bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes", r"bitsandbytes \(8 bit\).* pip install .*bitsandbytes"),
        ({"quant_method": "fp8"}, "accelerate", "FP8.* pip install accelerate"),
        (
            {"quant_method": "compressed-tensors"},
            "compressed_tensors",
            "compressed-tensors.* pip install .*compressed-tensors",
        ),
    ],
)
def test_a_missing_package_is_named(quantization, absent, message, base, tmp_path, monkeypatch) -> None:
    path = cases.configured(base, tmp_path / "model", quantization)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else find(name, *a))
    for load in (inspect_model, load_model):
        with pytest.raises(ModelNotFoundError, match=f"^{str(path)!r} is quantised with .*{message}"):
            load(str(path))


@pytest.mark.parametrize("method", ["aqlm", "mxfp4", "exl2", None])
def test_other_kinds_are_refused_by_name(method, base, tmp_path, capsys) -> None:
    path = cases.configured(base, tmp_path / "model", {"quant_method": method, "bits": 4})
    assert main(["probe", str(path), "--num-prompts", "1", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"quantised with {method or 'an unnamed method'} (4 bit), which antiphase does not measure" in line
    assert "bitsandbytes, GPTQ, AWQ, FP8, compressed-tensors, GGUF" in line


def test_a_failing_package_is_reported_in_one_line(base, monkeypatch) -> None:
    from transformers import quantizers

    def fails(*_, **__):
        raise NameError("name 'QuantizeConfig' is not defined")

    config = tiny_model().config
    config.quantization_config = {"quant_method": "fp8"}
    monkeypatch.setattr(quantizers.AutoHfQuantizer, "from_config", fails)
    with pytest.raises(ModelNotFoundError, match=r"'m' is quantised with FP8, .*'QuantizeConfig' is not defined"):
        prepare_config("m", config)


def test_the_quantisation_of_a_text_model_is_found() -> None:
    class Outer:
        def get_text_config(self, decoder=True):
            return self.text

    outer = Outer()
    outer.text = tiny_model().config
    assert quantization_of(outer) is None
    outer.text.quantization_config = {"quant_method": "awq", "bits": 4}
    assert quantization_of(outer) == Quantization("awq", 4, False)


class _Cuts(torch.nn.Module):
    in_features = 24

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = torch.nn.Linear(24, 24), factor

    def forward(self, x):
        passed = self.inner(x)
        # The value is that of `inner`; the gradient is `factor` times its own.
        return passed.detach() if self.factor == 0 else passed * self.factor + passed.detach() * (1 - self.factor)


@pytest.mark.parametrize(("factor", "message"), [(0, "passes no"), (0.7, "passes a wrong"), (1, None)])
def test_modules_that_would_give_wrong_strengths_are_refused(factor: float, message) -> None:
    model = tiny_model()
    model.model.layers[1].mlp.up_proj = _Cuts(factor)
    if message is None:
        check_gradients("m", model, Quantization("awq", 4, False))
    else:
        with pytest.raises(
            UnsupportedModelError, match=rf"AWQ \(4 bit\).*layers\.1\.mlp\.up_proj \(_Cuts\) {message} g"
        ):
            check_gradients("m", model, Quantization("awq", 4, False))


def test_a_projection_without_gradient_is_refused_in_memory_too() -> None:
    model = tiny_model()
    model.model.layers[1].self_attn.o_proj = _Cuts(0)
    with pytest.raises(UnsupportedModelError, match="_Cuts passes no gradient to its input"):
        token_signals(model, BATCH)


def test_a_checkpoint_that_lacks_a_weight_is_refused(base, tmp_path) -> None:
    shutil.copytree(base, tmp_path / "model")
    state = load_file(base / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=r"lacks the weight model\.layers\.1\.mlp\.up_proj\.weight, so"):
        load_model(str(tmp_path / "model"))


@BITSANDBYTES
@pytest.mark.usefixtures("_lenient")
def test_the_layout_for_inference_is_kept_away_or_refused(base, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    path, _ = bnb4(base, tmp_path)
    truth = token_signals(load_model(str(path)).model, BATCH).strength
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for _ in range(2):
        torch.testing.assert_close(token_signals(model, BATCH).strength, truth, equal_nan=True, rtol=1e-5, atol=0)
    linear = model.model.layers[1].mlp.up_proj
    linear.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UnsupportedModelError, match="layout of bitsandbytes for inference on a CPU"):
        token_signals(model, BATCH)
