"""The stored batches that the tests of verl are compared with are those of the TRL trainer.

`python tests/training/test_trl_batches.py` writes the file anew.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "verl"))

from trl_batches import COMBINES, FILE, GROUP, MIN_TOKENS, SCALES, WEIGHT, stored

from antiphase.training.trainer import CorRPOTrainer
from antiphase.verl.batch_terms import batch_terms
from antiphase.verl.fact_columns import to_columns
from training_cases import parity, run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*:UserWarning"),
]


def given(prompts, trainer):
    """Completions of 7 to 12 tokens, so that with at least 10 tokens some of each group have no score."""
    ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
    wrote = [
        [3 + (31 * len(p) + 17 * i + 7 * j + i * j * j) % 250 for j in range(7 + (2 * i + i // 4) % 6)]
        for i, p in enumerate(prompts)
    ]
    return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None}


class Keeping(CorRPOTrainer):
    """Keeps the numbers of its only batch."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.kept["advantages"] = output["advantages"].double().tolist()
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        weighted = rewards.double() * self.reward_weights.double()
        self.kept["rewards"] = weighted.sum(1).tolist()
        self.kept["task"] = rewards[:, 0].double().tolist()
        self.kept["prompts"] = [str(prompt) for prompt in prompts]
        self.kept["lengths"] = [len(ids) for ids in completion_ids]
        return rewards

    def _combine(self, rewards):
        self.kept = {"facts": to_columns(self._measured).tolist()}
        return super()._combine(rewards)


def batch_of(folder, combine, scale):
    trainer = run(
        folder,
        trainer=Keeping,
        rewards=[parity],
        max_steps=1,
        max_completion_length=12,
        inversion_combine=combine,
        inversion_weight=WEIGHT,
        inversion_min_tokens=MIN_TOKENS,
        scale_rewards=scale,
        extra={"rollout_func": given},
    )
    return {**trainer.kept, "spec": {"combine": combine, "weight": WEIGHT, "unit": "token", "min_tokens": MIN_TOKENS}}


# The last column is the time that measuring took.
SECONDS = -1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("combine", COMBINES)
def test_the_stored_batches_are_those_of_the_trainer(tmp_path, combine, scale):
    made, kept = batch_of(tmp_path, combine, scale), stored()[f"{combine}-{scale}"]
    assert made["spec"] == kept["spec"]
    assert made["prompts"] == kept["prompts"]
    for key in ("rewards", "advantages", "task"):
        assert made[key] == pytest.approx(kept[key], abs=1e-5), key
    for mine, theirs in zip(made["facts"], kept["facts"], strict=True):
        assert mine[:SECONDS] == pytest.approx(theirs[:SECONDS], abs=1e-4, nan_ok=True)
    undefined = [row[0] != row[0] for row in made["facts"]]
    assert any(undefined)
    assert not all(undefined)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("combine", COMBINES)
def test_the_reward_for_verl_is_that_of_the_trainer(combine, scale):
    """Also with the rows in another order, as verl has them."""
    from antiphase.inversion.inversion_reward import InversionReward
    from antiphase.inversion.inversion_spec import InversionSpec

    kept = stored()[f"{combine}-{scale}"]
    order = torch.randperm(len(kept["task"]), generator=torch.Generator().manual_seed(0))
    task = torch.tensor(kept["task"], dtype=torch.float64)
    terms = batch_terms(
        InversionReward(InversionSpec(**kept["spec"])),
        torch.tensor(kept["facts"], dtype=torch.float64)[order],
        task[order],
        [str(int(row) // GROUP) for row in order],
        [False] * len(order),
        weight=WEIGHT,
    )
    assert (task[order] + terms.reward).tolist() == pytest.approx(
        [kept["rewards"][int(row)] for row in order], abs=1e-6
    )


if __name__ == "__main__":
    cases = {}
    for one in COMBINES:
        for scaling in SCALES:
            with tempfile.TemporaryDirectory() as place:
                cases[f"{one}-{scaling}"] = batch_of(Path(place), one, scaling)
    FILE.write_text(json.dumps(cases, indent=0) + "\n")
