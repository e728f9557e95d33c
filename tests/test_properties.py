"""Invariances of the measurement: what must not change the numbers, and what must."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphase.signals.entropy import head_signals, logit_statistics
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import VOCAB, tiny_model

ESTIMATORS = ["own", "last", "full"]
token = st.integers(0, VOCAB - 1)
rollout = st.tuples(st.lists(token, min_size=1, max_size=6), st.lists(token, min_size=1, max_size=8))
MODEL = tiny_model("qwen3")


def signals(prompts, completions, estimator="own", side="right", **options):
    batch = TokenBatch.from_ids(prompts, completions, padding_side=side)
    return batch, token_signals(MODEL, batch, SignalSpec(estimator=estimator, **options))


def same(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(rollouts=st.lists(rollout, min_size=1, max_size=4), side=st.sampled_from(["left", "right"]))
def test_batch_and_padding_equal_one_row_at_a_time(estimator: str, rollouts, side: str) -> None:
    prompts, completions = zip(*rollouts, strict=True)
    batch, together = signals(prompts, completions, estimator, side)
    for row, (prompt, completion) in enumerate(rollouts):
        alone_batch, alone = signals([prompt], [completion], estimator)
        for name in ("entropy", "logprob", "logprob_control", "self_certainty", "strength"):
            left = getattr(together, name)[row, batch.completion_mask[row]]
            same(left, getattr(alone, name)[0, alone_batch.completion_mask[0]])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(rollouts=st.lists(rollout, min_size=2, max_size=5), budget=st.integers(1, 60))
def test_chunk_size_changes_nothing(estimator: str, rollouts, budget: int) -> None:
    prompts, completions = zip(*rollouts, strict=True)
    same(
        signals(prompts, completions, estimator, token_budget=budget)[1].strength,
        signals(prompts, completions, estimator)[1].strength,
    )


@given(rollout=rollout)
def test_head_chunks_change_nothing(rollout) -> None:
    from antiphase.signals import entropy, vocabulary_tiles

    whole = signals([rollout[0]], [rollout[1]])[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_tiles, "_TILE", (2, 64))
        tiles = signals([rollout[0]], [rollout[1]])[1]
        patch.setattr(vocabulary_tiles, "plain_linear", lambda _: None)
        patch.setattr(entropy, "_CHUNK_ELEMENTS", 1)
        single = signals([rollout[0]], [rollout[1]])[1]
    for name in ("entropy", "logprob", "strength"):
        same(getattr(tiles, name), getattr(whole, name))
        same(getattr(single, name), getattr(whole, name))


@given(rollout=rollout, side=st.sampled_from(["left", "right"]))
def test_only_completion_tokens_are_measured(rollout, side: str) -> None:
    other = ([1, 2, 3, 4, 5, 6, 7], [8, 9])
    batch, result = signals([rollout[0], other[0]], [rollout[1], other[1]], side=side)
    for name in ("entropy", "logprob", "logprob_control", "self_certainty", "strength"):
        assert torch.equal(getattr(result, name).isfinite(), batch.completion_mask)
    assert torch.equal(result.measured, batch.completion_mask)


@given(rollout=rollout, pad=token)
def test_padding_id_is_never_read(rollout, pad: int) -> None:
    prompts, completions = [rollout[0], [1] * 9], [rollout[1], [2] * 9]
    results = [
        token_signals(MODEL, TokenBatch.from_ids(prompts, completions, pad_token_id=value, padding_side="left"))
        for value in (pad, 0)
    ]
    assert torch.equal(results[0].strength.nan_to_num(), results[1].strength.nan_to_num())


@given(rollout=rollout)
def test_later_tokens_do_not_change_earlier_ones(rollout) -> None:
    prompt, completion = rollout
    for estimator in ESTIMATORS:
        whole = signals([prompt], [completion], estimator)[1].strength[0, : len(prompt) + 1]
        cut = signals([prompt], [completion[:1]], estimator)[1].strength[0]
        same(whole, cut)


@given(st.integers(0, 2**31), st.floats(-30, 30))
def test_logit_shift_leaves_the_statistics(seed: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 40, generator=generator, dtype=torch.float64) * 4
    ids = torch.randint(0, 40, (5,), generator=generator)
    for moved, plain in zip(logit_statistics(logits + shift, ids), logit_statistics(logits, ids), strict=True):
        torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**31))
def test_statistics_equal_torch_distributions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 30, generator=generator, dtype=torch.float64) * 5
    ids = torch.randint(0, 30, (6,), generator=generator)
    entropy, logprob, control = logit_statistics(logits, ids, 0.6)
    truth = torch.distributions.Categorical(logits=logits / 0.6)
    torch.testing.assert_close(entropy, truth.entropy())
    torch.testing.assert_close(logprob, truth.log_prob(ids))
    chosen = torch.nn.functional.one_hot(ids, 30)
    torch.testing.assert_close(control, (chosen - truth.probs).norm(dim=-1))


def test_control_of_confident_tokens_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 2000, generator=generator)
    ids = torch.randint(0, 2000, (500,), generator=generator)
    logits[torch.arange(500), ids] += torch.linspace(0, 25, 500)
    narrow, wide = (logit_statistics(x, ids)[2] for x in (logits, logits.double()))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=0)


def test_certain_token_has_no_entropy_and_no_control() -> None:
    logits = torch.zeros(1, 8)
    logits[0, 3] = 60.0
    entropy, logprob, control = logit_statistics(logits, torch.tensor([3]))
    assert entropy.item() == pytest.approx(0, abs=1e-20)
    assert logprob.item() == pytest.approx(0, abs=1e-7)
    assert control.item() == pytest.approx(0, abs=1e-20)
    masked = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert logit_statistics(masked, torch.tensor([0]))[0].item() == pytest.approx(0.693147, abs=1e-6)


@given(rollouts=st.lists(rollout, min_size=1, max_size=2), seed=st.integers(0, 1000))
def test_vocabulary_permutation_changes_nothing(rollouts, seed: int) -> None:
    order = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(seed))
    renamed = tiny_model("qwen3")
    with torch.no_grad():
        for weight in (renamed.get_input_embeddings().weight, renamed.get_output_embeddings().weight):
            weight[order] = weight.clone()
    prompts, completions = zip(*rollouts, strict=True)
    rename = [[[int(order[t]) for t in ids] for ids in part] for part in (prompts, completions)]
    plain = signals(prompts, completions)[1]
    moved = token_signals(renamed, TokenBatch.from_ids(*rename))
    for name in ("entropy", "logprob", "strength"):
        same(getattr(moved, name), getattr(plain, name))


def test_head_equals_the_models_own_logits() -> None:
    # The replaced backbone must reproduce softcaps and logit scales.
    for architecture in ("gemma2", "granite", "cohere", "gpt2"):
        model = tiny_model(architecture)
        ids = torch.arange(3, 15)[None]
        output = model(input_ids=ids, output_hidden_states=True)
        head = head_signals(model, output.hidden_states[-1][0, :-1], ids[0, 1:], SignalSpec(), want_seed=False)
        truth = torch.distributions.Categorical(logits=output.logits[0, :-1])
        torch.testing.assert_close(head.entropy, truth.entropy(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(head.logprob, truth.log_prob(ids[0, 1:]), rtol=1e-4, atol=1e-5)
