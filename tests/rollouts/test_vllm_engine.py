"""The vLLM engine against a fake that records what it is given, and answers as scripted."""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pytest
import torch
from test_engines import PROMPTS, loaded_tiny

from antiphase.errors import (
    InvalidInputError,
    MissingExtraError,
    ModelNotFoundError,
    OutOfMemoryError,
)
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Completion
from antiphase.rollouts.sampling import Sampling, end_tokens
from antiphase.rollouts.vllm_engine import VllmGenerator, VllmOptions


@dataclass
class FakeOutput:
    token_ids: tuple[int, ...]
    finish_reason: str | None


@dataclass
class FakeVllm:
    """Records what it is given; `script` answers each prompt."""

    script: Callable[[int], FakeOutput] = lambda row: FakeOutput((9, 2), "stop")
    made: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[Any, Any, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None

    def module(self) -> types.ModuleType:
        fake, module = self, types.ModuleType("vllm")

        class LLM:
            def __init__(self, **options):
                fake.made.append(options)
                if fake.failure is not None:
                    raise fake.failure

            def generate(self, prompts, sampling_params, **options):
                fake.calls.append((prompts, sampling_params, options))
                return [types.SimpleNamespace(outputs=[fake.script(row)]) for row in range(len(prompts))]

        module.LLM, module.SamplingParams, module.TokensPrompt, module.__version__ = LLM, dict, dict, "0.0"
        return module


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    fake = FakeVllm()
    monkeypatch.setitem(sys.modules, "vllm", fake.module())
    return fake


def test_vllm_gets_the_model_the_prompts_and_a_sampling_without_the_checkpoints_defaults(vllm: FakeVllm, model_dir):
    options = VllmOptions(
        str(model_dir), dtype="bfloat16", revision="main", max_model_len=64, memory_share=0.4, seed=5
    )
    engine = make_generator("vllm", None, end_ids=[77, 2], vllm=options)
    scripted = [FakeOutput((9, 2), "stop"), FakeOutput((9, 77), "stop"), FakeOutput((9, 9, 9, 9), "length")]
    vllm.script, ticks = scripted.__getitem__, []
    sampling = Sampling(max_new_tokens=4, temperature=0.6, top_p=0.9, seed=3)
    completions = engine.complete(PROMPTS[:3], sampling, [11, 12, 2**62], tick=ticks.append)
    assert completions == [
        Completion((9, 2), "stop"),
        Completion((9, 77), "stop"),
        Completion((9, 9, 9, 9), "length"),
    ]
    assert ticks == [1.0]
    assert engine.versions == {"vllm": "0.0", "torch": metadata.version("torch")}
    (made,) = vllm.made
    assert made == {
        "model": str(model_dir),
        "dtype": "bfloat16",
        "revision": "main",
        "tokenizer_revision": "main",
        "trust_remote_code": False,
        "max_model_len": 64,
        "gpu_memory_utilization": 0.4,
        "seed": 5,
        "generation_config": "vllm",
    }
    ((prompts, parameters, call),) = vllm.calls
    assert prompts == [{"prompt_token_ids": ids} for ids in PROMPTS[:3]]
    assert call == {"use_tqdm": False}
    assert [p.pop("seed") for p in parameters] == [11, 12, 2**62]
    assert (
        parameters
        == [
            {
                "n": 1,
                "temperature": 0.6,
                "top_p": 0.9,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "max_tokens": 4,
                "ignore_eos": True,
                "stop_token_ids": [2, 77],
                "detokenize": False,
                "skip_special_tokens": False,
            }
        ]
        * 3
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (FakeOutput((9,), "abort"), "rollout 0 after 1 tokens with the finish reason 'abort'"),
        (FakeOutput((9,), None), "finish reason None"),
        (FakeOutput((9, 9), "stop"), "its last token is 9"),
        (FakeOutput((9, 9), "length"), "cut rollout 0 off at 2 of 4 tokens"),
    ],
)
def test_what_vllm_should_not_answer_is_an_error(vllm: FakeVllm, model_dir, output: FakeOutput, message: str):
    vllm.script = lambda row: output
    engine = VllmGenerator(VllmOptions(str(model_dir)))
    with pytest.raises(InvalidInputError, match=message):
        engine.complete(PROMPTS[:1], Sampling(max_new_tokens=4), [0])


def test_vllm_refuses_lengths_before_it_runs_and_after_it_is_closed(vllm: FakeVllm, model_dir):
    engine = VllmGenerator(VllmOptions(str(model_dir), max_model_len=10))
    assert engine.complete([], Sampling(), []) == []
    with pytest.raises(InvalidInputError, match="exceeds max_model_len 10"):
        engine.complete(PROMPTS, Sampling(max_new_tokens=4), range(len(PROMPTS)))
    with pytest.raises(InvalidInputError, match="prompt 0 has no tokens"):
        engine.complete([[]], Sampling(max_new_tokens=4), [0])
    engine.close()
    with pytest.raises(InvalidInputError, match="closed"):
        engine.complete([[5]], Sampling(max_new_tokens=4), [0])
    assert vllm.calls == []


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), OutOfMemoryError),
        (ValueError("No available memory for the cache blocks."), OutOfMemoryError),
        (ValueError("Model architectures ['X'] are not supported"), InvalidInputError),
    ],
)
def test_what_vllm_raises_while_loading_is_explained(vllm: FakeVllm, model_dir, failure, kind):
    vllm.failure = failure
    with pytest.raises(kind, match="while loading"):
        VllmGenerator(VllmOptions(str(model_dir)))


def test_vllm_absent_unknown_models_and_options(monkeypatch: pytest.MonkeyPatch, tmp_path, model_dir):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'antiphase\[vllm\]'"):
        VllmGenerator(VllmOptions(str(model_dir)))
    monkeypatch.setitem(sys.modules, "vllm", FakeVllm().module())
    with pytest.raises(ModelNotFoundError, match="could not read the configuration"):
        VllmGenerator(VllmOptions(str(tmp_path)))
    for wrong in ({"dtype": "float64"}, {"memory_share": 0.0}, {"max_model_len": 1}):
        with pytest.raises(InvalidInputError):
            VllmOptions("x", **wrong)


def test_vllm_uses_the_end_tokens_of_the_other_engines(vllm: FakeVllm, tmp_path):
    loaded = loaded_tiny()
    loaded.model.generation_config.eos_token_id = [2, 44]
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    VllmGenerator(VllmOptions(str(tmp_path))).complete([[5]], Sampling(max_new_tokens=4), [0])
    assert vllm.calls[0][1][0]["stop_token_ids"] == end_tokens(loaded) == [2, 44]
    (tmp_path / "generation_config.json").unlink()
    VllmGenerator(VllmOptions(str(tmp_path))).complete([[5]], Sampling(max_new_tokens=4), [0])
    assert vllm.calls[1][1][0]["stop_token_ids"] == [2]
