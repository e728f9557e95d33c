"""CorRPOTrainer's guards: bad input, changed hosts, resume, the collapse alarm."""

import json
import math

import pytest
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.inversion.alarm import collapsing
from antiphase.tasks.task_rewards import AccuracyReward
from antiphase.training import host
from antiphase.training.host import HostError
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import Trajectory, read_trajectory
from antiphase.training.watch import CollapseWarning, Watch
from conftest import byte_tokenizer, tiny_model
from training_cases import data, parity, run, same, settings

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


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

        with pytest.raises(HostError, match="was not measured"):
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
        with pytest.raises(
            InvalidInputError,
            match="must be a CorRPOConfig, which takes every argument of GRPOConfig; got a GRPOConfig",
        ):
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
            (lambda completions, **_: [math.inf] * len(completions), "returned inf for completion 0"),
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

    def test_a_checkpoint_at_the_last_step_has_nothing_left(self, tmp_path):
        run(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
        with pytest.raises(InvalidInputError, match="at step 2 of 2: nothing is left to train"):
            run(tmp_path, train=False, max_steps=2).train(resume_from_checkpoint=True)

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


class _StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step


class TestAlarm:
    def rows(self, watch, count, inversion, accuracy):
        for step in range(count):
            watch.step(step, {"inversion/mean": inversion(step), "task/accuracy": accuracy(step)}, True)

    def feed(self, watch, first, metrics):
        for step, values in enumerate(metrics, start=first):
            watch.step(step, values, True)

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

    def test_each_sign_has_its_own_pause_and_names_its_numbers(self, tmp_path):
        watch = self.watch(tmp_path, "warn")
        metrics = [
            {"task/mean": float(i), "rollout/length": 200 * 0.6**i, "rollout/distinct": 1.0 if i < 9 else 0.1}
            for i in range(14)
        ]
        with pytest.warns(CollapseWarning) as caught:
            self.feed(watch, 0, metrics)
        texts = [str(warning.message) for warning in caught]
        assert watch.alarms == [9, 10]
        assert "completions became much shorter (rollout/length 160 → 2.69) while the reward rose" in texts[0]
        assert "over the last 10 batches. Training goes on (inversion_alarm='warn')" in texts[0]
        assert "the completions of a prompt became equal (rollout/distinct 1 → 0.1)" in texts[1]
        rows = [row for row in read_trajectory(tmp_path) if row["kind"] == "alarm"]
        assert [row["signs"] for row in rows] == [["shorter"], ["equal"]]
        assert rows[0]["message"] in texts[0]

    def test_the_state_of_older_checkpoints_loads(self, tmp_path):
        """Until version 0.2, a checkpoint held one pause, and the history of inversion and accuracy alone."""
        before = {
            "dropped": False,
            "alarms": [3],
            "quiet": 2,
            "inversion": [i / 10 for i in range(10)],
            "accuracy": [1 - i / 20 for i in range(10)],
        }
        watch = self.watch(tmp_path, "warn")
        watch.restore(json.loads(json.dumps(before)))
        later = [{"inversion/mean": step / 10, "task/accuracy": 1 - step / 20} for step in range(10, 14)]
        with pytest.warns(CollapseWarning, match="inversion rose while task accuracy fell"):
            self.feed(watch, 10, later)
        assert watch.alarms == [3, 11]
        other = self.watch(tmp_path / "other", "warn")
        other.restore(json.loads(json.dumps(watch.state()["attributes"])))
        assert (other.alarms, other.quiet, other.history.keys()) == (watch.alarms, watch.quiet, watch.history.keys())

    def test_under_dynamic_sampling_the_first_sample_says_what_accuracy_is(self, tmp_path):
        watch = self.watch(tmp_path, "warn")
        for step in range(10):
            metrics = {"task/accuracy": 0.5, "sampling/accuracy": 0.2 + step / 20, "rollout/length": 300 * 0.6**step}
            watch.step(step, metrics, True)
        assert watch.alarms == []
        assert watch.history["task/accuracy"][-1] == pytest.approx(0.65)

    def test_off(self, tmp_path):
        watch = self.watch(tmp_path, "off")
        self.rows(watch, 15, lambda i: i / 10, lambda i: 1 - i / 20)
        assert watch.alarms == []

    @pytest.mark.parametrize("combine", ["sum", "centered"])
    def test_drop_holds_from_the_next_batch_on(self, tmp_path, combine):
        """The batch that raises the alarm is still trained with the λ that its row names."""
        seen = []

        class Dropping(CorRPOTrainer):
            def _generate_and_score_completions(self, inputs):
                output = super()._generate_and_score_completions(inputs)
                seen.append(self._weight)
                return output

        trainer = run(
            tmp_path, trainer=Dropping, train=False, max_steps=2, inversion_weight=0.5, inversion_combine=combine
        )
        step = trainer.watch.step

        def alarmed(*arguments):
            step(*arguments)
            trainer.watch.dropped = True

        trainer.watch.step = alarmed
        trainer.train()
        assert seen == [0.5, 0]
        assert [row["inversion/weight"] for row in read_trajectory(tmp_path)] == [0.5, 0]

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
