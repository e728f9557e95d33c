"""A resumed training with adaptive entropy needs the coefficient that TRL keeps in a file of the checkpoint."""

import pytest

from antiphase.errors import InvalidInputError
from antiphase.training.checks import ENTROPY_STATE
from training_cases import run, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
# The entropy is far below the target, so the coefficient rises at every step.
OPTIONS = {
    "use_adaptive_entropy": True, "entropy_target": 9.0, "entropy_coef_min": 0.0, "entropy_coef_max": 0.5,
    "entropy_coef_delta": 0.1, "save_strategy": "steps", "save_steps": 2, "max_steps": 4,
}  # fmt: skip


def test_a_checkpoint_without_the_coefficient_is_refused(tmp_path):
    whole = run(tmp_path, **OPTIONS)
    checkpoint = tmp_path / "checkpoint-2"
    again = run(tmp_path, train=False, **OPTIONS)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert same(whole, again)
    (checkpoint / ENTROPY_STATE).unlink()
    lacking = run(tmp_path, train=False, **OPTIONS)
    with pytest.raises(InvalidInputError, match=rf"checkpoint-2' has no {ENTROPY_STATE}"):
        lacking.train(resume_from_checkpoint=str(checkpoint))
    # Without adaptive entropy, nobody reads the file.
    fixed = {**OPTIONS, "use_adaptive_entropy": False}
    assert run(tmp_path, train=False, **fixed).train(resume_from_checkpoint=str(checkpoint)).global_step == 4
