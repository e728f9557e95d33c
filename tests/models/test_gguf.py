"""GGUF files by path: loaded, measured as their dequantised weights, recognised on resume, and refused if damaged."""

import importlib.util

import pytest
import torch

import antiphase
from antiphase.cli import main
from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError
from antiphase.models.loading import inspect_model, load_model
from antiphase.models.saved import saved_digest
from antiphase.types import TokenBatch
from gguf_cases import save_gguf

pytest.importorskip("gguf", reason="gguf is not installed")
BATCH = TokenBatch.from_ids([[5, 6, 7], [8, 9]], [list(range(10, 40)), list(range(60, 85))])
ROWS = [{"prompt": "Say", "completion": "the quick brown fox jumps over the lazy dog"}]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_gguf(tmp_path_factory.mktemp("gguf"))


def test_the_numbers_are_those_of_the_dequantised_weights(saved) -> None:
    path, twin = map(str, saved)
    skeleton, _ = inspect_model(path)
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    found, truth = load_model(path), load_model(twin)
    assert found.dtype == "float32"
    for estimator in ("own", "full"):
        spec = antiphase.SignalSpec(estimator=estimator)
        one, other = (antiphase.token_signals(loaded.model, BATCH, spec) for loaded in (found, truth))
        torch.testing.assert_close(one.strength, other.strength, rtol=1e-5, atol=0, equal_nan=True)
        torch.testing.assert_close(one.entropy, other.entropy, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_the_tokenizer_is_that_of_the_file(saved) -> None:
    tokenizer = load_model(str(saved[0])).tokenizer
    ids = tokenizer("the añb", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "the añb"
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "th"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_a_probe_of_a_file_names_its_checksum(saved, tmp_path) -> None:
    path = str(saved[0])
    found = antiphase.probe(path, rollouts=ROWS, out=tmp_path / "run", progress=False, figures=False, report=False)
    assert found.result()["revision"].startswith("tiny.Q8_0-")
    assert found.summary["config"]["weights_sha256"] == {path: saved_digest(path)}
    assert saved_digest(path) is not None


def test_other_weights_under_the_same_name_are_not_resumed(saved, tmp_path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(saved[0].read_bytes())
    wanted = {"rollouts": ROWS, "out": tmp_path / "run", "progress": False, "figures": False, "report": False}
    antiphase.probe(path, **wanted)
    antiphase.probe(path, resume=True, **wanted)
    changed = bytearray(path.read_bytes())
    changed[-40] ^= 8
    path.write_bytes(bytes(changed))
    with pytest.raises(InvalidInputError, match="weights_sha256"):
        antiphase.probe(path, resume=True, **wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "damaged or not complete"),
        (lambda whole: whole[:3000], "damaged or not complete"),
        (lambda whole: whole[:-64], "damaged or not complete"),
        (lambda whole: b"PK\3\4" + whole[4:], "does not begin with the letters GGUF"),
        (lambda whole: b"", "does not begin with the letters GGUF"),
        (None, "there is no file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(make, message: str, saved, tmp_path, capsys) -> None:
    path = tmp_path / "model.gguf"
    if make is not None:
        path.write_bytes(make(saved[0].read_bytes()))
    assert main(["probe", str(path), "--num-prompts", "1", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "model.gguf" in line


def test_one_of_several_files_is_refused(saved, tmp_path) -> None:
    path = tmp_path / "model-00001-of-00002.gguf"
    path.write_bytes(saved[0].read_bytes())
    with pytest.raises(ModelNotFoundError, match="one of 2 files"):
        inspect_model(str(path))


def test_a_missing_reader_is_named(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find(name, *a))
    with pytest.raises(MissingExtraError, match=r"reading a GGUF file .*pip install 'antiphase\[demo\]'"):
        inspect_model(str(saved[0]))


def test_vllm_does_not_complete_for_a_file() -> None:
    with pytest.raises(
        InvalidInputError, match="is a GGUF file, which antiphase does not load with the engine 'vllm'"
    ):
        antiphase.probe("model.gguf", engine="vllm")


def test_a_file_is_not_trained(tmp_path, capsys) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    words = ["train", "--model", "model.gguf", "--tasks", "sums", "--out", str(tmp_path / "run"), "--max_steps", "1"]
    assert main(words) == 2
    assert "'model.gguf' is a GGUF file, whose weights cannot be trained" in capsys.readouterr().err


@pytest.mark.parametrize("others", ["", ",demo"])
def test_a_file_is_no_checkpoint_of_a_series(others: str, saved, tmp_path, capsys) -> None:
    for name in (str(saved[0]), "missing.gguf"):
        assert main(["probe", "--checkpoints", name + others, "--out", str(tmp_path / "run")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name!r} is a GGUF file, which does not say at which step" in line
        assert "antiphase probe A.gguf B.gguf" in line
    assert not (tmp_path / "run").exists()


def test_an_adapter_does_not_go_with_several_files(saved, tmp_path, capsys) -> None:
    words = ["probe", str(saved[0]), "other.gguf", "--adapter", "lora", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the adapter 'lora' goes with one model, but 2 are named" in line


def test_a_probe_of_a_file_with_an_adapter(saved, tmp_path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    path, twin = map(str, saved)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(load_model(twin).model, config).save_pretrained(tmp_path / "lora")
    wanted = {"rollouts": ROWS, "progress": False, "figures": False, "report": False}
    found = antiphase.probe(path, adapter=str(tmp_path / "lora"), out=tmp_path / "run", **wanted)
    plain = antiphase.probe(path, out=tmp_path / "plain", **wanted)
    assert found.summary["config"]["weights_sha256"].keys() == {path, str(tmp_path / "lora")}
    assert found.result()["strength_mean"] != pytest.approx(plain.result()["strength_mean"], rel=0.01)
    for one in (found, plain):
        assert one.result()["quantization"] == {"method": "gguf", "bits": None, "dequantized": True}
        shown = " ".join(str(one).split())
        assert f"{path}: the weights are quantised with GGUF, and they are dequantised for" in shown


def test_an_adapter_on_a_file(saved, tmp_path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    path, twin = map(str, saved)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(load_model(twin).model, config).save_pretrained(tmp_path / "lora")
    one, other = (
        antiphase.token_signals(load_model(name, adapter=str(tmp_path / "lora")).model, BATCH) for name in (path, twin)
    )
    torch.testing.assert_close(one.strength, other.strength, rtol=1e-5, atol=0, equal_nan=True)
