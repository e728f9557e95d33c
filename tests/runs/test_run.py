"""What a probe and an evaluation share: the base of their options, their engines, and what resuming compares."""

import dataclasses
import json

import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.probing.probe_config import ProbeConfig
from antiphase.rollouts.engine import Completion, Generator
from antiphase.runs.run_config import RunConfig
from conftest import byte_tokenizer, tiny_model

QUIET = {"figures": False, "report": False, "progress": False}
PROBE = {"num_prompts": 3, "max_new_tokens": 12, "min_tokens": 4, "num_resamples": 10, "batch_size": 2}
EVAL = {"tasks": ("sums:digits=1|1",), "num_problems": 3, "samples": 1, "greedy": False, "max_new_tokens": 12}
EVAL |= {"min_tokens": 4, "num_resamples": 10, "batch_size": 2}


class Recorder(Generator):
    """An engine that says the same twelve bytes to every prompt."""

    name, versions = "recorder", {}

    def __init__(self, end_ids) -> None:
        self.end_ids, self.batches, self.closed = tuple(end_ids), [], False

    def complete(self, prompt_ids, sampling, seeds, *, tick=lambda _: None):
        self.batches.append((len(seeds), len(prompt_ids), sampling.max_new_tokens))
        tick(1.0)
        return [Completion((*range(20, 31), 40 + place), "length") for place in range(len(prompt_ids))]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorders(monkeypatch):
    """The engines that a run makes; each records."""
    made = []

    def make(name, loaded, *, end_ids=(), vllm=None):
        made.append(Recorder(end_ids))
        return made[-1]

    monkeypatch.setattr("antiphase.runs.engines.make_generator", make)
    return made


def test_both_derive_their_options_from_one_base() -> None:
    shared = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    for kind in (ProbeConfig, EvalConfig):
        own = {field.name: field.default for field in dataclasses.fields(kind)}
        assert {name: own[name] for name in shared} == shared
        for name in shared:
            assert name not in kind.__annotations__, f"{kind.__name__} states {name} again"


@pytest.mark.parametrize("command", ["probe", "eval"])
def test_both_complete_by_the_engine_that_is_asked_for(command, recorders, model_dir, tmp_path) -> None:
    options = {**(PROBE if command == "probe" else EVAL), "end_tokens": ("!",), "out": tmp_path / "run", **QUIET}
    found = (antiphase.probe if command == "probe" else antiphase.evaluate)(str(model_dir), **options)
    (engine,) = recorders
    assert engine.batches == [(2, 2, 12), (1, 1, 12)]
    assert engine.closed
    assert engine.end_ids == tuple(byte_tokenizer()("!").input_ids)
    assert list(found.rollouts.completion_ids.iloc[2]) == [*range(20, 31), 40]
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["engine"], config["end_tokens"]) == ("auto", ["!"])


def test_an_end_token_ends_a_rollout_of_a_probe(model_dir) -> None:
    plain = antiphase.probe(str(model_dir), progress=False, **PROBE)
    letters = plain.tokens[plain.tokens.token.map(lambda text: len(text) == 1 and text.isascii() and text.isalnum())]
    end = letters.iloc[0]
    ended = antiphase.probe(str(model_dir), progress=False, end_tokens=(end.token,), allow_short=True, **PROBE)
    rollout = ended.rollouts.set_index("rollout_id").loc[end.rollout_id]
    assert rollout.finish == "stop"
    assert rollout.num_tokens <= end.position + 1
    assert rollout.completion.endswith(end.token)


def test_the_command_line_takes_line_breaks_as_end_tokens(recorders, model_dir, tmp_path) -> None:
    words = ["probe", str(model_dir), "--out", str(tmp_path / "run"), "--num-prompts", "1", "--max-new-tokens", "12"]
    words += ["--end-token", r"\n", "--end-token", "!", "--quiet", "--no-figures", "--no-report"]
    assert cli.main(words) == 0
    assert recorders[0].end_ids == tuple(byte_tokenizer()("\n!").input_ids)


def test_vllm_and_a_model_in_memory() -> None:
    with pytest.raises(InvalidInputError, match="this model is in memory"):
        antiphase.probe(tiny_model(), tokenizer=byte_tokenizer(), engine="vllm", progress=False, **PROBE)


@pytest.mark.parametrize("options", [{"engine": "vlm"}, {"vllm_memory": 1.5}])
def test_engine_options_are_checked_first(options) -> None:
    with pytest.raises(InvalidInputError, match=r"engine|vllm_memory"):
        antiphase.probe("no-such-model", **options)


@pytest.mark.parametrize("command", ["probe", "eval"])
def test_a_run_that_was_cut_before_the_engine_was_recorded(command, model_dir, tmp_path, monkeypatch) -> None:
    kind, options = (antiphase.probe, PROBE) if command == "probe" else (antiphase.evaluate, EVAL)
    whole = kind(str(model_dir), progress=False, **options)
    out = tmp_path / "run"
    home = "probing.probe._ProbeRun" if command == "probe" else "evaluation.evaluate._EvaluationRun"
    with monkeypatch.context() as patch:
        calls = []

        def cut(self, batch, loaded, bar):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return tables(self, batch, loaded, bar)

        from antiphase.evaluation.evaluate import _EvaluationRun
        from antiphase.probing.probe import _ProbeRun

        tables = (_ProbeRun if command == "probe" else _EvaluationRun).tables
        patch.setattr(f"antiphase.{home}.tables", cut)
        with pytest.raises(KeyboardInterrupt):
            kind(str(model_dir), out=out, **QUIET, **options)
    # What an earlier version wrote: a config without these options, and facts without the engine.
    config = json.loads((out / "config.json").read_text())
    for name in ("engine", "vllm_memory", "end_tokens", "think_tags"):
        del config["config"][name]
    (out / "config.json").write_text(json.dumps(config))
    facts = json.loads((out / "parts/model-000/model.json").read_text())
    assert facts.pop("engine") == "transformers"
    (out / "parts/model-000/model.json").write_text(json.dumps(facts))
    again = kind(str(model_dir), out=out, resume=True, **QUIET, **options)
    assert again.summary["results"] == whole.summary["results"]


def test_another_engine_is_refused_on_resume(recorders, model_dir, tmp_path, monkeypatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("antiphase.probing.probe._ProbeRun.tables", stop)
        with pytest.raises(KeyboardInterrupt):
            antiphase.probe(str(model_dir), out=out, **QUIET, **PROBE)
    assert not out.exists()  # nothing was measured, so nothing is kept
    antiphase.probe(str(model_dir), out=out, **QUIET, **PROBE)
    with pytest.raises(InvalidInputError, match="engine was 'auto', is 'transformers'"):
        antiphase.probe(str(model_dir), out=out, resume=True, engine="transformers", **QUIET, **PROBE)
