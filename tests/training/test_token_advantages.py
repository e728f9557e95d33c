"""Advantages of single tokens in a training: which tokens have one, and which number of them is kept."""

import pytest

from antiphase.training.kept_folder import read_kept
from antiphase.training.trainer import CorRPOTrainer
from training_cases import run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*:UserWarning"),
]


def with_tool(prompts, trainer):
    """Completions of different lengths. The tokens 5, 6 and 7 of each completion are those of a tool."""
    ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
    wrote = [[30 + (7 * i + 11 * j) % 90 for j in range(12 + i % 3)] for i in range(len(prompts))]
    mask = [[1] * 5 + [0] * 3 + [1] * (len(row) - 8) for row in wrote]
    return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None, "env_mask": mask}


@pytest.mark.parametrize("combine", ["penalty", "centered"])
def test_only_tokens_that_the_model_wrote_have_an_advantage(tmp_path, combine):
    batches = []

    class Seen(CorRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            batches.append((super()._generate_and_score_completions(inputs), self._term))
            return batches[-1][0]

    run(
        tmp_path, trainer=Seen, extra={"rollout_func": with_tool}, token_advantages="gtpo", keep_rollouts=8,
        inversion_combine=combine, inversion_weight=0.5, max_steps=1,
    )  # fmt: skip
    (output, term), kept = batches[0], read_kept(tmp_path)
    advantages, lengths = output["advantages"], kept.num_tokens.tolist()
    assert lengths == [12, 13, 14] * 2 + [12, 13]
    wrote = [[*range(5), *range(8, count)] for count in lengths]
    for row, places in zip(advantages, wrote, strict=True):
        others = [place for place in range(len(row)) if place not in places]
        assert row[others].tolist() == [0.0] * len(others)
    # A rollout that is the only right or wrong one of its group has the advantage 0 everywhere.
    assert sum(row.abs().max() > 0.1 for row in advantages) >= 6
    means = [row[places].mean().item() for row, places in zip(advantages, wrote, strict=True)]
    assert kept.advantage.tolist() == pytest.approx(means, abs=1e-6)
    # The mean over all tokens would be another number.
    assert max(abs(row[:count].mean().item() - mean) for row, count, mean in zip(
        advantages, lengths, means, strict=True)) > 0.01  # fmt: skip
    if combine == "centered":
        assert term.advantage.abs().max() > 0.01


def test_a_rollout_without_a_trained_token_has_no_mean(tmp_path):
    """Every completion is cut off, and `mask_truncated_completions` takes it out of the loss."""

    def cut(prompts, trainer):
        ids = [trainer.processing_class(prompt).input_ids for prompt in prompts]
        wrote = [[30 + (7 * i + 11 * j) % 90 for j in range(14)] for i in range(len(prompts))]
        return {"prompt_ids": ids, "completion_ids": wrote, "logprobs": None}

    trainer = run(
        tmp_path, extra={"rollout_func": cut}, token_advantages="gtpo", keep_rollouts=8, max_steps=1,
        inversion_combine="centered", inversion_weight=0.5, mask_truncated_completions=True,
    )  # fmt: skip
    assert trainer._term.advantage.abs().max() > 0
    assert read_kept(tmp_path).advantage.isna().all()
