"""Rows in several passes give the numbers of rows in one pass, for every size of the passes, and take less memory."""

import weakref

import pytest
import torch
from test_no_trace import assert_same, snapshot, used_model

from antiphase.errors import UnsupportedModelError
from antiphase.signals.capture import Observed
from antiphase.signals.measure import token_signals
from antiphase.types import MAGNITUDES, SignalSpec, TokenBatch
from conftest import ARCHITECTURES, VOCAB, pure_double, tiny_model
from model_families import FAMILIES, family_batch, family_model

SIGNALS = ("entropy", "logprob", "logprob_control", "self_certainty", "impurity", "attention_entropy",
           "strength_by_projection")  # fmt: skip


def draw(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def rollouts(side: str = "right") -> TokenBatch:
    """Two prompts, four rollouts of up to 35 tokens; one completion of one token."""
    first, second = draw(11, 3)
    return TokenBatch.from_ids([first, second, first, second], draw(24, 17, 9, 1), padding_side=side, pad_token_id=2)


def assert_equal(left, right, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    assert torch.equal(left.measured, right.measured)
    for name in SIGNALS:
        torch.testing.assert_close(getattr(left, name), getattr(right, name), equal_nan=True, rtol=rtol, atol=atol)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Collects how many positions every forward pass of the backbone saw, and whether it built a graph."""
    calls, hidden = [], Observed.hidden

    def counted(self, input_ids, *, grad, **options):
        calls.append((input_ids.numel(), grad))
        return hidden(self, input_ids, grad=grad, **options)

    monkeypatch.setattr(Observed, "hidden", counted)
    return calls


@pytest.mark.parametrize(("side", "size"), [("left", 1), ("right", 7), ("left", 16)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_passes_equal_the_whole(architecture: str, side: str, size: int, seen: list[tuple[int, bool]]) -> None:
    batch = rollouts(side)
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        whole = token_signals(model, batch, SignalSpec(token_budget=10_000))
        seen.clear()
        parts = token_signals(model, batch, SignalSpec(token_budget=size))
    assert max(positions for positions, grad in seen if grad) == size
    assert_equal(parts, whole)


# The families whose long rows run in passes. The estimator `own` refuses all others.
IN_PASSES = (
    "Gemma 3n", "Gemma 4, small (reused keys and values)", "Gemma 4, large (`k_eq_v`)", "SmolLM3", "Qwen3-MoE",
    "Mixtral", "OLMoE", "DiffLlama",
)  # fmt: skip


@pytest.mark.parametrize("family", IN_PASSES)
def test_families(family: str, seen: list[tuple[int, bool]]) -> None:
    with pure_double():
        model, batch = family_model(family, torch.float64), family_batch()
        whole = token_signals(model, batch, SignalSpec(token_budget=10_000))
        assert max(positions for positions, grad in seen if grad) > 10
        seen.clear()
        parts = token_signals(model, batch, SignalSpec(token_budget=5))
    # The prompts have 5 and 2 tokens, the completions 6 and 8. All prompt tokens but the last one run without a graph.
    assert [positions for positions, grad in seen if grad] == [5, 1, 5, 3]
    assert_equal(parts, whole)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(IN_PASSES)))
def test_families_that_own_refuses_are_refused_in_passes_too(family: str) -> None:
    messages = []
    with pure_double():
        model, batch = family_model(family, torch.float64), family_batch()
        for size in (10_000, 5):
            with pytest.raises(UnsupportedModelError) as error:
                token_signals(model, batch, SignalSpec(token_budget=size))
            messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("options", [{"targets_per_rollout": 2}, {"target": "logprob", "temperature": 0.7},
                                     {"layers": "-1"}, {"norm": "l1", "projections": ("V", "Q")},
                                     {"num_alternatives": 3}])  # fmt: skip
def test_options(options: dict) -> None:
    batch = rollouts()
    with pure_double():
        model = tiny_model("gemma2", torch.float64)
        whole = token_signals(model, batch, SignalSpec(token_budget=10_000, **options))
        parts = token_signals(model, batch, SignalSpec(token_budget=6, **options))
    assert_equal(parts, whole)
    for name in MAGNITUDES:
        left, right = (getattr(signals.magnitudes, name) for signals in (parts, whole))
        torch.testing.assert_close(left, right, equal_nan=True, rtol=1e-12, atol=1e-14)
    if whole.alternatives is not None:
        assert torch.equal(parts.alternatives.token_ids, whole.alternatives.token_ids)


@pytest.mark.parametrize("size", [1, 5, 9])
def test_joint_strengths_of_steps(size: int) -> None:
    batch = rollouts()
    # Steps of 1 to 8 tokens, so that some are longer than a pass.
    ends = torch.tensor([1, 2, 4, 12, 14, 19, 20])
    place = batch.completion_mask.cumsum(1) - 1
    steps = torch.bucketize(place, ends, right=True)
    with pure_double():
        model = tiny_model("llama-gqa", torch.float64)
        joint = {"step_strength": "joint"}
        whole = token_signals(model, batch, SignalSpec(token_budget=10_000, **joint), steps=steps)
        parts = token_signals(model, batch, SignalSpec(token_budget=size, **joint), steps=steps)
    assert_equal(parts, whole)
    assert whole.steps.strength.isfinite().sum() == 8 + 6 + 4 + 1
    for name in ("strength_by_projection", "effective_rank"):
        left, right = (getattr(signals.steps, name) for signals in (parts, whole))
        torch.testing.assert_close(left, right, equal_nan=True, rtol=1e-10, atol=1e-13)


def test_tool_tokens_between_the_targets() -> None:
    (prompt,), (written,) = draw(6), draw(40)
    batch = TokenBatch.from_ids([prompt], [written])
    batch.completion_mask[0, 10:30] = False
    with pure_double():
        model = tiny_model("llama-gqa", torch.float64)
        whole = token_signals(model, batch, SignalSpec(token_budget=10_000))
        assert_equal(token_signals(model, batch, SignalSpec(token_budget=4)), whole)


def test_a_pass_has_no_more_positions_than_the_budget_and_a_prompt_runs_once(seen: list[tuple[int, bool]]) -> None:
    (prompt,) = draw(21)
    batch = TokenBatch.from_ids([prompt] * 3, draw(24, 24, 17))
    model = tiny_model()
    token_signals(model, batch, SignalSpec(token_budget=8))
    seen.clear()
    token_signals(model, batch, SignalSpec(token_budget=8))
    # 20 tokens of the prompt without a graph; of each row the prompt's last token and all tokens but the last one.
    assert seen[:3] == [(8, False), (8, False), (4, False)]
    assert seen[3:] == [(8, True)] * 3 + [(8, True)] * 3 + [(8, True), (8, True), (1, True)]


def test_progress_counts_every_target_once() -> None:
    batch, counts = rollouts(), []
    token_signals(tiny_model(), batch, SignalSpec(token_budget=7), progress=counts.append)
    assert sum(counts) == int(batch.completion_mask.sum())
    assert len(counts) > 4


def test_a_model_that_does_not_continue_runs_in_one_pass(seen: list[tuple[int, bool]]) -> None:
    model, batch = tiny_model(), rollouts()
    forward = model.model.forward
    model.model.forward = lambda input_ids=None, attention_mask=None, use_cache=None: forward(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
    )
    whole = token_signals(tiny_model(), batch, SignalSpec(token_budget=10_000))
    seen.clear()
    one = token_signals(model, batch, SignalSpec(token_budget=7))
    assert max(positions for positions, _ in seen) > 30
    assert_equal(one, whole, rtol=1e-5, atol=1e-6)


def test_only_the_graph_of_one_pass_is_alive() -> None:
    (prompt,), (written,) = draw(1), draw(60)
    model, batch = tiny_model(), TokenBatch.from_ids([prompt], [written])
    hidden, alive = Observed.hidden, []
    with pytest.MonkeyPatch.context() as patch:

        def watched(self, *arguments, **options):
            assert not any(reference() is not None for reference in alive)
            result = hidden(self, *arguments, **options)
            alive.append(weakref.ref(result))
            return result

        token_signals(model, batch, SignalSpec(token_budget=10))
        patch.setattr(Observed, "hidden", watched)
        token_signals(model, batch, SignalSpec(token_budget=10))
    assert len(alive) == 6


def test_the_model_is_left_as_it_was() -> None:
    model = used_model()
    before = snapshot(model)
    token_signals(model, rollouts(), SignalSpec(token_budget=7))
    assert_same(before, snapshot(model))
