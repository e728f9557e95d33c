"""Completion engines: each against `generate`, on tiny models. vLLM is in `test_vllm_engine`."""

import json

import pytest
import torch

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Completion, Generator
from antiphase.rollouts.engine_names import ENGINES
from antiphase.rollouts.sampling import end_tokens, generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.rollouts.transformers_engine import TransformersGenerator
from conftest import byte_tokenizer, tiny_model

PROMPTS = [[5, 6, 7], [20, 21, 22, 23, 24, 25, 26, 27, 28], [40], [5, 6, 7], [60, 61]]
SEEDS = rollout_seeds(3, PROMPTS)


def loaded_tiny(architecture: str = "llama-gqa", **changes) -> LoadedModel:
    return LoadedModel("tiny", tiny_model(architecture, **changes), byte_tokenizer(), None)


def plain(loaded: LoadedModel, sampling: Sampling, **options) -> list[Completion]:
    rows = generate(loaded, PROMPTS, sampling, SEEDS, **options)
    return [Completion(tuple(ids), finish) for ids, finish in rows]


# --- the plain engine ---


def test_the_plain_engine_draws_what_generate_draws_and_ticks_once_per_position():
    loaded, sampling, ticks = loaded_tiny(), Sampling(max_new_tokens=8, seed=3), []
    engine = make_generator("transformers", loaded)
    completions = engine.complete(PROMPTS, sampling, SEEDS, tick=ticks.append)
    assert completions == plain(loaded, sampling)
    assert engine.name == "transformers"
    assert engine.versions["torch"] == torch.__version__
    assert sum(ticks) == pytest.approx(1)
    assert len(ticks) == 8
    assert engine.complete([], sampling, []) == []


def test_an_extra_end_token_ends_a_completion_and_is_its_last_id():
    loaded, sampling = loaded_tiny(), Sampling(max_new_tokens=12, temperature=0)
    free = plain(loaded, sampling)
    extra = free[1].ids[5]
    expected = []
    for completion in free:
        cut = completion.ids.index(extra) + 1 if extra in completion.ids else None
        expected.append(completion if cut is None else Completion(completion.ids[:cut], "stop"))
    engine = make_generator("transformers", loaded, end_ids=[extra])
    assert engine.complete(PROMPTS, sampling, SEEDS) == expected
    assert expected[1].ids[-1] == extra
    assert end_tokens(loaded, [extra, 2]) == [2, extra]
    assert loaded.model.generation_config.eos_token_id == 2


def test_one_drawn_token_has_the_models_own_distribution_also_under_top_p():
    loaded = loaded_tiny(noise=0.5)
    # Top-k and a penalty in the checkpoint's defaults must not reach the draw.
    loaded.model.generation_config.update(top_k=1, repetition_penalty=9.0, do_sample=True)
    count, engine = 800, TransformersGenerator(loaded)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    own = (logits.double() / 0.7).softmax(-1)
    drawn = engine.complete([PROMPTS[0]] * count, Sampling(max_new_tokens=1, temperature=0.7), range(count))
    shares = torch.bincount(torch.tensor([c.ids[0] for c in drawn]), minlength=len(own)) / count
    assert bool(((shares - own).abs() <= 5 * (own * (1 - own) / count).sqrt() + 1e-3).all())
    order = own.argsort(descending=True)
    nucleus = set(order[: int((own[order].cumsum(0) < 0.5).sum()) + 1].tolist())
    held = engine.complete([PROMPTS[0]] * 300, Sampling(max_new_tokens=1, temperature=0.7, top_p=0.5), range(300))
    assert {c.ids[0] for c in held} <= nucleus < {c.ids[0] for c in drawn}


# --- choosing ---


def test_auto_is_transformers():
    assert type(make_generator("auto", loaded_tiny())) is TransformersGenerator


def test_make_generator_refuses_what_it_cannot_make():
    with pytest.raises(InvalidInputError, match=r"auto, transformers, vllm; got 'sglang'"):
        make_generator("sglang", loaded_tiny())
    with pytest.raises(InvalidInputError, match=r"'continuous' was removed.*Use 'transformers'"):
        make_generator("continuous", loaded_tiny())
    with pytest.raises(InvalidInputError, match="got none"):
        make_generator("auto", None)
    with pytest.raises(InvalidInputError, match="VllmOptions"):
        make_generator("vllm", None)


class EchoGenerator(Generator):
    """Completes each prompt with its own last tokens, as docs/extend.md shows."""

    name, versions = "echo", {"echo": "1.0"}

    def complete(self, prompt_ids, sampling, seeds, *, tick=lambda _: None):
        tick(1.0)
        return [Completion(tuple(ids[-sampling.max_new_tokens :]), "length") for ids in prompt_ids]


@pytest.fixture
def echo():
    ENGINES.add("echo", lambda loaded, **options: EchoGenerator())
    yield
    ENGINES.remove("echo")


@pytest.mark.parametrize("command", ["probe", "evaluate"])
def test_an_added_engine_completes_the_prompts_of_a_run(echo, command, model_dir, tmp_path):
    with pytest.raises(InvalidInputError, match="already an entry 'echo' among the engines"):
        ENGINES.add("echo", EchoGenerator)
    options = (
        {"num_prompts": 2}
        if command == "probe"
        else {"tasks": ("digit_sum",), "num_problems": 2, "samples": 1, "greedy": False}
    )
    options |= {"max_new_tokens": 8, "min_tokens": 4, "num_resamples": 10, "progress": False, "figures": False}
    found = getattr(antiphase, command)(str(model_dir), engine="echo", out=tmp_path / "run", report=False, **options)
    assert len(found.rollouts) == 2
    for prompt, completion in zip(found.rollouts.prompt_ids, found.rollouts.completion_ids, strict=True):
        assert list(completion) == list(prompt)[-8:]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["engine"] == "echo"
