"""A measuring pass of the trainer holds no more tokens than the memory of an update allows."""

import pytest
import torch

from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.training import trainer as trainer_module
from antiphase.training.pass_budget import tokens_of_update
from conftest import tiny_model
from training_cases import run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
ROLLOUTS = RolloutIds([[1] * 100, [1] * 60], [[1] * 300, [1] * 500])


def test_the_tokens_of_a_micro_batch_by_hand():
    model = tiny_model()
    # TRL pads prompts and completions apart: 100 + 500 columns.
    assert tokens_of_update(ROLLOUTS, 2, model, checkpointing=False) == 1200
    # With checkpointing, a layer's input in place of its 16 vectors, and one of the 3 layers whole.
    assert tokens_of_update(ROLLOUTS, 2, model, checkpointing=True) == int(1200 * (1 / 16 + 1 / 3))
    assert tokens_of_update(RolloutIds([[1]], [[2]]), 2, model, checkpointing=False) == 256


@pytest.mark.parametrize(("given", "used"), [(2048, 600), (300, 300)])
def test_the_trainer_takes_the_smaller_budget(tmp_path, monkeypatch, given, used):
    budgets, measure = [], InversionReward.measure

    def recording(self, *args, **kwargs):
        budgets.append(self.spec.token_budget)
        return measure(self, *args, **kwargs)

    monkeypatch.setattr(InversionReward, "measure", recording)
    made = run(
        tmp_path, train=False, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        inversion_token_budget=given,
    )  # fmt: skip
    made._measure(RolloutIds([[5] * 50] * 8, [[7] * 100] * 8))
    assert budgets == [used]


def test_shorter_passes_change_numbers_by_rounding_alone(tmp_path):
    made = run(tmp_path, train=False, per_device_train_batch_size=4)
    torch.manual_seed(0)
    rollouts = RolloutIds([[5, 6, 7]] * 8, torch.randint(3, 259, (8, 90)).tolist())
    facts = [made._measure(rollouts).scores]
    made.args.per_device_train_batch_size = 100
    facts.append(made._measure(rollouts).scores)
    for name in ("strength", "entropy"):
        left, right = (getattr(scores, name) for scores in facts)
        torch.testing.assert_close(left, right, rtol=1e-5, atol=0)
    torch.testing.assert_close(facts[0].correlation, facts[1].correlation, rtol=0, atol=1e-3)


def test_freed_memory_is_returned_after_measuring(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(trainer_module, "return_freed_memory", devices.append)
    run(tmp_path, max_steps=2)
    assert [device.type for device in devices] == ["cpu", "cpu"]
