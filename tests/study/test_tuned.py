"""A study whose methods have learning rates of their own must say that they were tuned, and its report names them."""

import pytest
import yaml
from test_study import content

from antiphase.errors import InvalidInputError
from antiphase.study.budget import check_budgets
from antiphase.study.definition import read_study

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
METHODS = {"slow": {"preset": "dapo", "learning_rate": 1e-5}, "fast": {"preset": "dapo", "learning_rate": "3e-5"}}


def study(folder, compare):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content(folder / "model", methods=METHODS, compare=compare)))
    return read_study(path)


def test_learning_rates_may_differ_only_where_the_study_says_so(tmp_path):
    with pytest.raises(InvalidInputError, match=r"learning_rate is .*compare: {tuned: \[learning_rate"):
        check_budgets(study(tmp_path, {}), tmp_path)
    found = check_budgets(study(tmp_path, {"tuned": ["learning_rate"]}), tmp_path)
    assert {name.split(".")[2]: budget.learning_rate for name, budget in found.items()} == {"slow": 1e-5, "fast": 3e-5}


def test_what_is_tuned_is_part_of_the_studys_digest(tmp_path):
    plain, tuned = study(tmp_path, {}), study(tmp_path, {"tuned": ["learning_rate"]})
    assert plain.digest() != tuned.digest()
    assert [cell.digest() for cell in plain.cells] == [cell.digest() for cell in tuned.cells]
