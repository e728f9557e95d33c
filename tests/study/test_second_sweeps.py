"""The sweeps of the second study: they are read, their budgets are equal, and no test seed is a tuning seed."""

from pathlib import Path

import pytest
import yaml

from antiphase.study.budget import check_budgets
from antiphase.study.definition import read_study

SECOND = Path(__file__).parents[2] / "studies" / "second"
SWEEPS = sorted(path for path in SECOND.glob("*.yaml") if "methods" in yaml.safe_load(path.read_text()))
TUNING = ("tiny-tuning", "tiny-finals")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_can_be_run(path, tmp_path):
    study = read_study(path)
    assert study.reference in study.methods
    # This resolves the recipe of every method, and refuses unequal budgets.
    assert len({budget.learning_rate for budget in check_budgets(study, tmp_path).values()}) == 1 or study.tuned


def test_tuning_and_tests_share_neither_seeds_nor_problems():
    studies = {path.stem: read_study(path) for path in SWEEPS}
    tuning = [studies[name] for name in TUNING if name in studies]
    tests = [study for name, study in studies.items() if name not in TUNING]
    assert tuning
    assert not {cell.seed for study in tuning for cell in study.cells} & {
        cell.seed for study in tests for cell in study.cells
    }
    assert {cell.evaluation["split"] for study in tuning for cell in study.cells} == {"train"}
    assert not [study.name for study in tests for cell in study.cells if "split" in cell.evaluation]


def test_the_paper_study_and_ours_on_qwen_have_the_same_training():
    ours, paper = (
        yaml.safe_load((SECOND.parent / name / "qwen3-1.7b.yaml").read_text()) for name in ("second", "paper")
    )
    assert {key: ours[key] for key in ("models", "train", "eval")} == {
        key: paper[key] for key in ("models", "train", "eval")
    }
