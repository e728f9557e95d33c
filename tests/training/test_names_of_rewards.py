"""Names that reward functions give and log, and that antiphase has too: refused, since TRL would mix their numbers."""

import pyarrow.parquet as parquet
import pytest

from antiphase.errors import InvalidInputError
from antiphase.training.batch_checks import check_metrics, check_names
from training_cases import parity, run

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def named(name):
    def function(completions, **_):
        return parity(completions)

    function.__name__ = name
    return function


def logging(*, column=None, metric=None):
    def function(completions, log_extra, log_metric, **_):
        if column is not None:
            log_extra(column, ["mine"] * len(completions))
        if metric is not None:
            log_metric(metric, 77.0)
        return parity(completions)

    return function


def test_a_function_of_the_name_of_the_reward(tmp_path):
    with pytest.raises(InvalidInputError, match=r"a reward function has the name 'inversion'.* Rename the function"):
        run(tmp_path, rewards=[parity, named("inversion")], train=False)


def test_functions_of_the_names_of_columns(tmp_path):
    for name in ("entropy", "strength"):
        with pytest.raises(InvalidInputError, match=f"'{name}'.* column of the table of completions"):
            check_names(["parity", name], log_completions=True)
    run(tmp_path, rewards=[named("entropy")], max_steps=1)  # without the table there is no clash


@pytest.mark.parametrize("column", ["inversion", "entropy", "strength"])
def test_a_column_of_the_same_name(tmp_path, column):
    with pytest.raises(InvalidInputError, match=f"logs the column '{column}' with log_extra"):
        run(tmp_path, rewards=[logging(column=column)], max_steps=1)


@pytest.mark.parametrize("metric", ["task/mean", "inversion/weight", "rollout/length", "rewards/inversion/mean"])
def test_a_metric_of_the_same_name(tmp_path, metric):
    with pytest.raises(InvalidInputError, match=f"logs the metric '{metric}' with log_metric"):
        run(tmp_path, rewards=[logging(metric=metric)], max_steps=1)


def test_metrics_of_evaluations():
    for name in ("heldout/pass@1", "probe/spearman"):
        with pytest.raises(InvalidInputError, match=name):
            check_metrics([name], ["task/mean"])
    check_metrics(["task/my_own", "heldouts", "accuracy/no_answer"], ["task/mean"])


def test_other_names_are_logged_beside_ours(tmp_path):
    rewards = [logging(column="note", metric="task/my_own")]
    trainer = run(tmp_path, rewards=rewards, max_steps=1, log_completions=True)
    assert trainer.state.log_history[0]["task/my_own"] == 77.0
    table = parquet.read_table(tmp_path / "completions" / "completions_00001.parquet").to_pydict()
    assert table["note"] == ["mine"] * 8
    scores = trainer._measured.scores
    for name in ("inversion", "entropy", "strength"):
        assert table[name] == pytest.approx(getattr(scores, name).tolist())


def test_an_undefined_score_is_empty_in_the_table(tmp_path):
    run(tmp_path, max_steps=1, log_completions=True, max_completion_length=3)
    table = parquet.read_table(tmp_path / "completions" / "completions_00001.parquet").to_pydict()
    assert all(value is None or value != value for value in table["inversion"])
    assert all(value > 0 for value in table["entropy"])
