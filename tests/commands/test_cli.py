"""The command line: frozen flags, and bad input that ends in one line and status 2 before any generation starts."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from antiphase import cli
from antiphase.errors import InvalidInputError, OutOfMemoryError
from antiphase.signal_spec import ESTIMATORS, EstimatorKind
from conftest import byte_tokenizer, tiny_model
from probe_flags import FLAGS


def actions() -> list:
    (commands,) = (a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices)
    return [a for a in commands.choices["probe"]._actions if "--help" not in a.option_strings]


def test_flags_are_frozen() -> None:
    assert {a.option_strings[0] if a.option_strings else a.dest for a in actions()} == FLAGS


def test_defaults_are_those_of_the_library(model_dir) -> None:
    from antiphase.probing.probe_config import ProbeConfig
    from antiphase.runs.run_config import config_from

    options = vars(cli._parser().parse_args(["probe", "demo"]))
    for name in ("command", "models", "checkpoints", "out", "resume", "figures", "references", "report", "progress"):
        options.pop(name)
    assert config_from("demo", options, ProbeConfig) == config_from("demo", {}, ProbeConfig)


@pytest.fixture
def refused(model_dir, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch):
    """Run the command, and check that it ends well before the first rollout."""

    def run(*arguments: object, model: object = model_dir, out: object = None) -> str:
        def never(*_, **__):
            raise AssertionError("generation was started")

        monkeypatch.setattr("antiphase.rollouts.transformers_engine.generate", never)
        target = tmp_path / "out" if out is None else out
        capsys.readouterr()
        models = model if isinstance(model, list) else [model]
        try:
            status = cli.main(["probe", *map(str, models), "--out", str(target), "--quiet", *map(str, arguments)])
        except SystemExit as stop:  # argparse
            status = stop.code
        output = capsys.readouterr()
        assert status == 2, output.err
        assert "Traceback" not in output.err
        lines = output.err.strip().splitlines()
        assert len(lines) == 1, output.err
        assert lines[0].startswith("antiphase")
        if out is None:
            assert not target.exists()
        return lines[0]

    return run


def test_unknown_model(refused) -> None:
    assert "there is no folder of that name here, and loading it from the hub failed" in refused(model="no-such/model")


def test_unknown_architecture(refused, tmp_path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("mamba", vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    byte_tokenizer().save_pretrained(tmp_path / "mamba")
    message = refused(model=tmp_path / "mamba")
    assert "'mamba'" in message
    assert "q_proj" in message
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "config.json").write_text('{"model_type": "alien"}')
    byte_tokenizer().save_pretrained(tmp_path / "alien")
    assert "alien" in refused(model=tmp_path / "alien")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "is empty"),
        ("blank.jsonl", "\n \n", "is empty"),
        ("broken.jsonl", '{"prompt": "a"}\n{"prompt": \n', "broken.jsonl, line 2: not valid JSON"),
        ("list.jsonl", '{"prompt": "a"}\n\n[1]\n', "list.jsonl, line 3: expected a JSON object"),
        ("none.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2: no prompt. Looked for"),
        ("number.jsonl", '{"prompt": 5}\n', "line 1: the prompt must be a non-empty string"),
        ("void.jsonl", '{"prompt": "  "}\n', "line 1: the prompt must be a non-empty string"),
        ("chat.jsonl", '{"prompt": [{"role": "user"}]}\n', "line 1: the prompt must be"),
        ("twice.jsonl", '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', "'1' stands twice"),
        ("few.jsonl", '{"prompt": "a"}\n{"prompt": 3}', "line 2: the prompt must be"),
        ("text.txt", "hello", ".jsonl or .parquet"),
        ("bad.parquet", "hello", "not a readable Parquet file"),
    ],
)
def test_bad_prompt_files(refused, tmp_path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert message in refused("--prompts", path)


def test_not_utf8(refused, tmp_path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}\n')
    assert "not UTF-8" in refused("--prompts", tmp_path / "latin.jsonl")


def test_fewer_prompts_than_asked_for(refused, tmp_path) -> None:
    (tmp_path / "few.jsonl").write_text('{"prompt": "a"}\n')
    message = refused("--prompts", tmp_path / "few.jsonl", "--num-prompts", 2)
    assert "asked for 2 prompts, but there are only 1" in message


def test_longer_than_the_context(refused, tmp_path) -> None:
    assert "exceed the model's context of 1024" in refused("--max-new-tokens", 5000)
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b" * 1100}))
    assert "r.jsonl, line 1: " in refused("--rollouts", tmp_path / "r.jsonl")


def test_absent_sources(refused, tmp_path) -> None:
    assert "does not exist" in refused("--prompts", tmp_path / "none.jsonl")
    assert "unknown prompts 'nonsense'" in refused("--prompts", "nonsense")
    assert "does not exist" in refused("--rollouts", tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "short"}, "line 1 has 5 completion tokens; correlation needs at least 8"),
        ({"prompt_ids": [5], "completion_ids": [6, 7]}, "line 1 has 2 completion tokens"),
        ({"prompt": "a"}, "expected 'prompt' and 'completion'"),
        ({"prompt": "a", "completion": 7}, "expected 'prompt' and 'completion'"),
        ({"prompt_ids": [], "completion_ids": [5] * 9}, "prompt_ids is empty"),
        ({"prompt_ids": [1.5], "completion_ids": [5] * 9}, "list of token ids"),
        ({"prompt_ids": [True], "completion_ids": [5] * 9}, "list of token ids"),
        ({"prompt_ids": [-1], "completion_ids": [5] * 9}, "list of token ids"),
        ({"prompt_ids": "abc", "completion_ids": [5] * 9}, "list of token ids"),
    ],
)
def test_bad_rollouts(refused, tmp_path, row: dict, message: str) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    assert message in refused("--rollouts", tmp_path / "r.jsonl")


def test_ids_of_another_tokenizer(refused, tmp_path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt_ids": [5], "completion_ids": [99999] * 9}))
    assert "token id 99999 is not in the model's vocabulary" in refused("--rollouts", tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--targets-per-rollout", 0), "targets_per_rollout must be at least 1; got 0"),
        (("--estimator", "full:0"), "targets_per_rollout must be at least 1; got 0"),
        (("--estimator", "full:x"), "NAME:TARGETS"),
        (("--estimator", "magic"), "estimator must be one of"),
        (("--estimator", "own,own:3"), "named twice"),
        (("--estimator", "last", "--layers", "0"), "last attention layer alone"),
        (("--layers", 3), "layer 3 does not exist: the model has 3 layers, 0 to 2"),
        (("--layers", "some"), "layers must be"),
        (("--projections", "QX"), "projections must be one of"),
        (("--projections", "QQ"), "names a projection twice"),
        (("--norm", "l7"), "norm must be one of"),
        (("--target", "x"), "target must be one of"),
        (("--temperature", -1), "temperature must be 0"),
        (("--temperature", "nan"), "temperature must be 0"),
        (("--signal-temperature", 0), "temperature must be a positive number"),
        (("--alternatives", -1), "alternatives must be at least 0; got -1"),
        (("--alternatives", 301), "301 alternatives were asked for, but the model's vocabulary has 300 tokens"),
        (("--top-p", 0), "top_p must lie in"),
        (("--samples", 0), "samples must be at least 1"),
        (("--num-prompts", 0), "num_prompts must be at least 1"),
        (("--num-prompts", 5000), "there are only 1319"),
        (("--num-prompts", "many"), "expected a number or 'all', got 'many'"),
        (("--batch-size", 0), "batch_size must be at least 1"),
        (("--token-budget", 0), "token_budget must be at least 1"),
        (("--max-new-tokens", 4), "below min_tokens 8"),
        (("--min-tokens", 2), "min_tokens must be at least 3"),
        (("--prompt-template", "no place"), "must contain {prompt}"),
        (("--dtype", "int4"), "dtype must be one of"),
        (("--device", "quantum"), "cannot be used here"),
        (("--no-such-flag",), "unrecognized arguments: --no-such-flag"),
    ],
)
def test_bad_options(refused, arguments: tuple, message: str) -> None:
    assert message in refused(*arguments)


def test_model_named_twice(refused, model_dir) -> None:
    assert "is named twice" in refused(model=[model_dir, model_dir])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_bad_weights(refused, tmp_path, value: float) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = value
    model.save_pretrained(tmp_path / "bad")
    byte_tokenizer().save_pretrained(tmp_path / "bad")
    assert "model.norm.weight contains NaN or infinity" in refused(model=tmp_path / "bad")


def test_overflowing_logits(refused, tmp_path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight *= 1e38
        model.model.norm.weight *= 1e6
    model.save_pretrained(tmp_path / "big")
    byte_tokenizer().save_pretrained(tmp_path / "big")
    assert "logits of target token" in refused(model=tmp_path / "big")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_unwritable_out(refused, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(out=tmp_path / "file" / "below")
    assert "not an empty folder" in refused(out=tmp_path / "file")
    assert "cannot write to" in refused(out="/proc/antiphase")


def test_missing_matplotlib(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    message = refused()
    assert "pip install 'antiphase[report]'" in message
    assert "--no-figures" in message


def test_missing_datasets(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'antiphase[data]'" in refused("--prompts", "openai/gsm8k:main")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_what_to_lower(model_dir, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch, error) -> None:
    def exhausted(*_, **__):
        raise error

    arguments = ["probe", str(model_dir), "--quiet", "--no-figures", "--num-prompts", "2", "--out"]
    with monkeypatch.context() as patch:
        patch.setitem(ESTIMATORS._things, "own", EstimatorKind(exhausted))
        assert cli.main([*arguments, str(tmp_path / "a")]) == 2
    assert "--token-budget, now 2048" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("transformers.GenerationMixin.generate", exhausted)
        assert cli.main([*arguments, str(tmp_path / "b")]) == 2
    assert "Lower --batch-size (now 2)" in capsys.readouterr().err


def test_success_prints_table_and_files(model_dir, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    arguments = ["--num-prompts", "2", "--max-new-tokens", "12", "--num-resamples", "20", "--quiet", "--out", str(out)]
    assert cli.main(["probe", str(model_dir), *arguments]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert f"{summary['results'][0]['spearman']['value']:+.3f}".replace("-", "−") in printed
    for name in ("tokens.parquet", "rollouts.parquet", "summary.json", "figures/entropy_strength.png (and .svg)"):
        assert str(out / name) in printed
    undefined = {unit: entry["num_undefined"] for unit, entry in summary["results"][0]["units"].items()}
    counts = ", ".join(f"{number} of 2 by {unit}" for unit, number in undefined.items() if number)
    assert undefined["step"]
    assert f"(too few items, or constant ones): {counts}." in " ".join(printed.split())


def test_errors_say_what_was_kept(model_dir, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphase.probing.probe import _ProbeRun

    run, calls = _ProbeRun.tables, []

    def fail(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*args)

    monkeypatch.setattr(_ProbeRun, "tables", fail)
    monkeypatch.chdir(tmp_path)
    arguments = ["probe", str(model_dir), "--quiet", "--no-figures", "--batch-size", "2", "--max-new-tokens", "12"]
    assert cli.main(arguments) == 130
    message = capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"--out runs/{folder.name} --resume" in message
    calls.append(1)
    again = [*arguments, "--out", f"runs/{folder.name}", "--resume"]
    assert cli.main([*again, "--splitter", "line"]) == 2
    message = capsys.readouterr().err
    assert "splitter was 'sentence', is 'line'" in message
    # To repeat it would be refused again.
    assert "repeat the command" not in message
    assert cli.main(again) == 0


def test_notes_count_one_step_as_one() -> None:
    from antiphase.probing.probe_table import _of_result

    entry = {"value": None, "low": None, "high": None}
    step = {"num_items": 1, "num_undefined": 0, "windows": {"16": entry}, "given": {"both": entry}}
    result = {"headline": "step", "units": {"step": step}, "num_rollouts": 1}
    assert [text.partition(";")[0] for text in _of_result(result)] == ["1 step"]


@pytest.mark.parametrize("error", [InvalidInputError, OutOfMemoryError])
def test_what_was_refused_is_not_to_be_repeated(error, model_dir, tmp_path, capsys, monkeypatch) -> None:
    from antiphase.probing.probe import _ProbeRun

    run, calls = _ProbeRun.tables, []

    def fail(*args):
        calls.append(1)
        if len(calls) == 2:
            raise error("the splitter takes too long.")
        return run(*args)

    monkeypatch.setattr(_ProbeRun, "tables", fail)
    out = tmp_path / "run"
    arguments = ["probe", str(model_dir), "--quiet", "--no-figures", "--batch-size", "2", "--max-new-tokens", "12"]
    assert cli.main([*arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert ("repeat the command" in message) is (error is OutOfMemoryError)
    assert "Finished batches are kept" in message
    assert str(out) in message


def test_runs_as_a_command() -> None:
    version = subprocess.run(
        [sys.executable, "-m", "antiphase", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("antiphase ")
    bare = subprocess.run([sys.executable, "-m", "antiphase"], capture_output=True, text=True, check=False)
    assert bare.returncode == 2
    help_text = subprocess.run(
        [sys.executable, "-m", "antiphase", "probe", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for flag in FLAGS - {"models"}:
        assert flag in help_text
