"""The parts of training on their own: metrics, trajectory, held-out evaluation, figures."""

import math

import numpy as np
import pytest
import torch

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.figures.saving import save_run_figures
from antiphase.figures.trajectory import trajectory_curves
from antiphase.inversion.rollout_facts import RolloutFacts, repetition
from antiphase.inversion.step_metrics import halves_accuracy, step_metrics, tied_share
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import Sampling
from antiphase.scores import RolloutScores
from antiphase.statistics.estimate import share_interval
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.training.card import named
from antiphase.training.console import time_left
from antiphase.training.heldout import HeldOut, evaluate_policy
from antiphase.training.trajectory import Trajectory, read_trajectory
from conftest import byte_tokenizer, tiny_model

NAN = math.nan
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def facts(**changes):
    plain = {
        "inversion": t(0.5, -0.5, 0.2, NAN),
        "correlation": t(-0.5, 0.5, -0.2, NAN),
        "by_unit": {
            "token": t(-0.1, -0.2, -0.3, NAN),
            "type": t(0.1, 0.2, 0.3, NAN),
            "step": t(-0.5, 0.5, -0.2, NAN),
        },
        "given_length": t(-0.4, 0.4, NAN, NAN),
        "entropy": t(1, 2, 3, NAN),
        "strength": t(1, 1, 1, NAN),
        "self_certainty": t(1, 1, 1, NAN),
        "num_tokens": torch.tensor([60, 70, 80, 10]),
        "num_items": torch.tensor([6, 7, 8, 1]),
    }
    return RolloutFacts(
        scores=RolloutScores(**{**plain, **changes}),
        length=t(10, 20, 30, 0),
        truncated=t(0, 1, 0, 1),
        repetition=t(0, 0.5, NAN, NAN),
        digest=t(1, 1, 2, 3),
        seconds=t(1.5, 1.5, 0.5, 0.5),
    )


TASK, ACCEPTED = t(1, 0, 1, 1), torch.tensor([True, False, True, True])


class TestMetrics:
    def test_by_hand(self):
        found = step_metrics(facts(), TASK, ACCEPTED, group_size=2, weight=0.3)
        expected = {
            "task/mean": 0.75,
            "task/std": t(1, 0, 1, 1).std().item(),
            "task/within_group_std": (math.sqrt(0.5) + 0) / 2,
            "task/accuracy": 0.75,
            "task/tied_groups": 0.5,
            "inversion/mean": 0.2 / 3,
            "inversion/std": t(0.5, -0.5, 0.2).std().item(),
            "inversion/within_group_std": math.sqrt(0.5),
            "inversion/correlation": -0.2 / 3,
            "inversion/correlation_token": -0.2,
            "inversion/correlation_type": 0.2,
            "inversion/correlation_step": -0.2 / 3,
            "inversion/correlation_given_length": 0.0,
            "inversion/items": 5.5,
            "inversion/undefined": 0.25,
            "inversion/top_accuracy": 1.0,
            "inversion/bottom_accuracy": 0.0,
            "inversion/weight": 0.3,
            "inversion/seconds": 1.5,
            "rollout/entropy": 2.0,
            "rollout/strength": 1.0,
            "rollout/length": 15.0,
            "rollout/truncated": 0.5,
            "rollout/repetition": 0.25,
            "rollout/distinct": 0.75,
        }
        assert found == pytest.approx(expected)

    def test_all_undefined(self):
        nothing = t(NAN, NAN, NAN, NAN)
        undefined = facts(inversion=nothing, correlation=nothing)
        found = step_metrics(undefined, nothing, ACCEPTED, group_size=2, weight=0.0)
        assert found["inversion/undefined"] == 1
        for name in ("inversion/mean", "inversion/std", "inversion/top_accuracy", "task/mean"):
            assert math.isnan(found[name])

    def test_halves_are_taken_within_groups(self):
        # Group 2 is easy and has high ι throughout: across groups that would look like a signal.
        accepted = torch.tensor([False, False, False, True, True, True])
        found = halves_accuracy(t(0.1, 0.2, 0.3, 0.7, 0.8, 0.9), accepted, 3)
        assert found == (0.5, 0.5)

    def test_ties(self):
        assert tied_share(t(1, 1, 0, 1, NAN, NAN), 2) == pytest.approx(1 / 3)

    def test_repetition(self):
        assert math.isnan(repetition([1, 2, 3, 4]))
        assert repetition([7] * 10) == pytest.approx(6 / 7)
        assert repetition(list(range(50))) == 0


class TestTrajectory:
    def test_continues(self, tmp_path):
        trajectory = Trajectory(tmp_path)
        for step in range(4):
            trajectory.append("step", step, {"x": float(step)})
        trajectory.append("eval", 2, {"y": NAN})
        trajectory.append("eval", 3, {"y": 1.0})
        kept = trajectory.begin(2)
        assert [(row["kind"], row["step"]) for row in kept] == [("step", 0), ("step", 1), ("eval", 2)]
        trajectory.append("alarm", 2, {})
        assert trajectory.begin(2) == kept  # the alarm of a batch that will be measured again
        assert kept == read_trajectory(tmp_path)
        assert kept[-1]["y"] is None

    def test_broken_files(self, tmp_path):
        with pytest.raises(InvalidInputError, match=r"holds no trajectory\.jsonl"):
            read_trajectory(tmp_path)
        path = tmp_path / "trajectory.jsonl"
        path.write_text('{"kind": "step", "step": 0}\n{"kind": "st')
        assert len(read_trajectory(tmp_path)) == 1
        path.write_text('{"kind": "st\n{"kind": "step", "step": 0}\n')
        with pytest.raises(InvalidInputError, match="line 1: not JSON"):
            read_trajectory(tmp_path)
        path.write_text('{"kind": "step", "step": 0, "text": "\u2028"}\n')
        assert read_trajectory(tmp_path)[0]["text"] == "\u2028"


class TestHeldOut:
    def held(self, tokenizer, answers, samples=3):
        problems = tuple(Problem(f"p{i}", "sums:digits=1|1", f"{i}+1", answer) for i, answer in enumerate(answers))
        ids = tuple(tuple(tokenizer(problem.prompt).input_ids) for problem in problems)
        return HeldOut(problems, ids, samples, Sampling(max_new_tokens=8), 4)

    def test_by_hand(self, monkeypatch):
        """The second problem is always right, the first in one sample of three."""
        tokenizer = byte_tokenizer()
        loaded = LoadedModel("tiny", tiny_model(), tokenizer, None)
        from antiphase.training import heldout

        def scripted(loaded, prompts, sampling, seeds):
            out = []
            for i, prompt in enumerate(prompts):
                first = tokenizer.decode(prompt).startswith("0")
                text = "is 5" if first and (sampling.temperature == 0 or i % 3) else ("1" if first else "2")
                out.append((tokenizer(text).input_ids, "stop" if not first else "length"))
            return out

        monkeypatch.setattr(heldout, "generate", scripted)
        with VerifierPool() as pool:
            found = evaluate_policy(loaded, self.held(tokenizer, ["1", "2"]), pool)
        assert found["heldout/pass@1"] == pytest.approx((1 / 3 + 1) / 2)
        assert found["heldout/pass@3"] == 1
        assert found["heldout/greedy"] == 0.5
        assert found["heldout/truncated"] == 0.5
        assert found["heldout/num_problems"] == 2
        assert found["heldout/pass@1_low"] <= found["heldout/pass@1"] <= found["heldout/pass@1_high"]

    def test_leaves_the_random_state_alone_and_repeats(self):
        tokenizer = byte_tokenizer()
        loaded = LoadedModel("tiny", tiny_model(), tokenizer, None)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        with VerifierPool() as pool:
            first = evaluate_policy(loaded, self.held(tokenizer, ["1", "2"]), pool)
            assert torch.equal(torch.rand(3), expected)
            assert evaluate_policy(loaded, self.held(tokenizer, ["1", "2"]), pool) == first

    def test_no_right_answer_is_as_uncertain_as_an_evaluation_says(self):
        tokenizer = byte_tokenizer()
        with VerifierPool() as pool:
            loaded = LoadedModel("tiny", tiny_model(), tokenizer, None)
            found = evaluate_policy(loaded, self.held(tokenizer, ["no such number"] * 2, samples=2), pool)
        assert [found[f"heldout/pass@1{end}"] for end in ("", "_low")] == [0, 0]
        assert found["heldout/pass@1_high"] == share_interval(np.zeros(2)).high == pytest.approx(0.988, abs=1e-3)


def step_row(step, **changes):
    return {
        "kind": "step",
        "step": step,
        "task/accuracy": 0.1 * step,
        "inversion/mean": None,
        "rollout/entropy": 1.0,
        **changes,
    }


def test_curves(tmp_path):
    with pytest.raises(InvalidInputError, match="no step"):
        trajectory_curves([])
    evals = {"heldout/pass@1": 0.5, "heldout/pass@1_low": 0.4, "heldout/pass@1_high": 0.6, "heldout/greedy": 0.7}
    rows = [step_row(i) for i in range(6)] + [{"kind": "alarm", "step": 4}, {"kind": "eval", "step": 6, **evals}]
    figure = trajectory_curves(rows)
    accuracy, inversion, _ = figure.axes
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert list(accuracy.lines[1].get_ydata())[-1] == pytest.approx(0.3)
    assert all(math.isnan(value) for value in inversion.lines[0].get_ydata())
    assert [line.get_xdata()[0] for line in inversion.lines if line.get_linestyle() == "--"] == [4]
    # ι of the probe set, over its headline unit, with its interval.
    probes = [
        {"kind": "probe", "step": 0, "probe/spearman": 0.2, "probe/spearman_low": 0.1, "probe/spearman_high": 0.4},
        {"kind": "probe", "step": 5, "probe/spearman": None, "probe/spearman_low": None, "probe/spearman_high": None},
    ]
    for unit in ("token", "step"):
        named = [{**row, "probe/unit": unit} if unit != "token" else row for row in probes]
        inversion = trajectory_curves([*rows, *named]).axes[1]
        assert [text.get_text() for text in inversion.get_legend().get_texts()] == [f"probe set, by {unit}"]
        (points,) = inversion.containers
        assert points[0].get_ydata()[0] == pytest.approx(-0.2)
        assert points[2][0].get_segments()[0][:, 1] == pytest.approx([-0.4, -0.1])
    paths = save_run_figures("train", tmp_path / "figures", trajectory=rows)
    assert [path.name for path in paths] == ["trajectory.png", "trajectory.svg"]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_curves_of_short_runs(num_steps):
    rows = [step_row(i, **({"inversion/mean": -0.2} if i == num_steps - 1 else {})) for i in range(num_steps)]
    accuracy, inversion, _ = trajectory_curves(rows).axes
    # One defined value is a dot, in the raw curve and in the mean; a line has none, unless it is of one step.
    assert [line.get_markevery() for line in inversion.lines[:2]] == [[num_steps - 1]] * 2
    assert [line.get_marker() for line in inversion.lines[:2]] == ["o", "o"]
    assert accuracy.lines[0].get_markevery() == ([0] if num_steps == 1 else [])
    for axis in (accuracy, inversion):
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


def test_the_card_of_a_run_on_the_embedded_model_names_it():
    text = 'a fine-tuned version of [None](https://huggingface.co/None).\npipeline(model="None")'
    assert named(text, "demo", "runs/mine") == (
        "a fine-tuned version of [HuggingFaceTB/SmolLM2-135M-Instruct]"
        "(https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) (its Q4_1 weights).\n"
        'pipeline(model="runs/mine")'
    )


def test_time_left():
    assert [time_left(s) for s in (12.3, 600, 7500)] == ["12 s", "10 min", "2 h 05 min"]


def test_public_names():
    for name in ("CorRPOConfig", "CorRPOTrainer", "InversionCallback", "ProbeSet"):
        assert getattr(antiphase, name).__name__ == name
