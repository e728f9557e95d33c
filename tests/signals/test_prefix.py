"""Rows in two parts, a shared prefix and what follows it, give the numbers of rows in one part."""

import dataclasses

import pytest
import torch
from test_no_trace import assert_same, snapshot, used_model

from antiphase.signals import prefix
from antiphase.signals.chunk import rows_of
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import ARCHITECTURES, VOCAB, pure_double, tiny_model

SIGNALS = ("entropy", "logprob", "logprob_control", "self_certainty", "strength_by_projection")


def draw(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def groups(side: str = "right") -> TokenBatch:
    """Three prompts of different lengths and their rollouts, mixed; two completions of one token, one odd row."""
    first, second, third, odd = draw(9, 4, 17, 1)
    prompts = [first, second, first, third, first, third, second, odd]
    return TokenBatch.from_ids(prompts, draw(5, 7, 1, 3, 9, 8, 1, 6), padding_side=side, pad_token_id=2)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small batches run in two parts too; collects how many positions every forward pass of the backbone saw."""
    from antiphase.signals.capture import Observed

    seen, hidden = [], Observed.hidden

    def counted(self, input_ids, **options):
        seen.append(input_ids.numel())
        return hidden(self, input_ids, **options)

    monkeypatch.setattr(prefix, "_LEAST_SAVED", 1)
    monkeypatch.setattr(Observed, "hidden", counted)
    return seen


def both(model, batch: TokenBatch, **options):
    """Signals in two parts and in one part."""
    spec = SignalSpec(**options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "_LEAST_SAVED", 1)
        assert prefix.split(model, rows_of(batch, spec))[0]
        shared = token_signals(model, batch, spec)
        patch.setattr(prefix, "_LEAST_SAVED", 10**9)
        assert not prefix.split(model, rows_of(batch, spec))[0]
        return shared, token_signals(model, batch, spec)


def assert_equal(left, right, rtol: float = 1e-10, atol: float = 1e-13) -> None:
    assert torch.equal(left.measured, right.measured)
    for name in SIGNALS:
        torch.testing.assert_close(getattr(left, name), getattr(right, name), equal_nan=True, rtol=rtol, atol=atol)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_equal_the_whole_and_the_definition(architecture: str, side: str) -> None:
    batch = groups(side)
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        shared, plain = both(model, batch)
        truth = token_signals(model, batch, SignalSpec(estimator="oracle-own"))
    assert_equal(shared, plain)
    assert_equal(shared, truth, rtol=1e-8)


@pytest.mark.parametrize("options", [{"targets_per_rollout": 2}, {"target": "logprob", "temperature": 0.7},
                                     {"layers": "-1"}, {"norm": "l1", "projections": ("V", "Q")},
                                     {"token_budget": 1}, {"token_budget": 40}])  # fmt: skip
@pytest.mark.parametrize("architecture", ["llama-gqa", "gemma2", "gpt2"])
def test_options(architecture: str, options: dict) -> None:
    with pure_double():
        assert_equal(*both(tiny_model(architecture, torch.float64), groups(), **options))


@pytest.mark.parametrize("architecture", ["llama-gqa", "mistral-window", "opt"])
def test_tool_tokens_between_and_after_the_targets(architecture: str) -> None:
    batch = groups()
    gaps = batch.completion_mask.clone()
    gaps[0, 11] = False
    gaps[3, 17:19] = False  # the first target comes later than the completion
    gaps[4, 16:] = False  # real tokens after the last target
    gaps[5, [18, 20, 21]] = False
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        shared, plain = both(model, dataclasses.replace(batch, completion_mask=gaps))
    assert torch.equal(shared.measured, gaps)
    assert_equal(shared, plain)


def test_a_tool_result_right_before_the_target_belongs_to_the_prefix() -> None:
    # Rows of one prompt whose first targets differ: two prefixes, of which one begins with the other.
    prompt, tool = draw(9, 4)
    ids = [prompt + tool + [5, 6, 7], [*prompt, 5, 6, 7, 8]]
    batch = TokenBatch.from_ids([prompt] * 2, [row[9:] for row in ids])
    mask = batch.completion_mask.clone()
    mask[0, 9:13] = False
    with pure_double():
        assert_equal(*both(tiny_model(dtype=torch.float64), dataclasses.replace(batch, completion_mask=mask)))


@pytest.mark.parametrize("wrapped", [True, False])
def test_lora(wrapped: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    with pure_double():
        model = tiny_model("qwen2", torch.float64)
        targets = ["q_proj", "v_proj", "o_proj", "up_proj"] + (["lm_head"] if wrapped else [])
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, lora_dropout=0.5))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        model.train()
        inner = model.get_base_model()
        shared, _ = both(inner, groups())
        assert_equal(*both(inner, groups()))
        assert_equal(shared, token_signals(model, groups(), SignalSpec(estimator="oracle-own")), rtol=1e-8)


@pytest.mark.parametrize("architecture", ["llama-gqa", "qwen3", "phi3", "granite"])
def test_float32(architecture: str) -> None:
    assert_equal(*both(tiny_model(architecture, noise=0.7), groups()), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    shared, plain = both(tiny_model(dtype=dtype, noise=0.7), groups())
    assert shared.strength.dtype == torch.float32
    torch.testing.assert_close(shared.strength, plain.strength, equal_nan=True, rtol=0.15, atol=0)


def test_long_rows_run_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphase.signals import attention_blocks

    with pure_double():
        model = tiny_model("gemma2", torch.float64)
        shared, plain = both(model, groups())
        monkeypatch.setattr(attention_blocks, "_BLOCK_ELEMENTS", 8 * 4 * 26 * 3)
        blocks, _ = both(model, groups())
    assert_equal(shared, plain)
    assert_equal(blocks, shared)


def test_a_training_model_with_checkpointing_is_left_as_it_was() -> None:
    model = used_model()
    model.config.use_cache = False
    before = snapshot(model)
    shared, plain = both(model, groups())
    assert_same(before, snapshot(model))
    assert_equal(shared, plain, rtol=2e-5, atol=1e-6)
    with torch.inference_mode():
        assert_equal(both(model, groups())[0], shared)


def test_the_prefix_is_run_once_and_without_graph(parts: list[int]) -> None:
    (prompt,) = draw(21)
    batch = TokenBatch.from_ids([prompt] * 4, draw(5, 5, 5, 3))
    model = tiny_model()
    token_signals(model, batch)
    parts.clear()
    token_signals(model, batch)
    # 20 of the prompt's tokens, and of each row the prompt's last token and all tokens but the last one.
    assert parts == [20, 4 * 5]


def test_budget_bounds_the_positions_of_a_pass(parts: list[int]) -> None:
    one, two = draw(11, 7)
    batch = TokenBatch.from_ids([one] * 6 + [two] * 6, draw(*[6] * 12))
    model = tiny_model()
    wide = token_signals(model, batch, SignalSpec(token_budget=4096))
    parts.clear()
    narrow = token_signals(model, batch, SignalSpec(token_budget=64))
    assert len(parts) > 2
    # 6 columns and a third of the copied prefix (three layers) for each row, and the prefix.
    assert all(before + here <= 64 for before, here in zip(parts[::2], parts[1::2], strict=True))
    assert_equal(narrow, wide, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "completions"),
    [((4, 4), (30, 30)), ((1, 1), (5, 5)), ((20,), (30,))],
    ids=["saves little", "no prefix", "alone"],
)
def test_rows_that_save_little_run_in_one_part(parts: list[int], prompts, completions) -> None:
    batch = TokenBatch.from_ids(draw(*prompts), draw(*completions))
    assert not prefix.split(tiny_model(), rows_of(batch, SignalSpec()))[0]
    model = tiny_model()
    token_signals(model, batch)
    parts.clear()
    token_signals(model, batch)
    assert len(parts) == 1


def test_small_batches_run_in_one_part() -> None:
    assert not prefix.split(tiny_model(), rows_of(TokenBatch.from_ids(draw(9), draw(3)), SignalSpec()))[0]


def test_rotary_frequencies_that_switch() -> None:
    long = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [4.0] * 3, "rope_theta": 10000.0,
            "original_max_position_embeddings": 20}  # fmt: skip
    with pure_double():
        model = tiny_model(
            "phi3", torch.float64, rope_parameters=long, original_max_position_embeddings=20, sliding_window=None
        )
        shared, plain = both(model, groups())
    assert_equal(shared, plain)


def test_a_state_beside_attention_is_not_lost() -> None:
    # A model that mixes positions below the first measured layer is measured right, hence in one part.
    model = tiny_model()

    class Smeared(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) + 0.3 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]

    assert prefix.continues(model)
    smeared = tiny_model()
    smeared.model.layers[0].mlp = Smeared(smeared.model.layers[0].mlp)
    assert not prefix.continues(smeared)


def test_a_model_without_positions_runs_in_one_part() -> None:
    model = tiny_model()
    forward = model.model.forward

    def ignorant(input_ids=None, attention_mask=None, use_cache=None):
        return forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model.model.forward = ignorant
    assert not prefix.continues(model)

    deaf = tiny_model()
    kept = deaf.model.forward
    deaf.model.forward = lambda input_ids=None, position_ids=None, **options: kept(input_ids=input_ids, **options)
    assert not prefix.continues(deaf)


def test_masks_of_the_models_own_making_are_noticed() -> None:
    model = tiny_model()
    for layer in model.model.layers:
        inner = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, inner=inner, **options: inner(
            *args, **{**options, "attention_mask": None}
        )
    assert not prefix.continues(model)
