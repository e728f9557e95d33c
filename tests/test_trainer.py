"""CorRPOTrainer against its host: equal at λ = 0, the stated reward elsewhere, and never a silent no-op."""

import json
import math

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from antiphase import probe
from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.reward import inversion_term
from antiphase.tasks.rewards import AccuracyReward
from antiphase.train import host
from antiphase.train.alarm import collapsing
from antiphase.train.config import CorRPOConfig
from antiphase.train.host import HostError
from antiphase.train.rewards import MajorityVoteReward, NegativeEntropyReward, SelfCertaintyReward
from antiphase.train.trainer import CorRPOTrainer
from antiphase.train.trajectory import Trajectory, read_trajectory
from antiphase.train.watch import CollapseWarning, Watch
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
PROMPTS = ["hello", "abcd", "what is", "xyz"]


def parity(completions, **_):
    """A verifier that a random model satisfies half of the time, whatever its tokens."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


def data():
    return Dataset.from_dict({"prompt": PROMPTS * 4, "answer": ["1"] * 16})


def settings(folder, **changes):
    plain = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 14,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return {**plain, **changes}


def run(
    folder, *, trainer=CorRPOTrainer, config=CorRPOConfig, model=None, rewards=None, train=True, extra=None, **changes
):
    made = trainer(
        tiny_model() if model is None else model,
        [parity] if rewards is None else rewards,
        config(**settings(folder, **changes)),
        train_dataset=data(),
        processing_class=byte_tokenizer(),
        **(extra or {}),
    )
    if train:
        made.train()
    return made


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


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
    """Done when 4: same tokens, same weights, within 1e-6."""

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
    from antiphase.train.policy import whole_policy

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
    assert set(trainer.rewards[:, 3].tolist()) <= {0.0, 1.0}
    assert trainer.reward_func_names == ["parity", "self_certainty", "negative_entropy", "majority_vote", "inversion"]


def test_majority_vote_by_hand():
    vote = MajorityVoteReward(lambda text, kind: text or None)
    vote.group_size = 4
    assert vote(completions=["7", "8", "7", "", "", "", "", ""]) == [1, 0, 1, 0, 0, 0, 0, 0]
    assert vote(completions=["7", "8", "8", "7"]) == [1, 0, 0, 1]


class TestGuards:
    def test_signatures_of_the_pinned_host(self):
        host.check_host(GRPOTrainer)

    @pytest.mark.parametrize("name", host.METHODS)
    def test_a_missing_or_changed_method_is_named(self, name):
        changed = type("Changed", (GRPOTrainer,), {name: lambda self, something_else: None})
        with pytest.raises(HostError, match=rf"{name} takes .*something_else.* expected"):
            host.check_host(changed)
        missing = type("Missing", (), {other: getattr(GRPOTrainer, other) for other in host.METHODS if other != name})
        with pytest.raises(HostError, match=f"no method {name}"):
            host.check_host(missing)

    def test_rewards_that_are_never_asked_for(self, tmp_path):
        class Silent(CorRPOTrainer):
            def inversion(self, completion_ids, **_):
                return [0.0] * len(completion_ids)

        with pytest.raises(HostError, match="did not call the inversion reward"):
            run(tmp_path, trainer=Silent)

    def test_completions_of_another_batch(self, tmp_path):
        class Copying(CorRPOTrainer):
            def _generate(self, prompts):
                output = super()._generate(prompts)
                self._rollouts = type(self._rollouts)(output[0], [[*ids, 3] for ids in output[1]], None)
                return output

        with pytest.raises(HostError, match="other completions"):
            run(tmp_path, trainer=Copying)

    def test_scoring_that_goes_around(self, tmp_path):
        class Around(CorRPOTrainer):
            def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
                return GRPOTrainer._calculate_rewards(self, inputs, prompts, completions, completion_ids_list)

        with pytest.raises((HostError, AttributeError)):
            run(tmp_path, trainer=Around)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"inversion_weight": -0.1}, "must be 0 or positive"),
            ({"inversion_weight": math.nan}, "must be 0 or positive"),
            ({"inversion_combine": "add"}, "sum, centered, gated, only"),
            ({"inversion_estimator": "oracle"}, "own, last, full"),
            ({"inversion_schedule": "step"}, "constant, warmup, linear, cosine"),
            ({"inversion_control": "none "}, "none, shuffled, random"),
            ({"inversion_correlation": "kendall"}, "spearman, pearson"),
            ({"inversion_projections": "QX"}, "Q, K, V, O"),
            ({"inversion_layers": "first"}, "layers must be"),
            ({"inversion_min_tokens": 1}, "at least 3"),
            ({"inversion_clip": 0.0}, "inversion_clip"),
            ({"inversion_shrink": -2.0}, "inversion_shrink"),
            ({"inversion_alarm": "bell"}, "warn, stop, drop, off"),
            ({"inversion_alarm_window": 2}, "at least 8"),
            ({"inversion_combine": "only", "inversion_weight": 0.0}, "no reward at all"),
            ({"inversion_warmup_steps": -1.0}, "inversion_warmup_steps"),
            ({"inversion_targets_per_rollout": 0}, "at least 1"),
        ],
    )
    def test_config(self, tmp_path, changes, message):
        with pytest.raises(InvalidInputError, match=message):
            CorRPOConfig(**settings(tmp_path, **changes))

    def test_arguments(self, tmp_path):
        with pytest.raises(InvalidInputError, match="must be a CorRPOConfig; got a GRPOConfig"):
            run(tmp_path, config=GRPOConfig)
        with pytest.raises(InvalidInputError, match="2 numbers for 1 reward"):
            run(tmp_path, reward_weights=[1.0, 2.0])
        with pytest.raises(InvalidInputError, match="no reward function"):
            run(tmp_path, rewards=[])
        with pytest.raises(InvalidInputError, match="normalize_then_sum"):
            run(tmp_path, inversion_combine="gated", multi_objective_aggregation="normalize_then_sum")
        with pytest.raises(InvalidInputError, match="Did you mean 'parity'"):
            run(tmp_path, inversion_verifier="parit")
        with pytest.raises(InvalidInputError, match="layer 7 does not exist"):
            run(tmp_path, inversion_layers="7", train=False)

    def test_data_sets_without_the_columns(self, tmp_path):
        def made(rewards, **data_sets):
            config = CorRPOConfig(**settings(tmp_path))
            return CorRPOTrainer(tiny_model(), rewards, config, processing_class=byte_tokenizer(), **data_sets)

        with pytest.raises(InvalidInputError, match="train_dataset lacks the column prompt; it has question"):
            made([parity], train_dataset=Dataset.from_dict({"question": ["a"] * 4}))
        with pytest.raises(InvalidInputError, match="eval_dataset lacks the column prompt"):
            made([parity], train_dataset=data(), eval_dataset={"x": Dataset.from_dict({"question": ["a"] * 4})})
        with pytest.raises(InvalidInputError, match="lacks the columns task, problem_id, metadata"):
            made([AccuracyReward()], train_dataset=data())

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda completions, **_: [1.0], "returned 1 rewards for 8"),
            (lambda completions, **_: None, "returned NoneType"),
            (lambda completions, **_: [math.nan] * len(completions), "returned nan for completion 0"),
            (lambda completions, **_: ["1"] * len(completions), "returned '1'"),
        ],
    )
    def test_reward_functions(self, tmp_path, function, message):
        with pytest.raises(InvalidInputError, match=message):
            run(tmp_path, rewards=[function])

    def test_a_model_without_attention(self, tmp_path):
        from transformers import MambaConfig, MambaForCausalLM

        model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, state_size=4, num_hidden_layers=1))
        with pytest.raises(UnsupportedModelError, match="attention"):
            run(tmp_path, model=model, train=False)


class TestResume:
    def test_a_resumed_run_ends_bitwise_where_the_whole_one_does(self, tmp_path):
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "inversion_weight": 0.5}
        whole = run(tmp_path / "whole", **options)
        cut = run(tmp_path / "cut", train=False, **options)
        cut.add_callback(_StopAt(3))
        cut.train()
        trajectory = Trajectory(tmp_path / "cut")
        assert [row["step"] for row in read_trajectory(tmp_path / "cut")] == [0, 1, 2]
        with trajectory.path.open("a") as file:
            file.write('{"kind": "step", "st')  # killed in the middle of a line
        again = run(tmp_path / "cut", train=False, **options)
        again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
        assert same(whole, again)
        left, right = (read_trajectory(tmp_path / name) for name in ("whole", "cut"))
        timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in rows] for rows in (left, right)]
        assert timeless[0] == timeless[1]

    def test_other_settings_are_refused(self, tmp_path):
        run(tmp_path, save_strategy="steps", save_steps=2, max_steps=2, inversion_weight=0.5)
        other = run(tmp_path, train=False, max_steps=4, inversion_weight=0.25)
        with pytest.raises(InvalidInputError, match=r"inversion_weight was 0\.5, is 0\.25"):
            other.train(resume_from_checkpoint=True)

    def test_checkpoints_of_others_are_refused(self, tmp_path):
        run(tmp_path, trainer=GRPOTrainer, config=GRPOConfig, save_strategy="steps", save_steps=2, max_steps=2)
        ours = run(tmp_path, train=False)
        with pytest.raises(InvalidInputError, match="not written by CorRPOTrainer"):
            ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        with pytest.raises(InvalidInputError, match="not a whole checkpoint"):
            ours.train(resume_from_checkpoint=str(tmp_path / "nowhere"))

    def test_a_new_run_moves_the_old_trajectory_aside(self, tmp_path):
        run(tmp_path, max_steps=1)
        run(tmp_path, max_steps=2)
        assert len(read_trajectory(tmp_path)) == 2
        assert (tmp_path / "trajectory-1.jsonl").is_file()


from transformers import TrainerCallback  # noqa: E402


class _StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step


class TestAlarm:
    def rows(self, watch, count, inversion, accuracy):
        for step in range(count):
            watch.step(step, {"inversion/mean": inversion(step), "task/accuracy": accuracy(step)}, True)

    def watch(self, folder, action):
        return Watch(
            Trajectory(folder), CorRPOConfig(**settings(folder, inversion_alarm=action, inversion_alarm_window=10))
        )

    def test_collapse(self):
        rising, falling = [i / 10 for i in range(10)], [1 - i / 10 for i in range(10)]
        assert collapsing(rising, falling, 10)
        assert not collapsing(rising, rising, 10)
        assert not collapsing(falling, falling, 10)
        assert not collapsing(rising[:9], falling[:9], 10)
        assert not collapsing(rising, [0.5] * 10, 10)
        assert not collapsing(rising, [math.nan] * 10, 10)

    @pytest.mark.parametrize("action", ["warn", "stop", "drop"])
    def test_actions(self, tmp_path, action):
        watch = self.watch(tmp_path, action)
        with pytest.warns(CollapseWarning, match="inversion rose while task accuracy fell") as caught:
            self.rows(watch, 15, lambda i: i / 10, lambda i: 1 - i / 20)
        assert len(caught) == 1
        assert watch.alarms == [9]
        assert watch.dropped == (action == "drop")
        assert watch.stopped == (action == "stop")
        assert [row["step"] for row in read_trajectory(tmp_path) if row["kind"] == "alarm"] == [9]

    def test_off(self, tmp_path):
        watch = self.watch(tmp_path, "off")
        self.rows(watch, 15, lambda i: i / 10, lambda i: 1 - i / 20)
        assert watch.alarms == []

    def test_drop_sets_the_weight_to_0_and_survives_a_checkpoint(self, tmp_path):
        trainer = run(tmp_path, max_steps=1, inversion_weight=0.5)
        assert trainer.inversion_weight == 0.5
        trainer.watch.dropped = True
        assert trainer.inversion_weight == 0
        state = json.loads(json.dumps(trainer.watch.state()))["attributes"]
        other = run(tmp_path / "other", train=False, inversion_weight=0.5)
        other.watch.restore(state)
        assert other.inversion_weight == 0

    def test_stop_ends_a_real_run(self, tmp_path):
        trainer = run(tmp_path, train=False, max_steps=5)
        trainer.watch.stopped = True
        trainer.train()
        assert trainer.state.global_step == 1
