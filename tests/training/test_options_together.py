"""Options of training that were made apart, used together: what is kept and logged is that of the final batch."""

import pytest
from test_dynamic_sampling import Seen, graded, trained
from test_kept_rollouts import STEPPED

from antiphase.errors import InvalidInputError
from antiphase.tasks.task_rewards import FormatReward
from antiphase.training.kept_folder import read_kept
from antiphase.training.trajectory import read_trajectory

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*:UserWarning"),
]


@pytest.mark.parametrize("combine", ["penalty", "centered"])
@pytest.mark.parametrize("token_advantages", ["none", "gtpo"])
def test_the_kept_rollouts_are_those_of_the_final_batch(combine, token_advantages, tmp_path) -> None:
    changes = {**STEPPED, "max_steps": 2, "token_advantages": token_advantages, "inversion_combine": combine}
    trainer = trained(tmp_path, keep_rollouts=8, log_completions=True, num_completions_to_print=0, **changes)
    frame, rows = read_kept(tmp_path), [row for row in read_trajectory(tmp_path) if row["kind"] == "step"]
    assert isinstance(trainer, Seen)
    assert frame.step.tolist() == [0] * 8 + [1] * 8
    assert any(row["sampling/rounds"] > 0 for row in rows)
    for step, own in frame.groupby("step"):
        prompts, output = trainer.batches[step]
        pairs = zip(output["completion_ids"], output["completion_mask"].bool(), strict=True)
        assert [list(row) for row in own.completion_ids] == [ids[mask].tolist() for ids, mask in pairs]
        assert own.prompt.tolist() == prompts
        advantages = output["advantages"]
        if token_advantages == "gtpo":
            advantages = [row[: len(ids)].mean() for row, ids in zip(advantages, own.completion_ids, strict=True)]
        assert own.advantage.tolist() == pytest.approx([float(value) for value in advantages], abs=1e-6)
        assert own.task_reward.mean() == pytest.approx(rows[step]["task/mean"], abs=1e-9)
        assert own.inversion.mean() == pytest.approx(rows[step]["inversion/mean"], abs=1e-9)


def test_format_does_not_decide_what_is_right(tmp_path) -> None:
    trainer = trained(tmp_path, rewards=[FormatReward(), graded], train=False, dynamic_sampling=0)
    assert trainer._verifier == 1
    with pytest.raises(InvalidInputError, match="needs a verifier"):
        trained(tmp_path, rewards=[FormatReward()], train=False, dynamic_sampling=0, inversion_combine="gated")
