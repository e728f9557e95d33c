"""Rounds of dynamic sampling with odd rewards: infinite ones, none at all, short columns, and weights of 0."""

import json
import logging
import math
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from test_dynamic_sampling import PROMPTS, given, graded, trained
from transformers import TrainerCallback

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.figures.trajectory import trajectory_curves
from antiphase.training.batch_checks import UnscoredWarning
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import flags, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*:UserWarning"),
]


class RewardModel(torch.nn.Module):
    """A reward model, whose values no wrapper checks: infinite for easy prompts, which the rounds replace."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(_name_or_path="some/model", pad_token_id=0)
        self.weight = torch.nn.Linear(1, 1)

    def forward(self, input_ids, attention_mask, **_):
        easy = byte_tokenizer()("e").input_ids[-1]
        rows = zip(input_ids, attention_mask.bool(), strict=True)
        texts = [ids[mask].tolist()[:3] for ids, mask in rows]
        values = [math.inf if easy in text else float(i % 2) for i, text in enumerate(texts)]
        return SimpleNamespace(logits=torch.tensor(values)[:, None])


@pytest.mark.parametrize("rounds", [0, 3])
def test_an_infinite_reward_ends_the_training(tmp_path, rounds):
    trainer = CorRPOTrainer(
        tiny_model(), [RewardModel()],
        CorRPOConfig(**settings(tmp_path, dynamic_sampling=rounds, shuffle_dataset=False, max_steps=1)),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=byte_tokenizer(), rollout_func=given,
        reward_processing_classes=[byte_tokenizer()],
    )  # fmt: skip
    with pytest.raises(InvalidInputError, match="the reward 'model' is infinite"):
        trainer.train()


def test_only_our_own_warning_tells_of_rollouts_without_a_reward(tmp_path, caplog, monkeypatch):
    """The rounds have rollouts without a reward too. There is one warning, for the batch that is trained on."""

    def some(prompts, completion_ids, **_):
        return [None if i % 4 == 3 else r for i, r in enumerate(graded(prompts, completion_ids))]

    monkeypatch.setattr(logging.getLogger("trl"), "propagate", True)
    with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        trained(tmp_path, rewards=[some], max_steps=1)
    assert read_trajectory(tmp_path)[0]["sampling/rounds"] >= 1
    assert "All reward functions returned None" not in caplog.text
    (only,) = [warning for warning in seen if warning.category is UnscoredWarning]
    assert "returned None for 2 of 8 rollouts" in str(only.message)


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_column_of_another_length_is_named(tmp_path, rounds):
    def short(prompts, completion_ids, log_extra, **_):
        log_extra("first letter", [prompt[0] for prompt in prompts[:-1]])
        return graded(prompts, completion_ids)

    with pytest.raises(InvalidInputError, match=r"the column 'first letter' .* has 7 values for 8 completions"):
        trained(tmp_path, rewards=[short], max_steps=1, dynamic_sampling=rounds)


def test_without_a_judging_weight_there_are_no_rounds(tmp_path):
    class Off(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            trainer.reward_weights = torch.tensor([float(state.global_step < 1)])

    trainer = trained(tmp_path, train=False)
    trainer.add_callback(Off())
    trainer.train()
    first, second = (row for row in read_trajectory(tmp_path) if row["kind"] == "step")
    assert first["sampling/rounds"] >= 1
    assert [second[f"sampling/{name}"] for name in ("rounds", "prompts", "tied", "dropped_tokens")] == [0, 2, 0, 0]
    assert second["sampling/accuracy"] == 1


def test_what_is_shown_is_the_accuracy_of_the_first_sample(tmp_path, model_dir, capsys):
    """Console and summary; the accuracy of the chosen batch is near 0.5, whatever the policy does."""
    rewards = tmp_path / "rewards.py"
    rewards.write_text(
        "def long(completion_ids, **_):\n    return [float(sum(ids) % 7 == 0) for ids in completion_ids]\n"
    )
    out = tmp_path / "out"
    words = flags(
        model_dir, out, reward_funcs=f"{rewards}:long", dynamic_sampling=4, max_steps=3, eval_problems=0,
        num_generations=2,
    )  # fmt: skip
    assert main(["train", *words]) == 0
    rows = [row for row in read_trajectory(out) if row["kind"] == "step"]
    assert [row["sampling/accuracy"] for row in rows] != [row["task/accuracy"] for row in rows]
    printed = re.findall(r"step \d/3: accuracy ([\d.]+)", capsys.readouterr().out)
    assert printed == [f"{row['sampling/accuracy']:.3f}" for row in rows]
    change = json.loads((out / "summary.json").read_text())["change"]
    assert change["sampling/accuracy"] == [rows[0]["sampling/accuracy"], rows[-1]["sampling/accuracy"]]
    assert "task/accuracy" not in change


def test_the_figure_shows_the_accuracy_of_the_first_sample():
    def drawn(**metrics):
        row = {"kind": "step", "task/accuracy": 0.5, "inversion/mean": 0.1, "rollout/entropy": 1.0}
        accuracy = trajectory_curves([{**row, "step": i, **metrics} for i in range(3)]).axes[0]
        return list(accuracy.lines[0].get_ydata()), accuracy.get_title(loc="left")

    assert drawn() == ([0.5] * 3, "accuracy")
    assert drawn(**{"sampling/accuracy": 0.2}) == ([0.2] * 3, "accuracy, first sample")
