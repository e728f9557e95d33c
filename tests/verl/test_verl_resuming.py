"""A training of verl continues only with the inversion options that it began with. These tests need no verl."""

import json

import pytest

from antiphase.errors import InvalidInputError
from antiphase.verl.resuming import FILE, check_resumed, store_options
from antiphase.verl.settings import spec_of


@pytest.fixture
def begun(tmp_path):
    """The section `trainer` of a training that has saved a checkpoint."""
    trainer = {"default_local_dir": str(tmp_path / "checkpoints"), "resume_mode": "auto"}
    check_resumed(trainer, spec_of({"weight": 0.1}))
    store_options(trainer, spec_of({"weight": 0.1}))
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("1")
    return trainer


def test_the_same_options_continue(begun):
    check_resumed(begun, spec_of({"weight": 0.1}))


def test_other_options_are_refused_by_name(begun):
    with pytest.raises(InvalidInputError, match=r"weight was 0\.1, is 0\.3; unit was 'step', is 'token'"):
        check_resumed(begun, spec_of({"weight": 0.3, "unit": "token"}))


def test_other_options_for_a_path_are_refused(begun, tmp_path):
    path = f"{begun['default_local_dir']}/global_step_1/"
    other = {"default_local_dir": str(tmp_path / "new"), "resume_mode": "resume_path", "resume_from_path": path}
    check_resumed(other, spec_of({"weight": 0.1}))
    with pytest.raises(InvalidInputError, match="weight was"):
        check_resumed(other, spec_of({"weight": 0.3}))


def test_a_training_that_begins_anew_may_have_any_options(begun, tmp_path):
    check_resumed({**begun, "resume_mode": "disable"}, spec_of({"weight": 0.3}))
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    check_resumed(begun, spec_of({"weight": 0.3}))


def test_an_option_that_did_not_exist_had_its_default(begun, tmp_path):
    path = tmp_path / "checkpoints" / FILE
    stored = json.loads(path.read_text())
    del stored["undefined"]
    path.write_text(json.dumps(stored))
    check_resumed(begun, spec_of({"weight": 0.1}))
    path.unlink()
    check_resumed(begun, spec_of({"weight": 0.3}))
