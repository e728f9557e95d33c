"""InversionReward by itself: facts, rewards by hand, several processes, and that TRL's trainer gives the same."""

import dataclasses
import math

import pytest
import torch

from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.inversion.rollout_facts import RolloutFacts, RolloutIds
from antiphase.scores import RolloutScores, rollout_scores
from antiphase.signals.measure import token_signals
from antiphase.steps.assigning import batch_steps
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model

NAN = math.nan
STEPS = {"unit": "step", "splitter": "fixed:2", "min_steps": 4}
PROMPTS = [[5, 6], [5, 6], [7], [7]]
COMPLETIONS = [[9 + (7 * i + 3 * j * j) % 80 for j in range(14 - i)] for i in range(3)] + [[5, 2]]


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def facts_of(*inversion):
    """Facts whose ι are given, everything else 0."""
    nothing = torch.zeros(len(inversion), dtype=torch.float64)
    iota = t(*inversion)
    scores = RolloutScores(
        iota, -iota, {"token": -iota, "step": nothing}, nothing, nothing, nothing, nothing, nothing.long(),
        nothing.long(),
    )  # fmt: skip
    return RolloutFacts(scores, nothing, nothing, nothing, nothing, nothing)


def columns(facts):
    scores = {**vars(facts.scores), **facts.scores.by_unit}
    scores.pop("by_unit")
    return {**scores, **{name: value for name, value in vars(facts).items() if name not in ("scores", "tokens")}}


def same_facts(left, right, *, but=("seconds",), rtol=0.0):
    left, right = columns(left), columns(right)
    assert left.keys() == right.keys()
    for name in left.keys() - set(but):
        torch.testing.assert_close(left[name], right[name], rtol=rtol, atol=0, equal_nan=True, msg=name)


class TestTokenFacts:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_are_the_signals_of_each_rollout(self, side):
        """Padding on either side gives the signals that a rollout has alone."""
        model, tokenizer, reward = tiny_model(), byte_tokenizer(), InversionReward(InversionSpec(**STEPS))
        batch = TokenBatch.from_ids(PROMPTS, COMPLETIONS, padding_side=side)
        found = reward.measure(model, batch, tokenizer, by_token=True).tokens
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            one = TokenBatch.from_ids([prompt], [completion])
            steps = batch_steps(one, tokenizer, reward.spec.step_splitter())
            signals = token_signals(model, one, reward.spec.signal_spec(), steps=steps)
            own = found.of_rollout(row, len(prompt), len(completion))
            for name in ("entropy", "logprob", "strength"):
                assert own[name] == pytest.approx(
                    getattr(signals, name)[0, len(prompt) :].tolist(), rel=1e-4, abs=1e-6
                )
            numbers = steps[0, len(prompt) :].tolist()
            assert own["step_start"] == [numbers.index(number) for number in sorted(set(numbers))]
            for name in ("entropy", "strength"):
                assert own[f"step_{name}"] == pytest.approx(getattr(signals.steps, name)[0].tolist(), rel=1e-4)

    def test_tokens_beyond_the_context_are_undefined(self):
        model, tokenizer, reward = tiny_model(), byte_tokenizer(), InversionReward(InversionSpec(**STEPS))
        limit = len(PROMPTS[0]) + 5
        model.config.max_position_embeddings = limit
        rollouts = RolloutIds(PROMPTS[:1], COMPLETIONS[:1])
        own = reward.measure(model, rollouts, tokenizer, by_token=True).tokens.of_rollout(
            0, len(PROMPTS[0]), len(COMPLETIONS[0])
        )
        assert [math.isnan(value) for value in own["entropy"]] == [False] * 5 + [True] * (len(COMPLETIONS[0]) - 5)

    def test_are_not_kept_unless_asked_for(self):
        model, reward = tiny_model(), InversionReward(InversionSpec(**STEPS))
        rollouts = RolloutIds(PROMPTS, COMPLETIONS)
        assert reward.measure(model, rollouts, byte_tokenizer()).tokens is None
        facts = reward.measure(model, rollouts, byte_tokenizer(), by_token=True)
        assert facts.gathered(lambda table: table).tokens is None


class TestFacts:
    def test_are_those_of_the_measurement(self):
        model, tokenizer, reward = tiny_model(), byte_tokenizer(), InversionReward(InversionSpec(**STEPS))
        batch = TokenBatch.from_ids(PROMPTS, COMPLETIONS)
        found = reward.measure(model, batch, tokenizer)
        steps = batch_steps(batch, tokenizer, reward.spec.step_splitter())
        signals = token_signals(model, batch, reward.spec.signal_spec(), steps=steps)
        scores = rollout_scores(signals, batch, reward.spec.score_spec())
        assert torch.equal(found.scores.inversion.nan_to_num(9), scores.inversion.nan_to_num(9))
        assert found.scores.inversion.isfinite().tolist() == [True, True, True, False]
        assert found.length.tolist() == [14, 13, 12, 2]
        assert found.truncated.tolist() == [1, 1, 1, 0]  # 2 is the end token
        assert found.repetition.isnan().tolist() == [False, False, False, True]
        assert len(set(found.seconds.tolist())) == 1
        assert found.seconds[0] > 0
        same_facts(found, reward.facts(signals, batch, end_ids=[2]))

    def test_of_ids_and_of_batches_are_the_same(self):
        model, reward = tiny_model(), InversionReward(InversionSpec(**STEPS))
        ids = RolloutIds(PROMPTS, COMPLETIONS)
        expected = reward.measure(model, ids, byte_tokenizer())
        for side in ("left", "right"):
            batch = TokenBatch.from_ids(PROMPTS, COMPLETIONS, padding_side=side)
            assert RolloutIds.of(batch) == dataclasses.replace(ids, generated=[[1] * len(c) for c in COMPLETIONS])
            found = reward.measure(model, batch, byte_tokenizer())
            # Another padding moves rounding alone.
            same_facts(found, expected, rtol=1e-5)

    def test_tokens_of_tools_and_beyond_the_context(self):
        ids = RolloutIds([[5, 6]], [[9, 8, 7, 6, 5, 4]], [[1, 1, 0, 0, 1, 1]])
        assert RolloutIds.of(ids.within(None)) == ids
        cut = ids.within(5)
        assert cut.input_ids.tolist() == [[5, 6, 9, 8, 7]]
        assert cut.completion_mask.tolist() == [[False, False, True, True, False]]
        reward = InversionReward(InversionSpec(unit="token", min_tokens=3))
        found = reward.measure(tiny_model(max_position_embeddings=16), RolloutIds([[5]], [[9] * 30]), byte_tokenizer())
        assert found.length.tolist() == [30]
        assert found.scores.num_tokens.tolist() == [15]
        with pytest.raises(InvalidInputError, match="longer than the model's context"):
            reward.measure(
                tiny_model(max_position_embeddings=16),
                TokenBatch.from_ids([[5]], [[9] * 30]),
                byte_tokenizer(),
            )

    def test_a_batch_without_completions(self):
        assert RolloutIds.of(TokenBatch.from_ids([[5, 6]], [[]])) == RolloutIds([[5, 6]], [[]], [[]])

    def test_measuring_leaves_the_policy_in_training_as_it_was(self):
        model = tiny_model().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        InversionReward().measure(model, TokenBatch.from_ids(PROMPTS, COMPLETIONS), byte_tokenizer())
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_what_cannot_be_measured_is_known_before(self):
        from transformers import MambaConfig, MambaForCausalLM

        mamba = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, state_size=4, num_hidden_layers=1))
        with pytest.raises(UnsupportedModelError, match="attention"):
            InversionReward().check(mamba, byte_tokenizer())
        with pytest.raises(InvalidInputError, match="layer 7 does not exist"):
            InversionReward(InversionSpec(layers="7")).check(tiny_model(), byte_tokenizer())
        InversionReward(InversionSpec(estimator="full", step_strength="joint")).check(tiny_model(), byte_tokenizer())


class TestProcesses:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_gathered_facts_are_those_of_one_process(self, dtype):
        model, reward = tiny_model(), InversionReward(InversionSpec(**STEPS))
        parts = [
            reward.measure(model, RolloutIds(PROMPTS[i : i + 2], COMPLETIONS[i : i + 2]), byte_tokenizer())
            for i in (0, 2)
        ]
        tables = []
        for part in parts:
            part.gathered(lambda table: tables.append(table) or table)
        assert tables[0].dtype == torch.float64
        joined = parts[0].gathered(lambda _: torch.cat(tables).to(dtype))
        assert len(joined) == 4
        for name, value in columns(joined).items():
            expected = torch.cat([columns(part)[name] for part in parts])
            assert value.dtype == expected.dtype, name
            if dtype is torch.float64:
                assert torch.equal(value.nan_to_num(9), expected.nan_to_num(9)), name
            else:
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6, equal_nan=True, msg=name)
        assert set(joined.scores.by_unit) == {"token", "type", "step"}

    def test_one_process_needs_no_gathering(self):
        facts = facts_of(0.5, NAN)
        same_facts(facts, facts.gathered(lambda table: table), but=())


class TestCombine:
    def test_the_papers_reward_by_hand(self):
        # r − λ (1 + ρ), with ρ = −ι; the undefined one counts as the mean of its group, ρ = −0.5.
        found = InversionReward(InversionSpec(weight=0.5)).combine(
            facts_of(0.8, 0.2, NAN, -1.0, NAN, NAN), t(1, 0, 1, 1, 0, NAN), group_size=3
        )
        assert found.reward.tolist()[:5] == pytest.approx([0.9, -0.4, 0.75, 0.0, -1.0])
        assert found.reward[5].isnan()
        assert found.excluded.tolist() == [False] * 5 + [True]
        assert found.advantage.tolist() == [0] * 6
        assert found.metrics["inversion/weight"] == 0.5
        assert found.metrics["inversion/undefined"] == 0.5
        assert found.metrics["task/mean"] == pytest.approx(0.6)
        assert math.isnan(found.metrics["task/accuracy"])  # nothing verifies

    def test_centered_is_a_term_of_the_advantage(self):
        found = InversionReward(InversionSpec(combine="centered")).combine(
            facts_of(0.8, 0.2), t(1, 0), group_size=2, weight=2.0, accepted=torch.tensor([True, False])
        )
        assert found.reward.tolist() == [1, 0]
        assert found.advantage.tolist() == pytest.approx([0.6, -0.6])
        assert (found.metrics["task/accuracy"], found.metrics["inversion/top_accuracy"]) == (0.5, 1.0)

    def test_only_needs_no_task_reward(self):
        found = InversionReward(InversionSpec(combine="only", weight=0.5)).combine(
            facts_of(0.8, NAN), t(NAN, 3), group_size=2
        )
        assert found.reward.tolist() == pytest.approx([0.4, 0.4])
        assert not found.excluded.any()

    def test_gated(self):
        reward = InversionReward(InversionSpec(combine="gated", weight=2.0))
        task = t(1, 0)
        found = reward.combine(facts_of(-1.0, 1.0), task, group_size=2, accepted=reward.spec.accepts(task))
        assert found.reward.tolist() == [0.5, 0]
        with pytest.raises(InvalidInputError, match="needs a verifier"):
            reward.combine(facts_of(-1.0, 1.0), task, group_size=2)

    @pytest.mark.parametrize("combine", ["penalty", "sum", "centered", "gated"])
    def test_tied_groups_can_be_skipped(self, combine):
        # The first group is all right, the second mixed, the third all wrong; the last one has one task reward.
        task, scores = t(1, 1, 1, 0, 0, 0, NAN, 1), facts_of(0.8, 0.2, 0.5, -0.5, NAN, 0.4, 0.1, 0.9)
        found = {}
        for tied in ("keep", "skip"):
            reward = InversionReward(InversionSpec(combine=combine, weight=0.5, tied=tied))
            found[tied] = reward.combine(scores, task, group_size=2, accepted=reward.spec.accepts(task))
        kept, skipped = found["keep"], found["skip"]
        assert skipped.reward[[0, 1, 4, 5, 7]].tolist() == [1, 1, 0, 0, 1]
        assert skipped.advantage[[0, 1, 4, 5, 6, 7]].tolist() == [0] * 6
        for name in ("reward", "advantage"):
            assert torch.equal(getattr(skipped, name)[2:4], getattr(kept, name)[2:4])
        # Some term of the mode was there to skip.
        changed = torch.cat([kept.reward - skipped.reward, kept.advantage - skipped.advantage])
        assert changed[~changed.isnan()].abs().max() > 0.05
        assert kept.metrics == pytest.approx(skipped.metrics, nan_ok=True)

    @pytest.mark.parametrize("combine", ["penalty", "sum", "centered", "gated"])
    def test_weight_0_is_the_task_reward(self, combine):
        task = torch.tensor([0.3, 1.0, 0.7, 0.1])
        found = InversionReward(InversionSpec(combine=combine, weight=0.0)).combine(
            facts_of(0.8, NAN, -0.3, 0.1), task, group_size=2, accepted=task > 0.5
        )
        assert torch.equal(found.reward, task.double())
        assert not found.advantage.any()

    @pytest.mark.parametrize(("estimator", "logged"), [("own", True), ("full", False)])
    def test_what_is_not_measured_by_choice_is_not_logged(self, estimator, logged):
        spec = InversionSpec(estimator=estimator, step_strength="joint")
        found = InversionReward(spec).combine(facts_of(0.1, 0.2), t(1, 0), group_size=2).metrics
        assert ("inversion/correlation_token" in found) == ("inversion/correlation_type" in found) == logged
        assert "inversion/correlation_step" in found

    def test_numbers_that_do_not_fit(self):
        reward, facts = InversionReward(), facts_of(0.1, 0.2, 0.3, 0.4)
        with pytest.raises(InvalidInputError, match="facts of 4, task_rewards of 2"):
            reward.combine(facts, t(1, 0), group_size=2)
        with pytest.raises(InvalidInputError, match="facts of 4, task_rewards of 2, accepted of 2"):
            reward.combine(facts, t(1, 0), group_size=2, accepted=torch.ones(2).bool())
        for size in (3, 0):
            with pytest.raises(InvalidInputError, match=f"cannot be divided into groups of {size}"):
                reward.combine(facts, t(1, 0, 1, 0), group_size=size)

    def test_accuracies_are_over_the_judged_rollouts(self):
        reward, task = InversionReward(InversionSpec()), t(1, 1, 0, 1)
        facts, judged = facts_of(-0.5, 0.5, 0.1, 0.2), torch.tensor([True, False, True, True])
        accepted = torch.tensor([True, False, False, True])
        found = reward.combine(facts, task, group_size=2, accepted=accepted, judged=judged).metrics
        # Of the first group one rollout is left. It is its own median, and so in neither half.
        assert found["task/accuracy"] == pytest.approx(2 / 3)
        assert (found["inversion/top_accuracy"], found["inversion/bottom_accuracy"]) == (1, 0)
        nothing = reward.combine(facts, task, group_size=2, accepted=accepted, judged=torch.zeros(4).bool()).metrics
        assert math.isnan(nothing["task/accuracy"])
        # By default the rollouts with a task reward were judged.
        default = reward.combine(facts, t(1, NAN, 0, 1), group_size=2, accepted=accepted).metrics
        assert default["task/accuracy"] == pytest.approx(2 / 3)
        with pytest.raises(InvalidInputError, match="facts of 4, task_rewards of 2, judged of 2"):
            reward.combine(facts, task[:2], group_size=2, judged=judged[:2])

    def test_acceptance(self):
        spec = InversionSpec(accept=0.5)
        assert spec.accepts(t(0.5, 0.49, NAN, 1)).tolist() == [True, False, False, True]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.parametrize("combine", ["penalty", "sum", "centered", "gated", "only"])
def test_trl_trains_on_the_same_numbers(tmp_path, combine):
    """The host's rewards, times its weights, and its metrics are what `combine` gives for the same rollouts."""
    pytest.importorskip("trl", reason="TRL is not installed; pip install 'antiphase[train]'")
    from antiphase.training.trainer import CorRPOTrainer
    from antiphase.training.trajectory import read_trajectory
    from training_cases import run

    class Seen(CorRPOTrainer):
        def _calculate_rewards(self, *given):
            seen.append(self._rollouts)
            columns = super()._calculate_rewards(*given)
            seen.append((columns * self.reward_weights).sum(1))
            seen.append(columns[:, 0])
            return columns

    seen: list = []
    run(tmp_path, trainer=Seen, max_steps=1, inversion_weight=0.5, inversion_combine=combine)
    ids, total, task = seen
    reward = InversionReward(InversionSpec(unit="token", combine=combine, weight=0.5))
    facts = reward.measure(tiny_model(), ids, byte_tokenizer())
    found = reward.combine(facts, task, group_size=4, accepted=reward.spec.accepts(task))
    torch.testing.assert_close(found.reward, total.double(), rtol=0, atol=1e-6)
    row = read_trajectory(tmp_path)[0]
    for name, value in found.metrics.items():
        if name != "inversion/seconds":
            logged = NAN if row[name] is None else row[name]
            assert logged == pytest.approx(value, rel=1e-5, nan_ok=True), name
