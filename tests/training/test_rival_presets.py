"""The presets of rival methods: what a recipe with them resolves to, and the arithmetic that is ours."""

import math
import re

import pytest
import torch
from accelerate import PartialState
from transformers import TrainerState

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.tasks.pool import VerifierPool
from antiphase.training.presets import LATER, PRESETS, resolve_preset
from antiphase.training.random_reward import RandomReward
from antiphase.training.recipe import is_former, parse_recipe
from antiphase.training.reward_choices import check_reward
from antiphase.training.reward_functions import SelfCertaintyReward
from antiphase.training.reward_names import reward_function, try_functions
from antiphase.training.step_estimate import StepEstimate
from antiphase.training.token_advantages import gtpo_advantages
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from training_cases import flags, parity, run, same, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


class TestRewardsOfPresets:
    @pytest.mark.parametrize(("name", "reward"), [("intuitor", "self_certainty"), ("random-reward", "random")])
    @pytest.mark.parametrize("term", ["", "+corr-po-fast"])
    def test_the_method_brings_its_reward(self, name, reward, term, tmp_path, model_dir):
        recipe = parse_recipe(flags(model_dir, tmp_path, preset=name + term))
        assert recipe.options.reward_funcs == ["accuracy", reward]
        assert recipe.config.reward_weights == [0, 1]
        assert recipe.config.beta == {"intuitor": 0.005, "random-reward": 0}[name]
        assert resolve_preset(name + term)[0].rewards == (reward,)

    @pytest.mark.parametrize("own", [{"reward_funcs": "accuracy"}, {"reward_weights": "2.0"}])
    def test_rewards_of_the_recipe_are_refused(self, own, tmp_path, model_dir):
        (key,) = own
        with pytest.raises(InvalidInputError, match=rf"trains on its own reward, self_certainty.* also names {key}"):
            parse_recipe(flags(model_dir, tmp_path, preset="intuitor", **own))

    def test_the_run_says_so_and_trains_on_nothing_else(self, tmp_path, model_dir, capsys):
        out = tmp_path / "run"
        words = flags(model_dir, out, preset="random-reward", max_steps=2, eval_problems=0, save_strategy="no")
        assert main(["train", *words]) == 0
        assert "rewards: the method's own, random; accuracy is only logged, with weight 0" in capsys.readouterr().out
        rows = read_trajectory(out)
        assert all(0 < row["task/mean"] < 1 for row in rows)
        # The policy is random, so it is never right.
        assert all(row["task/accuracy"] == 0 for row in rows)

    def test_new_presets_are_no_recipes_of_the_first_release(self):
        for name in LATER:
            assert name in PRESETS
            assert not is_former({"preset": name, "inversion_combine": "centered"})
        assert is_former({"preset": "dapo", "inversion_combine": "centered"})


class TestRandomReward:
    def coins(self, texts, step=0, **changes):
        return RandomReward(**changes)(texts, trainer_state=TrainerState(global_step=step))

    def test_it_is_a_coin_that_ignores_the_text(self):
        for probability in (0.1, 0.5, 0.8):
            values = self.coins(["text"] * 20000, probability=probability)
            assert set(values) == {0.0, 1.0}
            error = math.sqrt(probability * (1 - probability) / 20000)
            assert abs(sum(values) / 20000 - probability) < 4 * error
        right, wrong = self.coins(["right"] * 50, seed=3), self.coins(["wrong"] * 50, seed=3)
        assert right == wrong
        assert right != self.coins(["right"] * 50, seed=4)
        assert right != self.coins(["right"] * 50, seed=3, step=1)

    def test_calls_of_one_step_differ_and_a_resumed_run_repeats_them(self):
        coin = RandomReward(seed=1)
        state = TrainerState(global_step=4)
        first, second = coin(["a"] * 40, trainer_state=state), coin(["a"] * 40, trainer_state=state)
        assert first != second
        again = RandomReward(seed=1)
        again(["a"] * 2, trainer_state=TrainerState())
        assert [again(["a"] * 40, trainer_state=state) for _ in range(2)] == [first, second]

    def test_processes_throw_the_coins_of_one_batch(self, monkeypatch):
        whole = self.coins(["a"] * 12)
        state = PartialState()
        parts = []
        for index in range(3):
            monkeypatch.setitem(state._shared_state, "num_processes", 3)
            monkeypatch.setitem(state._shared_state, "process_index", index)
            parts += self.coins(["a"] * 4)
        assert parts == whole

    def test_the_command_throws_the_coins_of_python(self):
        """The command tries reward functions before the training, which must not draw."""
        tried = RandomReward(seed=3)
        try_functions([tried, parity], [{"prompt": "x"}, {"prompt": "y"}])
        state = TrainerState()
        assert tried(["a"] * 40, trainer_state=state) == self.coins(["a"] * 40, seed=3)

    def test_names(self):
        with VerifierPool() as pool:
            assert reward_function("random", pool).probability == 0.5
            made = reward_function("random:0.25", pool, seed=9)
            assert (made.probability, made.seed) == (0.25, 9)
        for name in ("random:0", "random:1", "random:1.5", "random:-1", "random:0.5x"):
            with pytest.raises(InvalidInputError, match=r"above 0 and below 1, as in random:0\.5"):
                check_reward(name)
        # The function `choice` of Python's module `random` is a function of the user's own.
        check_reward("random:choice")
        with pytest.raises(InvalidInputError, match=r"above 0 and below 1; got 2"):
            RandomReward(2.0)

    def test_it_is_no_verifier(self, tmp_path):
        trainer = run(tmp_path, rewards=[RandomReward()], train=False)
        assert trainer._verifier is None


def by_definition(rewards, right, entropy, lengths, share):
    """GTPO's advantages of one group with loops over rollouts and positions, as the formulas are written."""
    advantages = [[0.0] * len(row) for row in entropy]
    for side in (True, False):
        members = [i for i in range(len(rewards)) if bool(right[i]) is side]
        shaped = {}
        for i in members:
            for t in range(lengths[i]):
                there = [k for k in members if lengths[k] > t]
                weights = [entropy[k][t] if side else 1 / entropy[k][t] for k in there]
                part = (entropy[i][t] if side else 1 / entropy[i][t]) / sum(weights) * len(there)
                shaped[i, t] = rewards[i] + (share if side else -share) * part
        if shaped:
            mean = sum(shaped.values()) / len(shaped)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in shaped.values()) / len(shaped))
            for (i, t), value in shaped.items():
                advantages[i][t] = (value - mean) / (deviation + 1e-4)
    return advantages


class TestGTPO:
    def test_by_definition(self):
        generator = torch.Generator().manual_seed(0)
        entropy = torch.rand(8, 5, generator=generator) * 3 + 0.01
        lengths = [5, 3, 4, 5, 2, 5, 1, 4]
        mask = torch.tensor([[t < length for t in range(5)] for length in lengths])
        right = torch.tensor([True, False, True, False, True, True, False, True])
        rewards = torch.tensor([1.0, -1, 0.8, -1.2, 1, 1, -1, 0.9])
        found = gtpo_advantages(rewards, right, entropy, mask, group_size=4, share=0.1)
        expected = [
            row
            for first in (0, 4)
            for row in by_definition(
                *(values[first : first + 4].double().tolist() for values in (rewards, right, entropy)),
                lengths[first : first + 4],
                0.1,
            )
        ]
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6)
        assert found.abs().max() > 1
        assert (found[~mask] == 0).all()

    def test_uncertain_tokens_of_right_answers_gain_and_certain_ones_of_wrong_answers_lose(self):
        entropy = torch.tensor([[2.0, 0.1], [0.5, 0.1], [2.0, 0.1], [0.5, 0.1]])
        right = torch.tensor([True, True, False, False])
        found = gtpo_advantages(
            torch.tensor([1.0, 1, -1, -1]), right, entropy, torch.ones(4, 2, dtype=torch.bool), group_size=4
        )
        assert found[0, 0] > 0 > found[1, 0]
        assert found[2, 0] > 0 > found[3, 0]

    def test_a_rollout_without_a_reward_is_left_out(self):
        entropy, mask = torch.rand(4, 3) + 0.1, torch.ones(4, 3, dtype=torch.bool)
        right = torch.tensor([True, True, True, False])
        with_nan = gtpo_advantages(torch.tensor([1.0, 1, math.nan, -1]), right, entropy, mask, group_size=4)
        assert (with_nan[2] == 0).all()
        mask[2] = False
        without = gtpo_advantages(torch.tensor([1.0, 1, 1, -1]), right, entropy, mask, group_size=4)
        assert torch.equal(with_nan, without)

    @pytest.mark.parametrize("combine", ["penalty", "centered"])
    def test_the_batch_that_trains(self, tmp_path, combine):
        """Advantages in a training are those of the formula, from the entropies of the policy that generated."""
        seen = []

        class Seen(CorRPOTrainer):
            def _generate_and_score_completions(self, inputs):
                output = super()._generate_and_score_completions(inputs)
                ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
                attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
                width = output["completion_ids"].shape[1]
                with torch.no_grad():
                    logits = self.model(input_ids=ids, attention_mask=attention).logits[:, -width - 1 : -1]
                entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
                expected = gtpo_advantages(
                    self._token_rewards, self._right, entropy, output["completion_mask"].bool(), group_size=4
                )
                if combine == "centered":
                    expected = expected + (self._term.advantage * self._weight)[:, None]
                seen.append((output, expected, self._right, self._term, list(self._logs["advantages"])))
                return output

        run(tmp_path, trainer=Seen, token_advantages="gtpo", inversion_combine=combine, inversion_weight=0.5)
        for output, expected, _, term, logged in seen:
            mask = output["completion_mask"].bool()
            assert output["advantages"].shape == mask.shape
            assert torch.allclose(output["advantages"].double()[mask], expected[mask], atol=2e-3)
            assert term.reward.abs().sum() > 0 or term.advantage.abs().sum() > 0
            means = (output["advantages"] * mask).sum(1) / mask.sum(1)
            assert logged == pytest.approx(means.tolist(), abs=1e-4)
        assert any(0 < right.sum() < 8 for _, _, right, _, _ in seen)

    def test_it_changes_the_training(self, tmp_path):
        plain = run(tmp_path / "plain", inversion_weight=0.0)
        shaped = run(tmp_path / "shaped", inversion_weight=0.0, token_advantages="gtpo")
        assert not same(plain, shaped)

    def test_refused(self, tmp_path):
        with pytest.raises(InvalidInputError, match="token_advantages must be one of none, gtpo"):
            CorRPOConfig(**settings(tmp_path, token_advantages="gpto"))
        with pytest.raises(InvalidInputError, match="So it needs a verifier"):
            run(tmp_path, rewards=[SelfCertaintyReward()], train=False, token_advantages="gtpo")
        with pytest.raises(InvalidInputError, match="So it needs a verifier"):
            run(tmp_path, rewards=[parity], train=False, token_advantages="gtpo", inversion_combine="only")
        with pytest.raises(InvalidInputError, match="does not go with normalize_then_sum"):
            run(tmp_path, train=False, token_advantages="gtpo", multi_objective_aggregation="normalize_then_sum")


class TestWhatTheCommandSays:
    def dry(self, capsys, model_dir, tmp_path, **changes):
        assert main(["train", *flags(model_dir, tmp_path / "run", **changes), "--dry-run"]) == 0
        return capsys.readouterr().out

    def test_an_estimate_with_rounds_is_a_range(self, tmp_path, model_dir, capsys):
        printed = self.dry(capsys, model_dir, tmp_path, preset="dapo", dynamic_sampling=3)
        assert "  your value instead: dynamic_sampling=3" in printed
        found = re.search(r"with 0 to 3 rounds, a step takes roughly ([\d.]+) to ([\d.]+) s", printed)
        low, high = map(float, found.groups())
        generating = float(re.search(r"generating ([\d.]+)", printed)[1])
        assert high - low == pytest.approx(3 * generating, abs=0.3)

    def test_an_estimate_names_the_pass_of_token_advantages(self, tmp_path, model_dir, capsys):
        printed = self.dry(capsys, model_dir, tmp_path, preset="gtpo")
        assert "entropies for token_advantages" in printed
        assert "rounds" not in printed.split("a step takes", 1)[1]
        assert "your value instead" not in printed
        assert "token_advantages" not in self.dry(capsys, model_dir, tmp_path).split("a step takes", 1)[1]

    @pytest.mark.parametrize("rounds", [0, 3])
    def test_numbers_of_the_estimate(self, rounds):
        text = str(StepEstimate(2.0, 1.0, 3.0, 0.5, rounds, (10, 5), 100, 200))
        assert "a step takes roughly 6.5 s: generating 2.0, measuring inversion 1.0 (15%), updating 3.0" in text
        assert ("with 0 to 3 rounds, a step takes roughly 6.5 to 12.5 s" in text) == (rounds == 3)

    def test_every_preset_says_whether_it_samples_dynamically(self):
        for name, preset in PRESETS.items():
            assert preset.arguments["dynamic_sampling"] == (10 if name == "dapo-dynamic" else 0)
            assert preset.arguments["token_advantages"] == ("gtpo" if name == "gtpo" else "none")
