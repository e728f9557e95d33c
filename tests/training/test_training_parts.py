"""The parts of training on their own: metrics, trajectory, held-out evaluation, callback, sharding, figures."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerState, TrainingArguments

import antiphase
import training_cases as cases
from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.figures.saving import save_run_figures
from antiphase.figures.trajectory import trajectory_curves
from antiphase.inversion.rollout_facts import RolloutFacts, repetition
from antiphase.inversion.step_metrics import halves_accuracy, step_metrics, tied_share
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import Sampling
from antiphase.scores import RolloutScores
from antiphase.signals.measure import token_signals
from antiphase.statistics.estimate import share_interval
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.training.callback import InversionCallback
from antiphase.training.card import named
from antiphase.training.console import time_left
from antiphase.training.heldout import HeldOut, evaluate_policy
from antiphase.training.probe_set import ProbeSet, probe_policy
from antiphase.training.trajectory import Trajectory, read_trajectory
from antiphase.types import SignalSpec, TokenBatch
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

        def scripted(loaded, prompts, sampling, number):
            out = []
            for i, prompt in enumerate(prompts):
                first = tokenizer.decode(prompt).startswith("0")
                text = "is 5" if first and (sampling.temperature == 0 or (number + i) % 3) else ("1" if first else "2")
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


def causal_rows(tokenizer):
    rows = []
    for text in ("hello there you", "some other words", "one two three four", "abc abc abc abc") * 2:
        ids = tokenizer(text).input_ids[:15]
        rows.append({"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)})
    return Dataset.from_list(rows)


def lossy(trainer):
    """The log lines of the trainer itself."""
    return [entry for entry in trainer.state.log_history if "probe/spearman" not in entry]


class TestCallback:
    def trainer(self, folder, **changes):
        arguments = TrainingArguments(
            str(folder), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
            use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True, **changes,
        )  # fmt: skip
        return Trainer(tiny_model(), arguments, train_dataset=causal_rows(byte_tokenizer()))

    def probe_set(self, **changes):
        sampling = Sampling(max_new_tokens=12)
        return ProbeSet.from_prompts(["hello", "abc", "some"], byte_tokenizer(), sampling=sampling, **changes)

    @pytest.mark.parametrize("attached", [True, False])
    def test_any_trainer(self, tmp_path, attached):
        plain = self.trainer(tmp_path / "plain")
        plain.train()
        trainer = self.trainer(tmp_path / "followed")
        callback = InversionCallback(2, self.probe_set(samples=2), num_resamples=20)
        callback.attach(trainer) if attached else trainer.add_callback(callback)
        trainer.train()
        rows = read_trajectory(tmp_path / "followed")
        assert [row["step"] for row in rows] == [0, 2, 4]
        assert all(row["kind"] == "probe" for row in rows)
        for row in rows:
            assert row["probe/spearman_low"] <= row["probe/spearman"] <= row["probe/spearman_high"]
            assert row["probe/inversion"] == -row["probe/spearman"]
            assert row["probe/unit"] == "type"
            for end in ("", "_low", "_high"):
                assert row[f"probe/spearman{end}"] == row[f"probe/spearman_type{end}"]
            # Twelve random letters hold too few sentences for a ρ of their own, and enough letters for one.
            assert row["probe/undefined_step"] == 1 > row["probe/undefined_token"]
        for before, after in zip(plain.state.log_history, lossy(trainer), strict=True):
            assert before.get("loss") == after.get("loss")
        logged = [entry for entry in trainer.state.log_history if "probe/spearman" in entry]
        assert [entry["step"] for entry in logged] == [0, 2, 4]
        for left, right in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
            assert torch.equal(left, right)

    def test_numbers_are_those_of_probe(self, tmp_path):
        """The last row against an independent measurement of the trained model on the same tokens."""
        completions = ["xyz xyz xyz abc", "one two three four five"]
        given = ProbeSet.from_rollouts(["hello", "abc"], completions, byte_tokenizer(), template="{prompt}")
        trainer = self.trainer(tmp_path)
        InversionCallback(3, given, num_resamples=20).attach(trainer)
        trainer.train()
        row = read_trajectory(tmp_path)[-1]
        tokenizer = byte_tokenizer()
        assert row["probe/unit"] == "type"
        batch = TokenBatch.from_ids(
            [tokenizer(p).input_ids for p in ("hello", "abc")], [tokenizer(c).input_ids for c in completions]
        )
        signals = token_signals(trainer.model, batch)
        from scipy import stats

        chosen = batch.completion_mask
        rho = stats.spearmanr(signals.entropy[chosen], signals.strength[chosen]).statistic
        assert row["probe/spearman_token"] == pytest.approx(rho, abs=1e-9)
        kinds = batch.input_ids[chosen].unique()
        means = [
            [float(series[chosen][batch.input_ids[chosen] == kind].double().mean()) for kind in kinds]
            for series in (signals.entropy, signals.strength)
        ]
        assert row["probe/spearman"] == pytest.approx(stats.spearmanr(*means).statistic, abs=1e-9)
        assert row["probe/rollouts"] == "given"
        assert row["probe/num_tokens"] == int(chosen.sum())

    def test_resume_continues_its_rows(self, tmp_path):
        Trajectory(tmp_path).append("probe", 0, {})
        Trajectory(tmp_path).append("probe", 8, {})
        assert [row["step"] for row in Trajectory(tmp_path).begin(4)] == [0]

    @pytest.mark.parametrize("how", ["constructor", "attached", "twice"])
    def test_beside_the_trainers_own_trajectory(self, tmp_path, how):
        first, second = (InversionCallback(1, self.probe_set(), num_resamples=5) for _ in range(2))
        extra = {"callbacks": [first]} if how == "constructor" else {}
        trainer = cases.run(tmp_path, train=False, max_steps=2, extra=extra)
        if how != "constructor":
            first.attach(trainer)
        if how == "twice":
            second.attach(trainer)
        trainer.train()
        steps = [row["step"] for row in read_trajectory(tmp_path) if row["kind"] == "probe"]
        assert steps == ([0, 0, 1, 1, 2, 2] if how == "twice" else [0, 1, 2])
        assert [row["step"] for row in read_trajectory(tmp_path) if row["kind"] == "step"] == [0, 1]
        assert not list(tmp_path.glob("trajectory-*"))
        assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2]

    def test_bad_input(self, tmp_path):
        tokenizer = byte_tokenizer()
        with pytest.raises(InvalidInputError, match="empty"):
            ProbeSet.from_prompts([], tokenizer)
        with pytest.raises(InvalidInputError, match="got 1 prompts and 2 completions"):
            ProbeSet.from_rollouts(["a"], ["b", "c"], tokenizer)
        with pytest.raises(InvalidInputError, match="completion 0 has no tokens"):
            ProbeSet.from_rollouts(["a"], [""], tokenizer)
        with pytest.raises(InvalidInputError, match="every_n_steps"):
            InversionCallback(0, self.probe_set())
        for option, value in (("splitter", "page"), ("min_steps", 2)):
            with pytest.raises(InvalidInputError, match=option):
                InversionCallback(2, self.probe_set(), **{option: value})

    def test_every_unit_is_that_of_a_probe(self, tmp_path):
        """On the same rollouts, with the same options, the row has the numbers of `antiphase probe`."""
        texts = ["One two. Three four! Five? Six seven. Eight.", "A b c. D e. F g h. I. J k l m n. O p."] * 2
        prompts = ["hello", "abc", "some", "more"]
        given = ProbeSet.from_rollouts(prompts, texts, byte_tokenizer(), template="{prompt}")
        options = {"unit": "step", "splitter": "sentence", "step_strength": "joint", "min_tokens": 6, "min_steps": 4}
        row = probe_policy(tiny_model(), given, SignalSpec(), num_resamples=50, **options)
        rollouts = [
            {"prompt_id": str(i), "prompt_ids": list(given.prompt_ids[i]), "completion_ids": list(ids)}
            for i, ids in enumerate(given.completion_ids)
        ]
        found = antiphase.probe(
            tiny_model(), tokenizer=byte_tokenizer(), rollouts=rollouts, num_resamples=50, progress=False, **options
        ).result()
        for unit, entry in found["units"].items():
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                assert row[f"probe/spearman_{unit}{end}"] == pytest.approx(entry[key], abs=1e-6), (unit, key)
            assert row[f"probe/undefined_{unit}"] == entry["num_undefined"] / 4
        assert row["probe/spearman"] == row["probe/spearman_step"]
        assert row["probe/spearman_within"] == pytest.approx(found["units"]["step"]["within"]["value"], abs=1e-6)
        assert row["probe/num_steps"] == found["units"]["step"]["num_items"]

    def test_short_probe_sets_are_undefined(self):
        given = ProbeSet.from_rollouts(["hello"], ["ab"], byte_tokenizer())
        row = probe_policy(tiny_model(), given, SignalSpec(), num_resamples=10)
        assert math.isnan(row["probe/spearman"])
        assert row["probe/undefined"] == 1

    def test_sharded_models_must_be_attached(self, tmp_path):
        model = tiny_model()
        model.model.layers[0].mlp.up_proj.weight.data = torch.empty(0)
        callback = InversionCallback(2, self.probe_set())
        with pytest.raises(UnsupportedModelError, match="attach"):
            callback._measure(TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(), None, model)


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
