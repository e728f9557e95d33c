"""Completion engines: each against `generate`, on tiny models. vLLM is in `test_vllm_generator`."""

from typing import Any

import pytest
import torch
import transformers

from antiphase.errors import (
    InvalidInputError,
    NonFiniteError,
    OutOfMemoryError,
)
from antiphase.models.loading import LoadedModel
from antiphase.rollouts import continuous_engine as continuous
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.continuous_engine import ContinuousGenerator, why_not_continuous
from antiphase.rollouts.engine import Completion
from antiphase.rollouts.sampling import Sampling, end_tokens, generate
from antiphase.rollouts.transformers_engine import TransformersGenerator
from conftest import ARCHITECTURES, byte_tokenizer, tiny_model

PROMPTS = [[5, 6, 7], [20, 21, 22, 23, 24, 25, 26, 27, 28], [40], [5, 6, 7], [60, 61]]


WINDOWED = (("mistral-window", "sdpa"), ("gemma3", "sdpa"), ("gemma3", "eager"))
# Before 5.23 transformers is not known to page them rightly, and they are refused.
needs_windows = pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23), reason="windows are refused"
)


def loaded_tiny(architecture: str = "llama-gqa", **changes) -> LoadedModel:
    return LoadedModel("tiny", tiny_model(architecture, **changes), byte_tokenizer(), None)


def plain(loaded: LoadedModel, sampling: Sampling, number: int = 0, **options) -> list[Completion]:
    rows = generate(loaded, PROMPTS, sampling, number, **options)
    return [Completion(tuple(ids), finish) for ids, finish in rows]


# --- the plain engine ---


def test_the_plain_engine_draws_what_generate_draws_and_ticks_once_per_position():
    loaded, sampling, ticks = loaded_tiny(), Sampling(max_new_tokens=8, seed=3), []
    engine = make_generator("transformers", loaded, num_rollouts=100)
    completions = engine.complete(PROMPTS, sampling, 4, tick=ticks.append)
    assert completions == plain(loaded, sampling, 4)
    assert engine.name == "transformers"
    assert engine.versions["torch"] == torch.__version__
    assert sum(ticks) == pytest.approx(1)
    assert len(ticks) == 8
    assert engine.complete([], sampling, 0) == []


@pytest.mark.parametrize("name", ["transformers", "continuous"])
def test_an_extra_end_token_ends_a_completion_and_is_its_last_id(name: str):
    loaded, sampling = loaded_tiny(), Sampling(max_new_tokens=12, temperature=0)
    free = plain(loaded, sampling)
    extra = free[1].ids[5]
    expected = []
    for completion in free:
        cut = completion.ids.index(extra) + 1 if extra in completion.ids else None
        expected.append(completion if cut is None else Completion(completion.ids[:cut], "stop"))
    engine = make_generator(name, loaded, end_ids=[extra])
    assert engine.complete(PROMPTS, sampling, 0) == expected
    assert expected[1].ids[-1] == extra
    assert end_tokens(loaded, [extra, 2]) == [2, extra]
    assert loaded.model.generation_config.eos_token_id == 2


# --- continuous batching ---


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [
        *((name, "sdpa") for name in ("llama-gqa", "qwen3", "gpt2")),
        ("llama-mqa-tied", "eager"),
        *(pytest.param(*case, marks=needs_windows) for case in WINDOWED),
    ],
)
def test_greedy_equals_the_plain_engine_token_by_token(architecture: str, attention: str):
    loaded = loaded_tiny(architecture)
    loaded.model.set_attn_implementation(attention)
    sampling, ticks = Sampling(max_new_tokens=20, temperature=0), []
    completions = ContinuousGenerator(loaded).complete(PROMPTS, sampling, 0, tick=ticks.append)
    assert completions == plain(loaded, sampling)
    assert ticks == [pytest.approx(0.2)] * 5


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("llama-gqa", {}), pytest.param("mistral-window", {"sliding_window": 300}, marks=needs_windows)],
)
def test_prompts_over_several_pages_and_forward_passes_equal_the_plain_engine(
    architecture: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(continuous, "_MOST_MASKED_TOKENS", 128)
    long = torch.randint(3, 300, (520,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [long[:300], long[:300], long, long[5:12], long[:256]]
    loaded, sampling = loaded_tiny(architecture, **changes), Sampling(max_new_tokens=16, temperature=0)
    expected = TransformersGenerator(loaded).complete(prompts, sampling, 0)
    assert ContinuousGenerator(loaded).complete(prompts, sampling, 0) == expected


def test_a_natural_end_token_is_included_once_and_max_new_tokens_is_exact():
    loaded, sampling = loaded_tiny(noise=0.3), Sampling(max_new_tokens=40, seed=1, temperature=1.5)
    loaded.model.generation_config.eos_token_id = list(range(2, 40))
    completions = ContinuousGenerator(loaded).complete(PROMPTS * 4, sampling, 0)
    assert {c.finish for c in completions} >= {"stop"}
    for completion in completions:
        ends = [token for token in completion.ids if 2 <= token < 40]
        assert len(ends) == (completion.finish == "stop")
        assert completion.finish == "stop" or len(completion.ids) == 40
    one = ContinuousGenerator(loaded).complete(PROMPTS, Sampling(max_new_tokens=1, temperature=0), 0)
    assert [len(c.ids) for c in one] == [1] * 5


def test_draws_are_fixed_by_the_seed_and_the_batch_number_and_repeated_prompts_differ():
    loaded = loaded_tiny(noise=0.3)
    engine = ContinuousGenerator(loaded)
    first = engine.complete(PROMPTS, Sampling(max_new_tokens=16, seed=1), 2)
    torch.manual_seed(99)  # the caller's random state has no part in it
    assert first == engine.complete(PROMPTS, Sampling(max_new_tokens=16, seed=1), 2)
    assert first != engine.complete(PROMPTS, Sampling(max_new_tokens=16, seed=2), 2)
    assert first != engine.complete(PROMPTS, Sampling(max_new_tokens=16, seed=1), 3)
    assert first[0] != first[3]


def test_one_drawn_token_has_the_models_own_distribution_also_under_top_p():
    loaded = loaded_tiny(noise=0.5)
    # Top-k and a penalty in the checkpoint's defaults must not reach the draw.
    loaded.model.generation_config.update(top_k=1, repetition_penalty=9.0, do_sample=True)
    count, engine = 800, ContinuousGenerator(loaded)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    own = (logits.double() / 0.7).softmax(-1)
    drawn = engine.complete([PROMPTS[0]] * count, Sampling(max_new_tokens=1, temperature=0.7), 0)
    shares = torch.bincount(torch.tensor([c.ids[0] for c in drawn]), minlength=len(own)) / count
    assert bool(((shares - own).abs() <= 5 * (own * (1 - own) / count).sqrt() + 1e-3).all())
    order = own.argsort(descending=True)
    nucleus = set(order[: int((own[order].cumsum(0) < 0.5).sum()) + 1].tolist())
    held = engine.complete([PROMPTS[0]] * 300, Sampling(max_new_tokens=1, temperature=0.7, top_p=0.5), 0)
    assert {c.ids[0] for c in held} <= nucleus < {c.ids[0] for c in drawn}


def test_the_model_and_the_random_state_come_back_as_they_were():
    loaded = loaded_tiny()
    model = loaded.model
    model.set_attn_implementation("eager")
    model.train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    config, weights = model.generation_config, [p.clone() for p in model.parameters()]
    state = torch.random.get_rng_state()
    ContinuousGenerator(loaded).complete(PROMPTS, Sampling(max_new_tokens=4), 0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.config._attn_implementation == "eager"
    assert [module.training for module in model.modules()] == modes
    assert model.generation_config is config
    assert config.eos_token_id == 2
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert not hasattr(model, "_cached_continuous_batching_manager")


def test_a_call_larger_than_the_cache_still_completes_everything(monkeypatch: pytest.MonkeyPatch):
    loaded, sampling = loaded_tiny(), Sampling(max_new_tokens=20, temperature=0)
    expected = plain(loaded, sampling)
    engine = ContinuousGenerator(loaded)
    monkeypatch.setattr(continuous, "_SPARE", 0.0)  # four pages, fewer than the rollouts
    monkeypatch.setattr(continuous, "_MOST_MASKED_TOKENS", 64)
    assert engine.complete(PROMPTS * 6, sampling, 0) == expected * 6


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("gemma2", {}, "soft-capped"),
        ("qwen3-next", {"layer_types": ["linear_attention", "full_attention", "full_attention"]}, "linear_attention"),
    ],
)
def test_what_cannot_be_paged_is_refused(architecture: str, changes: dict[str, Any], reason: str):
    with pytest.raises(InvalidInputError, match=rf"{reason}.*Use the generator 'transformers'"):
        make_generator("continuous", loaded_tiny(architecture, **changes))


def test_a_model_whose_paged_attention_is_wrong_or_fails_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(continuous, "why_not_continuous", lambda loaded: None)
    loaded = loaded_tiny("gemma2")
    before = loaded.model.config._attn_implementation
    with pytest.raises(InvalidInputError, match="log-probabilities that are off by"):
        ContinuousGenerator(loaded).complete(PROMPTS, Sampling(max_new_tokens=2), 0)
    # A configuration with key heads that the architecture does not have: the cache has the wrong shape.
    with pytest.raises(InvalidInputError, match=r"it failed \(index_copy_"):
        ContinuousGenerator(loaded_tiny("opt")).complete(PROMPTS, Sampling(max_new_tokens=2), 0)
    assert loaded.model.config._attn_implementation == before
    assert "opt" in ARCHITECTURES


def test_other_refusals_of_the_continuous_engine(monkeypatch: pytest.MonkeyPatch):
    loaded = loaded_tiny()
    engine, sampling = ContinuousGenerator(loaded), Sampling(max_new_tokens=4)
    assert engine.complete([], sampling, 0) == []
    with pytest.raises(InvalidInputError, match="prompt 1 has no tokens"):
        engine.complete([[5], []], sampling, 0)
    with torch.no_grad():
        loaded.model.lm_head.weight[7] = float("nan")
    with pytest.raises(NonFiniteError):
        engine.complete(PROMPTS, sampling, 0)
    for error in (MemoryError("footprint"), RuntimeError("CUDA out of memory. Tried to allocate")):
        known = continuous._explained(error, loaded, 5, sampling)
        assert isinstance(known, OutOfMemoryError)
        assert "5 rollouts" in str(known)
    window = loaded_tiny("mistral-window")
    monkeypatch.setattr(continuous.transformers, "__version__", "5.23.0.dev0")
    assert why_not_continuous(window) is None
    monkeypatch.setattr(continuous.transformers, "__version__", "5.10.0")
    assert "window" in str(why_not_continuous(window))
    loaded.model.config._attn_implementation = "flex_attention"
    assert "flex_attention" in str(why_not_continuous(loaded))


# --- choosing ---


def test_auto_is_plain_on_cpu_and_continuous_on_cuda_with_flash_attention_and_many_rollouts(
    monkeypatch: pytest.MonkeyPatch,
):
    loaded = loaded_tiny()
    assert type(make_generator("auto", loaded, num_rollouts=1000)) is TransformersGenerator
    monkeypatch.setattr(LoadedModel, "device", property(lambda self: torch.device("cuda")))
    assert type(make_generator("auto", loaded, num_rollouts=1000)) is TransformersGenerator
    monkeypatch.setattr(continuous, "can_use_flash", lambda loaded: True)
    assert type(make_generator("auto", loaded, num_rollouts=9)) is ContinuousGenerator
    assert type(make_generator("auto", loaded, num_rollouts=8)) is TransformersGenerator
    monkeypatch.setattr(continuous, "why_not_continuous", lambda loaded: "it cannot")
    assert type(make_generator("auto", loaded, num_rollouts=9)) is TransformersGenerator


def test_make_generator_refuses_what_it_cannot_make():
    with pytest.raises(InvalidInputError, match=r"auto, transformers, continuous, vllm; got 'sglang'"):
        make_generator("sglang", loaded_tiny())
    with pytest.raises(InvalidInputError, match="got none"):
        make_generator("auto", None)
    with pytest.raises(InvalidInputError, match="VllmOptions"):
        make_generator("vllm", None)


# --- vLLM, against a fake ---
