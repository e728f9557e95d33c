"""CorRPOTrainer against its host: equal at λ = 0, the stated reward elsewhere, and never a silent no-op."""

import json
import math
from collections import Counter

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from antiphase import probe
from antiphase.errors import InvalidInputError
from antiphase.inversion.rollout_facts import RolloutIds as _Rollouts
from antiphase.reward import inversion_term
from antiphase.training.reward_functions import MajorityVoteReward, NegativeEntropyReward, SelfCertaintyReward
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model
from training_cases import PROMPTS, data, parity, run, same, settings, weights

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    # test_odd_rewards.py has the tests of this warning.
    pytest.mark.filterwarnings("ignore::antiphase.training.batch_checks.UnscoredWarning"),
]


PRESET_LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
}


@pytest.mark.parametrize("loss", PRESET_LOSSES)
@pytest.mark.parametrize("combine", ["sum", "centered", "gated"])
def test_weight_0_is_the_host_bitwise(tmp_path, loss, combine):
    plain = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, **PRESET_LOSSES[loss])
    ours = run(tmp_path / "ours", inversion_weight=0.0, inversion_combine=combine, **PRESET_LOSSES[loss])
    assert same(plain, ours)
    assert any(not torch.equal(a, b) for a, b in zip(weights(ours), tiny_model().parameters(), strict=True))
    # Also everything that the host logs itself, up to the times.
    for before, after in zip(plain.state.log_history, ours.state.log_history, strict=True):
        for key, value in before.items():
            if "time" not in key and "second" not in key:
                assert after[key] == value or (math.isnan(value) and math.isnan(after[key])), key


@pytest.mark.parametrize(
    "changes",
    [
        {"num_iterations": 2},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"scale_rewards": "none", "loss_type": "dr_grpo"},
        {"entropy_coef": 0.01},
        {"top_entropy_quantile": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_weight_0_is_the_host_in_its_other_modes(tmp_path, changes):
    plain = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, **changes)
    ours = run(tmp_path / "ours", inversion_weight=0.0, **changes)
    assert same(plain, ours)


def test_weight_0_is_the_host_where_rewards_are_none(tmp_path):
    """The host leaves rollouts out that no function scored; our column must not bring them back."""

    def some(completions, **_):
        return [None if len(text) % 3 == 0 else float(len(text) % 2) for text in completions]

    plain = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, rewards=[some])
    ours = run(tmp_path / "ours", inversion_weight=0.0, rewards=[some])
    assert same(plain, ours)


@pytest.mark.parametrize("combine", ["sum", "centered", "gated", "only"])
def test_a_weight_changes_the_training(tmp_path, combine):
    ours = run(tmp_path / "a", inversion_weight=0.5, inversion_combine=combine)
    plain = run(tmp_path / "b", inversion_weight=0.0)
    assert not same(ours, plain)


class Seen(CorRPOTrainer):
    """Keeps what the host computed of each batch."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.seen.append((self._measured, output["advantages"].clone(), list(self._logs["rewards"]["parity"])))
        return output

    seen: list


@pytest.mark.parametrize("combine", ["sum", "centered", "gated", "only"])
def test_advantages_by_hand(tmp_path, combine):
    Seen.seen = []
    run(tmp_path, trainer=Seen, inversion_weight=0.5, inversion_combine=combine, max_steps=2, loss_type="grpo")
    for measured, advantages, rewards in Seen.seen:
        inversion = measured.scores.inversion
        task = torch.tensor(rewards[-8:], dtype=torch.float64)
        found = inversion_term(inversion, task, task >= 0.5, group_size=4, combine=combine, weight=0.5)
        total = (0.0 if combine == "only" else task) + 0.5 * found.reward
        groups = total.view(-1, 4)
        expected = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
        expected = expected + 0.5 * found.advantage
        assert advantages.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_inversion_in_training_is_that_of_probe(tmp_path, model_dir):
    """Same tokens, same weights: within 1e-6."""

    class Keeping(CorRPOTrainer):
        def _generate(self, prompts):
            output = super()._generate(prompts)
            self.kept = (output[0], output[1])
            return output

    trainer = run(
        tmp_path / "run", trainer=Keeping, model=str(model_dir), max_steps=1, learning_rate=0.0, inversion_weight=0.3
    )
    prompt_ids, completion_ids = trainer.kept
    rollouts = tmp_path / "rollouts.jsonl"
    rollouts.write_text(
        "".join(
            json.dumps({"prompt_ids": list(p), "completion_ids": list(c), "prompt_id": str(i), "rollout_id": str(i)})
            + "\n"
            for i, (p, c) in enumerate(zip(prompt_ids, completion_ids, strict=True))
        )
    )
    fingerprint = probe(
        [str(model_dir)],
        rollouts=str(rollouts),
        out=tmp_path / "probe",
        allow_short=True,
        num_resamples=10,
        figures=False,
        progress=False,
    )
    probed = fingerprint.rollouts.set_index("rollout_id").spearman
    used = trainer._measured.scores.inversion.tolist()
    assert any(math.isfinite(value) for value in used)
    for i, value in enumerate(used):
        assert value == pytest.approx(-probed[str(i)], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_every_estimator_trains(tmp_path, estimator):
    trainer = run(tmp_path, inversion_estimator=estimator, max_steps=1, inversion_targets_per_rollout=9)
    row = read_trajectory(tmp_path)[0]
    assert math.isfinite(row["inversion/mean"])
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4},
        {"mask_truncated_completions": True},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"inversion_control": "shuffled"},
        {"inversion_control": "random"},
    ],
    ids=str,
)
def test_options_of_the_host_leave_the_measurement_alone(tmp_path, changes):
    """The first batch is measured on the same weights, so whatever the option, its numbers are the same."""
    base = run(tmp_path / "base", max_steps=1)
    other = run(tmp_path / "other", max_steps=2, **changes)
    assert other.state.global_step == 2
    expected, found = (read_trajectory(folder)[0] for folder in (tmp_path / "base", tmp_path / "other"))
    for name in ("inversion/correlation", "rollout/entropy", "rollout/strength", "rollout/length"):
        if not changes.get("bf16"):  # there the host samples other tokens
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
    assert base.state.global_step == 1


def test_bf16_autocast_does_not_reach_the_measurement(tmp_path):
    """Autocast would leave 8 bits of every logit, and ranks full of ties."""
    trainer = run(tmp_path, bf16=True, max_steps=1)
    from antiphase.signals.measure import token_signals
    from antiphase.training.policy import whole_policy

    batch = TokenBatch.from_ids([[5, 6, 7]], [list(range(10, 30))])
    with whole_policy(trainer.model_wrapped, trainer.accelerator) as policy:
        inside = token_signals(policy, batch)
    plain = tiny_model()
    plain.load_state_dict({name: value.float() for name, value in trainer.model.state_dict().items()})
    outside = token_signals(plain, batch)
    for name in ("entropy", "strength"):
        assert torch.allclose(getattr(inside, name), getattr(outside, name), rtol=1e-5, equal_nan=True)
    assert "_original_forward" in vars(trainer.model)
    assert vars(trainer.model)["forward"] is not vars(trainer.model)["_original_forward"]


def test_lora(tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    before = tiny_model()
    trainer = run(tmp_path, model=tiny_model(), extra={"peft_config": config}, inversion_weight=0.5)
    row = read_trajectory(tmp_path)[0]
    assert math.isfinite(row["inversion/mean"])
    base = dict(before.named_parameters())
    for name, value in trainer.model.get_base_model().named_parameters():
        if "lora" not in name:
            assert torch.equal(value, base[name.replace("base_layer.", "")])
    assert any(value.abs().sum() > 0 for name, value in trainer.model.named_parameters() if "lora_B" in name)


def test_reference_policy(tmp_path, model_dir):
    trainer = run(tmp_path, model=str(model_dir), beta=0.04, inversion_weight=0.5)
    assert trainer.state.global_step == 3
    assert "kl" in trainer.state.log_history[0]


def test_tool_tokens_are_not_measured(tmp_path):
    """Tokens that a tool returned are read by the model, and no part of its entropy or strength."""

    def rollouts(prompts, trainer):
        ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
        wrote = [[10 + (7 * i + j) % 90 for j in range(12)] for i in range(len(ids))]
        tool = [[1] * 8 + [0] * 2 + [1] * 2 for _ in ids]
        return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None, "env_mask": tool}

    with pytest.warns(UserWarning, match="rollout_func"):
        trainer = run(tmp_path, extra={"rollout_func": rollouts}, max_steps=1)
    row = read_trajectory(tmp_path)[0]
    assert row["rollout/length"] == 10
    assert trainer._measured.scores.num_tokens.tolist() == [10] * 8


@pytest.mark.parametrize("second", [[], list(range(10, 22))])
def test_empty_completions_have_no_score(tmp_path, second):
    trainer = run(tmp_path, train=False)
    measured = trainer._measure(_Rollouts([[5, 6], [5, 6]], [[], second], None))
    assert measured.scores.num_tokens.tolist() == [0, len(second)]
    assert measured.scores.inversion.isfinite().tolist() == [False, bool(second)]


def test_short_completions_have_no_score(tmp_path):
    trainer = run(tmp_path, max_completion_length=5, inversion_weight=0.5)
    row = read_trajectory(tmp_path)[0]
    assert row["inversion/undefined"] == 1
    assert row["inversion/mean"] is None
    # All undefined: exactly the host.
    assert same(trainer, run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, max_completion_length=5))


def test_batch_scaling_and_schedules(tmp_path):
    run(tmp_path, inversion_weight=0.8, inversion_schedule="linear", max_steps=4)
    rows = [row for row in read_trajectory(tmp_path) if row["kind"] == "step"]
    assert [row["inversion/weight"] for row in rows] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert [row["step"] for row in rows] == [0, 1, 2, 3]


def test_evaluation_uses_the_same_path(tmp_path):
    trainer = CorRPOTrainer(
        tiny_model(),
        [parity],
        CorRPOConfig(**settings(tmp_path, per_device_eval_batch_size=4, num_generations_eval=1)),
        train_dataset=data(),
        eval_dataset=data().select(range(4)),
        processing_class=byte_tokenizer(),
    )
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_task/accuracy"] <= 1
    assert math.isfinite(metrics["eval_inversion/mean"])
    assert [row["kind"] for row in read_trajectory(tmp_path)] == ["eval"]


def test_verifier_free_rewards(tmp_path):
    class Keeping(CorRPOTrainer):
        def _calculate_rewards(self, *arguments):
            self.ids = arguments[3]
            self.rewards = super()._calculate_rewards(*arguments)
            return self.rewards

    functions = [
        parity,
        SelfCertaintyReward(),
        NegativeEntropyReward(),
        MajorityVoteReward(lambda text, kind: text[:1]),
    ]
    trainer = run(
        tmp_path,
        trainer=Keeping,
        rewards=functions,
        max_steps=1,
        reward_weights=[0.0, 1.0, 1.0, 1.0],
        max_completion_length=9,
    )
    scores = trainer._measured.scores
    assert trainer.rewards[:, 1].tolist() == pytest.approx(scores.self_certainty.tolist(), rel=1e-5)
    assert trainer.rewards[:, 2].tolist() == pytest.approx((-scores.entropy).tolist(), rel=1e-5)
    texts = [byte_tokenizer().decode(ids, skip_special_tokens=True)[:1] for ids in trainer.ids]
    for start in (0, 4):
        votes = Counter(text for text in texts[start : start + 4] if text)
        winner = max(votes, key=votes.get) if votes else None
        expected = [float(bool(text) and text == winner) for text in texts[start : start + 4]]
        assert trainer.rewards[start : start + 4, 3].tolist() == expected
    assert trainer.reward_func_names == ["parity", "self_certainty", "negative_entropy", "majority_vote"]


def test_rewards_that_verify_nothing_are_no_verifier(tmp_path):
    trainer = run(tmp_path, rewards=[SelfCertaintyReward()], max_steps=1)
    assert read_trajectory(tmp_path)[0]["task/accuracy"] is None
    assert trainer.state.global_step == 1
    run(tmp_path / "second", rewards=[SelfCertaintyReward(), parity], max_steps=1)
    assert read_trajectory(tmp_path / "second")[0]["task/accuracy"] is not None
    with pytest.raises(InvalidInputError, match="needs a verifier"):
        run(tmp_path / "gated", rewards=[SelfCertaintyReward()], inversion_combine="gated", train=False)


@pytest.mark.parametrize("combine", ["sum", "centered", "gated"])
def test_rollouts_that_no_function_scored_stay_out(tmp_path, combine):
    class Seen(CorRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            advantages.append(output["advantages"].tolist())
            return output

    def half(completions, **_):
        return [None if i % 2 else float(sum(map(ord, text)) % 2) for i, text in enumerate(completions)]

    advantages: list = []
    run(tmp_path, trainer=Seen, rewards=[half], inversion_weight=0.5, inversion_combine=combine, max_steps=2)
    for batch in advantages:
        assert batch[1::2] == [0, 0, 0, 0]


def test_rollouts_beyond_the_context_are_measured_up_to_it(tmp_path):
    trainer = run(tmp_path, model=tiny_model(max_position_embeddings=16), max_steps=1)
    longest = max(len(byte_tokenizer()(prompt).input_ids) for prompt in PROMPTS)
    assert longest + 14 > 16
    assert trainer._measured.scores.num_tokens.max() <= 16
    assert trainer.state.global_step == 1


def test_majority_vote_by_hand():
    vote = MajorityVoteReward(lambda text, kind: text or None)
    vote.group_size = 4
    assert vote(completions=["7", "8", "7", "", "", "", "", ""]) == [1, 0, 1, 0, 0, 0, 0, 0]
    assert vote(completions=["7", "8", "8", "7"]) == [1, 0, 0, 1]
