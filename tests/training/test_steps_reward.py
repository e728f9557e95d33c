"""CorR-PO over steps: the paper's penalty by hand, undefined correlations, presets, and the host's columns."""

import math

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from antiphase import probe
from antiphase.errors import InvalidInputError
from antiphase.reward import inversion_term
from antiphase.scores import ScoreSpec, rollout_scores
from antiphase.signals.measure import token_signals
from antiphase.steps import Splitter
from antiphase.steps.assigning import batch_steps
from antiphase.training.presets import resolve_preset
from antiphase.training.recipe import parse_recipe
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from antiphase.types import SignalSpec, TokenBatch
from conftest import byte_tokenizer, tiny_model
from training_cases import data, flags, parity, run, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*environment_factory.*:UserWarning"),
]
NAN = math.nan
STEPS = {
    "inversion_unit": "step",
    "inversion_combine": "penalty",
    "inversion_splitter": "fixed:2",
    "inversion_min_steps": 4,
}


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def term(inversion, group_size, **changes):
    size = len(inversion)
    options = {"combine": "penalty", "weight": 0.5, **changes}
    return inversion_term(inversion, torch.zeros(size), torch.ones(size).bool(), group_size=group_size, **options)


class TestPenalty:
    def test_is_minus_one_plus_rho(self):
        # ρ of −1, 0, 1 and 0.3: perfect inversion costs nothing, its opposite 2.
        assert term(t(1, 0, -1, -0.3), 4).reward.tolist() == [0, -1, -2, -1.3]
        assert term(t(1, 0, -1, -0.3), 4).advantage.tolist() == [0] * 4

    @pytest.mark.parametrize(
        ("undefined", "expected"),
        [("neutral", [-0.5, -1.5, -1.0, -1.0]), ("zero", [-0.5, -1.5, -1, -1]), ("worst", [-0.5, -1.5, -2, -2])],
    )
    def test_undefined(self, undefined, expected):
        assert term(t(0.5, -0.5, NAN, NAN), 4, undefined=undefined).reward.tolist() == expected

    @pytest.mark.parametrize(("undefined", "expected"), [("neutral", 0.6 - 1), ("zero", -1.0), ("worst", -2.0)])
    def test_undefined_beside_inverted_ones(self, undefined, expected):
        found = term(t(0.8, 0.4, NAN), 3, undefined=undefined).reward
        assert found.tolist() == pytest.approx([-0.2, -0.6, expected])

    @pytest.mark.parametrize(("undefined", "expected"), [("neutral", -1), ("zero", -1), ("worst", -2)])
    def test_a_group_without_any_correlation_and_groups_of_one(self, undefined, expected):
        # All members get the same, so the group's advantage is 0.
        assert term(t(NAN, NAN), 2, undefined=undefined).reward.tolist() == [expected] * 2
        assert term(t(NAN, 0.5), 1, undefined=undefined).reward.tolist() == [expected, -0.5]

    def test_worst_is_bounded_by_the_clip(self):
        assert term(t(0.3, NAN), 2, undefined="worst", clip=0.3).reward.tolist() == [-0.7, -1.3]

    @pytest.mark.parametrize("undefined", ["neutral", "zero", "worst"])
    def test_rollouts_that_the_host_leaves_out_stay_neutral(self, undefined):
        left_out = torch.tensor([False, False, True])
        found = term(t(0.8, 0.4, NAN), 3, undefined=undefined, excluded=left_out)
        assert found.reward.tolist() == pytest.approx([-0.2, -0.6, 0.6 - 1])

    def test_other_modes(self):
        values = t(0.8, 0.4, NAN)
        assert term(values, 3, combine="sum", undefined="worst").reward.tolist() == [0.8, 0.4, -1]
        centered = term(values, 3, combine="centered", undefined="zero").advantage
        assert centered.tolist() == pytest.approx([0.4, 0.0, -0.4])
        assert term(values, 3, combine="gated", undefined="worst").reward.tolist() == [0.8, 0.4, -1]

    def test_a_tied_group_trains_at_full_scale_whatever_the_weight(self):
        # Where the task reward ties, group normalisation makes λ inert.
        for weight in (0.01, 1.0):
            reward = torch.ones(4) + weight * term(t(0.5, 0.1, -0.2, -0.4), 4).reward
            advantage = (reward - reward.mean()) / (reward.std() + 1e-4)
            assert advantage.max().item() == pytest.approx(1.26, abs=0.04)


def series(entropy, strength, lengths):
    """A batch whose steps have these means: every token of a step has its step's values."""
    numbers = torch.arange(len(entropy)).repeat_interleave(torch.tensor(lengths))
    total = len(numbers)
    batch = TokenBatch.from_ids([[1, 2]], [list(range(3, 3 + total))])
    steps = torch.cat([torch.tensor([-1, -1]), numbers])[None]
    signals = token_signals(tiny_model(), batch, SignalSpec(), steps=steps)
    import dataclasses

    found = dataclasses.replace(signals.steps, entropy=t(*entropy)[None], strength=t(*strength)[None])
    return dataclasses.replace(signals, steps=found), batch


class TestScores:
    def test_over_steps_by_hand(self):
        # Ranks of the strengths: 5 4 2 3 1 against 1 2 3 4 5, Σd² = 16+4+1+1+16 = 38, ρ = 1 − 6·38/120 = −0.9.
        signals, batch = series([1, 2, 3, 4, 5], [9, 8, 4, 6, 1], [1, 2, 3, 1, 4])
        found = rollout_scores(signals, batch, ScoreSpec(unit="step", min_steps=5))
        assert found.correlation.item() == pytest.approx(-0.9)
        assert found.inversion.item() == pytest.approx(0.9)
        assert found.num_items.tolist() == [5]
        assert found.num_tokens.tolist() == [11]
        assert set(found.by_unit) == {"token", "type", "step"}
        assert math.isnan(rollout_scores(signals, batch, ScoreSpec(unit="step", min_steps=6)).inversion.item())

    def test_shuffled_permutes_steps(self):
        signals, batch = series([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [2] * 6)
        plain = rollout_scores(signals, batch, ScoreSpec(unit="step"))
        shuffled = rollout_scores(signals, batch, ScoreSpec(unit="step", control="shuffled"))
        assert plain.inversion.item() == pytest.approx(1.0)
        assert shuffled.correlation.item() == pytest.approx(-1.0)
        assert shuffled.inversion.item() < 1.0

    def test_types_are_means_over_ids(self):
        batch = TokenBatch.from_ids([[1, 2]], [[5, 6, 5, 7, 8, 5]])
        signals = token_signals(tiny_model(), batch, SignalSpec())
        found = rollout_scores(signals, batch, ScoreSpec(unit="type", min_tokens=4))
        entropy, strength = signals.entropy[0, 2:], signals.strength[0, 2:]
        means = [(v[[0, 2, 5]].mean(), v[1], v[3], v[4]) for v in (entropy, strength)]
        ranks = [torch.stack(row).argsort().argsort().double() for row in means]
        assert found.correlation.item() == pytest.approx(torch.corrcoef(torch.stack(ranks))[0, 1].item())
        assert found.num_items.tolist() == [4]

    def test_steps_must_be_given(self):
        batch = TokenBatch.from_ids([[1, 2]], [[5, 6, 5]])
        with pytest.raises(InvalidInputError, match="hold no steps"):
            rollout_scores(token_signals(tiny_model(), batch, SignalSpec()), batch, ScoreSpec(unit="step"))


class TestTrainer:
    @pytest.mark.parametrize(
        "changes",
        [
            {"inversion_estimator": "own", "inversion_step_strength": "mean"},
            {"inversion_estimator": "own", "inversion_step_strength": "joint"},
            {"inversion_estimator": "full", "inversion_step_strength": "joint"},
            {"inversion_unit": "type"},
        ],
        ids=["own-mean", "own-joint", "full-joint", "type"],
    )
    def test_weight_0_is_the_host_bitwise(self, tmp_path, changes):
        plain = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig)
        ours = run(tmp_path / "ours", inversion_weight=0.0, **{**STEPS, **changes})
        assert same(plain, ours)
        assert not math.isnan(ours.state.log_history[0]["inversion/mean"])

    def test_the_term_moves_the_weights(self, tmp_path):
        plain = run(tmp_path / "host", inversion_weight=0.0, **STEPS)
        ours = run(tmp_path / "ours", inversion_weight=0.5, **STEPS)
        assert not same(plain, ours)

    @pytest.mark.parametrize("estimator", ["own", "last", "full"])
    @pytest.mark.parametrize("strength", ["mean", "joint"])
    def test_step_correlation_is_that_of_probe(self, tmp_path, estimator, strength):
        seen = []

        class Seen(run.__kwdefaults__["trainer"]):
            def _measure(self, rollouts):
                measured = super()._measure(rollouts)
                seen.append((rollouts, measured.scores.by_unit))
                return measured

        chosen = {**STEPS, "inversion_estimator": estimator, "inversion_step_strength": strength}
        run(tmp_path / "t", trainer=Seen, max_steps=1, inversion_weight=0.0, **chosen)
        rollouts, by_unit = seen[0]
        given = [
            {"prompt_ids": prompt, "completion_ids": completion, "prompt_id": str(i)}
            for i, (prompt, completion) in enumerate(zip(rollouts.prompt_ids, rollouts.completion_ids, strict=True))
        ]
        found = probe(
            tiny_model(),
            tokenizer=byte_tokenizer(),
            rollouts=given,
            estimators=(estimator,),
            splitter="fixed:2",
            step_strength=strength,
            min_steps=4,
            allow_short=True,
            num_resamples=10,
            progress=False,
        )
        expected = torch.tensor(found.rollouts.spearman_step.to_numpy(copy=True))
        torch.testing.assert_close(by_unit["step"], expected, rtol=0, atol=1e-6, equal_nan=True)
        assert by_unit["step"].isfinite().any()
        # What is not measured, by choice, is not logged as undefined.
        (row,) = read_trajectory(tmp_path / "t")
        logged = {unit for unit in ("token", "type", "step") if f"inversion/correlation_{unit}" in row}
        apart = strength == "joint" and estimator != "own"
        assert logged == ({"step"} if apart else {"token", "type", "step"})
        if strength == "mean":
            for unit in ("token", "type"):
                expected = torch.tensor(found.rollouts[f"spearman_{unit}"].to_numpy(copy=True))
                torch.testing.assert_close(by_unit[unit], expected, rtol=0, atol=1e-6, equal_nan=True)


TOOLS_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments }}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


class _Environment:
    """Owns a reward: every second instance is right."""

    count = 0

    def reset(self, **_):
        type(self).count += 1
        self.number = type(self).count
        return

    def get_reward(self) -> float:
        return float(self.number % 2)


class TestEnvironments:
    """The host has a column for every environment that owns a reward; ours comes after all of them."""

    @pytest.fixture(autouse=True)
    def _counted(self, monkeypatch):
        monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        _Environment.count = 0

    def trained(self, folder, rewards=(parity,), **changes):
        _Environment.count = 0
        return run(
            folder,
            rewards=list(rewards),
            tokenizer=byte_tokenizer(TOOLS_TEMPLATE),
            extra={"environment_factory": _Environment},
            **changes,
        )

    @pytest.mark.parametrize("rewards", [(parity,), ()], ids=["beside a function", "alone"])
    def test_weight_0_is_the_host_bitwise(self, tmp_path, rewards):
        plain = self.trained(tmp_path / "host", rewards, trainer=GRPOTrainer, config=GRPOConfig)
        ours = self.trained(tmp_path / "ours", rewards, inversion_weight=0.0, **STEPS)
        assert same(plain, ours)

    @pytest.mark.parametrize("rewards", [(parity,), ()], ids=["beside a function", "alone"])
    def test_the_environments_reward_is_kept(self, tmp_path, rewards):
        seen = []

        class Seen(run.__kwdefaults__["trainer"]):
            def _calculate_rewards(self, *args):
                columns = super()._calculate_rewards(*args)
                seen.append((columns, self.reward_weights, self._column, self._term.reward))
                return columns

        trainer = self.trained(tmp_path, rewards, trainer=Seen, max_steps=1, inversion_weight=0.1, **STEPS)
        columns, weights, own, reward = seen[0]
        assert trainer.reward_func_names == [f.__name__ for f in rewards] + ["_Environment"]
        assert own == len(rewards) + 1
        assert weights.tolist() == pytest.approx([1.0] * own + [0.1])
        assert set(columns[:, own - 1].tolist()) == {0.0, 1.0}
        torch.testing.assert_close(columns[:, own].double(), reward)

    def test_without_any_reward_is_refused(self, tmp_path):
        with pytest.raises(InvalidInputError, match="needs a task reward"):
            run(tmp_path, rewards=[], train=False)


class TestPresets:
    def test_corr_po_is_the_papers(self):
        preset, with_term = resolve_preset("corr-po")
        assert with_term
        pinned = preset.arguments
        assert pinned["inversion_combine"] == "penalty"
        assert pinned["inversion_unit"] == "step"
        assert pinned["inversion_estimator"] == "full"
        assert pinned["inversion_layers"] == "all"
        assert pinned["inversion_projections"] == "QKVO"
        assert pinned["inversion_norm"] == "nuclear"
        assert (pinned["loss_type"], pinned["scale_rewards"]) == ("grpo", "group")
        grpo = resolve_preset("grpo")[0].arguments
        assert {key: pinned[key] for key in grpo} == dict(grpo)

    def test_the_term_on_other_bases(self):
        assert resolve_preset("dapo+corr-po")[0].arguments["epsilon_high"] == 0.28
        fast = resolve_preset("corr-po-fast")[0].arguments
        slow = resolve_preset("corr-po")[0].arguments
        assert {key for key in fast if fast[key] != slow[key]} == {"inversion_estimator"}
        assert fast["inversion_estimator"] == "own"
        assert resolve_preset("gspo+corr-po-fast")[0].arguments["importance_sampling_level"] == "sequence"

    @pytest.mark.parametrize("name", ["corr-poo", "corr-po+corr-po-fast", "dapo+grpo", "dapo+corr-po+grpo", "+", ""])
    def test_what_does_not_exist(self, name):
        with pytest.raises(InvalidInputError, match=r"The baselines are grpo, .* with \+corr-po or"):
            resolve_preset(name)

    def test_recipes_of_the_first_release_keep_their_meaning(self, tmp_path, model_dir):
        words = flags(model_dir, tmp_path, preset="dapo+corr-po", inversion_weight=0.2)
        old = parse_recipe([*words, "--inversion_combine", "centered"]).config
        assert (old.inversion_unit, old.inversion_estimator) == ("token", "own")
        named = parse_recipe([*words, "--inversion_combine", "centered", "--inversion_unit", "step"]).config
        assert (named.inversion_unit, named.inversion_estimator) == ("step", "full")
        last = parse_recipe([*words, "--inversion_combine", "sum", "--inversion_estimator", "last"]).config
        assert (last.inversion_unit, last.inversion_estimator) == ("token", "last")
        new = parse_recipe(words).config
        assert (new.inversion_unit, new.inversion_combine) == ("step", "penalty")

    @pytest.mark.parametrize(
        ("preset", "more", "estimator"),
        [
            ("corr-po", [], "full"),
            ("corr-po-fast", [], "own"),
            ("dapo+corr-po-fast", [], "own"),
            ("dapo+corr-po", ["--inversion_splitter", "line"], "full"),
            ("dapo+corr-po", ["--inversion_undefined", "worst"], "full"),
        ],
    )
    def test_what_the_first_release_did_not_know_is_read_as_new(self, tmp_path, model_dir, preset, more, estimator):
        words = flags(model_dir, tmp_path, preset=preset, inversion_weight=0.2, inversion_combine="centered")
        config = parse_recipe([*words, *more]).config
        assert (config.inversion_unit, config.inversion_step_strength) == ("step", "joint")
        assert (config.inversion_combine, config.inversion_estimator) == ("centered", estimator)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"inversion_splitter": "sentense"}, "sentence"),
            ({"inversion_splitter": "regex:("}, "regex"),
            ({"inversion_splitter": "fixed:0"}, "at least 1"),
            ({"inversion_unit": "word"}, "token, type, step"),
            ({"inversion_undefined": "best"}, "neutral, zero, worst"),
            ({"inversion_step_strength": "sum"}, "mean, joint"),
            ({"inversion_min_steps": 2}, "inversion_min_steps must be at least 3"),
        ],
    )
    def test_bad_settings(self, tmp_path, changes, message):
        with pytest.raises(InvalidInputError, match=message):
            CorRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **changes)


def test_rollouts_of_one_sentence_are_undefined_and_train(tmp_path):
    trainer = run(tmp_path, inversion_weight=0.5, max_steps=1, **{**STEPS, "inversion_splitter": "sentence"})
    assert trainer.state.log_history[0]["inversion/undefined"] == 1.0


def test_defaults_are_the_papers_reward(tmp_path):
    config = CorRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.inversion_combine, config.inversion_unit, config.inversion_splitter) == (
        "penalty",
        "step",
        "sentence",
    )
    assert config.splitter() == Splitter()
    assert len(data()) == 16
    assert batch_steps(TokenBatch.from_ids([[1, 2]], [[5]]), byte_tokenizer(), Splitter()).tolist() == [[-1, -1, 0]]
