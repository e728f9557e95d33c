"""Probes and evaluations whose rollouts a server generates: cut and continued, what is stored, and what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError, ServerError
from antiphase.probing.probe_config import ProbeConfig
from antiphase.rollouts.server_options import Retries
from antiphase.runs import server_choice
from antiphase.runs.run_config import config_from
from server_cases import HALF, Fault, serving

OPTIONS = {
    "engine": "openai", "served_model": "tiny", "max_new_tokens": 20, "num_resamples": 10, "batch_size": 4,
    "progress": False, "figures": False, "report": False,
}  # fmt: skip
PROBE = {**OPTIONS, "num_prompts": 3, "samples": 3}
EVAL = {**OPTIONS, "tasks": ("digit_sum",), "num_problems": 3, "samples": 2, "greedy": True}


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(server_choice, "RETRIES", Retries(attempts=2, first=0.02, longest=0.1, grace=1.0))


def assert_same_run(left, right, tables) -> None:
    for name in tables:
        a, b = (pq.read_table(path / f"{name}.parquet").to_pandas() for path in (left, right))
        assert_frame_equal(a, b, check_exact=True)
    results = [json.loads((path / "summary.json").read_text())["results"] for path in (left, right)]
    assert results[0] == results[1]


@pytest.mark.parametrize(("command", "options"), [("probe", PROBE), ("evaluate", EVAL)])
@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_a_run_that_the_server_cuts_is_continued_and_pays_only_for_the_missing_rollouts(
    command, options, kind, model_dir, tmp_path, monkeypatch
) -> None:
    run = getattr(antiphase, command)
    with serving(kind) as server:
        whole = run(str(model_dir), out=tmp_path / "whole", base_url=server.url, **options)
    number = len(server.rollouts)
    assert number == 9
    monkeypatch.setenv("MY_KEY", "sk-secret")
    out, options = tmp_path / "cut", {**options, "concurrency": 1}
    message = r"rollout 1: .*order\. 1 of [24] rollouts of the batch are finished.*--resume"
    busy = serving(kind, lambda number, _: Fault(503) if number >= 5 else None, key="sk-secret")
    with busy as server, pytest.raises(ServerError, match=message):
        run(str(model_dir), out=out, base_url=server.url, api_key_env="MY_KEY", **options)
    assert len(list(out.glob("parts/*/*.rollouts.parquet"))) == 1
    assert [len(path.read_text().splitlines()) for path in sorted(out.glob("parts/*/*.kept.jsonl"))] == [4, 1]
    assert "sk-secret" not in "".join(path.read_text() for path in out.rglob("*.json*"))
    # The server may have moved. It now takes no key, and more requests at a time.
    with serving(kind) as server:
        found = run(str(model_dir), out=out, resume=True, base_url=server.url, **{**options, "concurrency": 7})
    assert len(server.rollouts) == number - 5
    assert_same_run(tmp_path / "whole", out, ("tokens", "rollouts", "steps"))
    assert not (out / "parts").exists()
    (result,) = found.summary["results"]
    ids = "ids" if kind == "vllm" else "text"
    shown = {"kind": "vLLM" if kind == "vllm" else "unknown", "model": "tiny", "prompts": "ids", "completions": ids}
    assert result["server"] == shown
    counts = [result[key] for key in ("num_retokenised", "num_other_text", "num_other_length")]
    assert counts == [number if kind == "openai" else 0, 0, 0]
    note = f"the server returned {number} rollouts as text" in " ".join(str(found).split())
    assert note == (kind == "openai")
    assert whole.summary["config"]["base_url"] != found.summary["config"]["base_url"]


def test_the_rollouts_of_a_first_batch_that_fails_are_kept_too(model_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(server_choice, "RETRIES", Retries(attempts=1, grace=1.0))
    out = tmp_path / "run"
    with serving(fault=lambda number, _: HALF if number == 2 else None) as server:
        with pytest.raises(ServerError, match="not whole JSON"):
            antiphase.probe(str(model_dir), out=out, base_url=server.url, **{**PROBE, "concurrency": 1})
        assert [len(path.read_text().splitlines()) for path in out.glob("parts/*/*.kept.jsonl")] == [2]
        antiphase.probe(str(model_dir), out=out, resume=True, base_url=server.url, **PROBE)
    assert len(server.rollouts) == 9 + 1


def test_after_kill_9_the_finished_rollouts_are_there(model_dir, tmp_path) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    words = ["probe", str(model_dir), "--engine", "openai", "--served-model", "tiny", "--num-prompts", "3"]
    words += ["--samples", "3", "--max-new-tokens", "20", "--num-resamples", "10", "--batch-size", "4", "--quiet"]
    words += ["--no-figures", "--no-report", "--concurrency", "1"]
    command = [sys.executable, "-m", "antiphase", *words, "--out", str(out)]
    with serving(fault=lambda number, _: Fault(stall=300) if number >= 6 else None) as server:
        process = subprocess.Popen([*command, "--base-url", server.url], env={**os.environ, "OMP_NUM_THREADS": "1"})
        end = time.monotonic() + 300
        while sum(len(path.read_text().splitlines()) for path in out.glob("parts/*/*.kept.jsonl")) < 6:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with serving() as server:
        assert cli.main([*words, "--base-url", server.url, "--out", str(out), "--resume"]) == 0
        assert len(server.rollouts) == 3
        assert cli.main([*words, "--base-url", server.url, "--out", str(whole)]) == 0
    assert_same_run(whole, out, ("tokens", "rollouts", "steps", "alternatives"))


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("stop", ["Ctrl-C", "wrong answer"])
def test_a_stop_in_the_first_batch_says_that_finished_rollouts_are_kept(stop, model_dir, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    words = ["probe", str(model_dir), "--engine", "openai", "--served-model", "tiny", "--num-prompts", "3", "--quiet"]
    words += ["--max-new-tokens", "20", "--num-resamples", "10", "--no-figures", "--no-report", "--concurrency", "1"]

    def fault(number, _):
        if number < 2:
            return None
        if stop == "wrong answer":
            return Fault(400)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return Fault(stall=5)

    with serving(fault=fault) as server:
        code = cli.main([*words, "--base-url", server.url, "--out", str(out)])
    message = capsys.readouterr().err
    assert [len(path.read_text().splitlines()) for path in out.glob("parts/*/*.kept.jsonl")] == [2]
    assert not list(out.glob("parts/*/*.parquet"))
    if stop == "Ctrl-C":
        kept = f"Finished rollouts are kept: repeat the command with --out {out} --resume."
        assert (code, message.strip()) == (130, f"antiphase: interrupted. {kept}")
    else:
        assert code == 2
        assert message.strip().endswith(f"Finished rollouts are kept in {out}.")


def test_a_wrong_server_leaves_no_folder_and_other_names_do_not_continue_a_run(model_dir, tmp_path) -> None:
    out = tmp_path / "run"
    with serving(shift=1) as server, pytest.raises(InvalidInputError, match="tokenizer is not that of the measured"):
        antiphase.probe(str(model_dir), out=out, base_url=server.url, **PROBE)
    assert not out.exists()
    with serving(models=["tiny", "small"], fault=lambda number, _: Fault() if number > 5 else None) as server:
        with pytest.raises(ServerError):
            antiphase.probe(str(model_dir), out=out, base_url=server.url, **PROBE)
        other = {**PROBE, "served_model": "small"}
        with pytest.raises(InvalidInputError, match="served_model was 'tiny', is 'small'"):
            antiphase.probe(str(model_dir), out=out, resume=True, base_url=server.url, **other)
    with serving("llamacpp") as server, pytest.raises(InvalidInputError, match=r"server was \{'kind': 'vLLM'"):
        antiphase.probe(str(model_dir), out=out, resume=True, base_url=server.url, **PROBE)


def test_the_command_takes_generator_as_another_spelling(model_dir, tmp_path, capsys) -> None:
    words = ["probe", str(model_dir), "--generator", "openai", "--served-model", "tiny", "--num-prompts", "2"]
    words += ["--max-new-tokens", "20", "--num-resamples", "10", "--no-figures", "--no-report", "--quiet"]
    with serving("openai") as server:
        assert cli.main([*words, "--base-url", server.url, "--concurrency", "2", "--out", str(tmp_path / "run")]) == 0
    assert "the server returned 2 rollouts as text" in " ".join(capsys.readouterr().out.split())
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["engine"] == "openai"
    assert cli.main([*words, "--base-url", server.url, "--out", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "the connection failed" in error
    assert "Traceback" not in error
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ("demo", {"base_url": "http://x/v1", "engine": "auto"}, "base_url goes with the engine 'openai'"),
        ("demo", {"served_model": "x", "engine": "vllm"}, "served_model goes with the engine 'openai'"),
        ("demo", {"engine": "openai"}, "needs the address of a server"),
        ("demo", {"engine": "openai", "base_url": "http://u:p@x/v1"}, "user name or a password"),
        ("demo", {"engine": "openai", "base_url": "http://x/v1", "concurrency": 0}, "concurrency"),
        ("demo", {"engine": "openai", "base_url": "http://x/v1", "deadline": -1.0}, "deadline"),
        ("demo", {"engine": "openai", "base_url": "http://x/v1", "adapter": "lora"}, "with an adapter.*served_model"),
        (["a", "b"], {"engine": "openai", "base_url": "http://x/v1", "served_model": "a"}, "2 models are measured"),
    ],
)
def test_options_that_do_not_go_together(models, options, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        antiphase.probe(models, **options)


@pytest.mark.parametrize(("size", "shared"), [(None, 16), (3, 5), (4, 4), (40, 1)])
def test_several_processes_share_the_requests_at_the_same_time(size, shared, monkeypatch) -> None:
    if size is not None:
        values = {"RANK": 1, "WORLD_SIZE": size, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": 29500}
        for name, value in {**values, "MASTER_ADDR": "node0"}.items():
            monkeypatch.setenv(name, str(value))
    config = config_from("demo", {"engine": "openai", "base_url": "http://x/v1", "deadline": 9.0}, ProbeConfig)
    options = server_choice.server_options(config, "demo")
    assert (options.concurrency, options.deadline) == (shared, 9.0)
    assert config.concurrency == 16
    with pytest.raises(InvalidInputError, match="concurrency must be at least 1; got 0"):
        dataclasses.replace(config, concurrency=0)


def test_checkpoints_and_trained_cells_cannot_be_served(tmp_path, monkeypatch) -> None:
    import antiphase.study.request as study_request
    from antiphase.probing.request import series_request
    from antiphase.study.grid import Cell

    with pytest.raises(InvalidInputError, match="does not go with checkpoints"):
        series_request(tmp_path, engine="openai", base_url="http://x/v1")
    monkeypatch.setattr(study_request, "cell_recipe", lambda *_: None)
    monkeypatch.setattr(study_request, "check_recipe", lambda _: None)
    evaluation = {"engine": "openai", "base_url": "http://x/v1", "tasks": ("digit_sum",)}
    trained = Cell("m", "s", "grpo", 0, "path", None, None, {}, evaluation)
    with pytest.raises(InvalidInputError, match=r"'grpo' is trained here.*does not have the trained model"):
        study_request.check_cells([trained])
    study_request.check_cells([dataclasses.replace(trained, stage=".")])


def test_the_second_model_can_share_the_rollouts_of_a_server(model_dir, tmp_path) -> None:
    from conftest import byte_tokenizer, tiny_model

    tiny_model("qwen2").save_pretrained(tmp_path / "other")
    byte_tokenizer().save_pretrained(tmp_path / "other")
    models = [str(model_dir), str(tmp_path / "other")]
    with serving() as server:
        found = antiphase.probe(models, share_rollouts=True, base_url=server.url, **PROBE)
    assert len(server.rollouts) == 9
    first, second = found.summary["results"]
    assert first["num_retokenised"] == 0
    assert "num_retokenised" not in second
