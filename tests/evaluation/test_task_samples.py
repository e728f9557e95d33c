"""Samples and k of each task: what a spec says, what it leaves alone, and what the tables show."""

from dataclasses import replace

import pytest

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.evaluation_table import _columns
from antiphase.evaluation.plan import plan_tasks
from antiphase.evaluation.result import Evaluation
from antiphase.study.reach import count_problems
from antiphase.tasks import suites
from antiphase.tasks.registry import load_task
from antiphase.tasks.suites import SuiteEntry, asked_entry
from evaluation_cases import TASK

SUMS = "sums:digits=1|1"
SMALL = {
    "num_problems": 3,
    "samples": 2,
    "max_new_tokens": 10,
    "batch_size": 4,
    "progress": False,
    "figures": False,
    "num_resamples": 20,
}


def config(*tasks, **options):
    return EvalConfig(models=("m",), tasks=tasks, **options)


def test_a_spec_without_its_samples_is_the_task() -> None:
    assert asked_entry("gsm8k") == SuiteEntry("gsm8k")
    assert asked_entry("gsm8k:samples=4") == SuiteEntry("gsm8k", samples=4)
    assert asked_entry("sums:k=1|8,digits=1|1,samples=8") == SuiteEntry("sums:digits=1|1", samples=8, k=(1, 8))
    assert asked_entry("mine.py:MyTask:size=3,samples=2") == SuiteEntry("mine.py:MyTask:size=3", samples=2)


def test_a_spec_wins_over_the_options() -> None:
    found = config(f"{TASK},samples=4", f"{SUMS},samples=64,k=1|8|64", "chain_sum", samples=6, k=(1, 5)).entries()
    assert [(entry.samples, entry.k) for entry in found] == [(4, (1, 5)), (64, (1, 8, 64)), (6, (1, 5))]
    asked = config(f"{TASK},samples=4", f"{SUMS},samples=64,k=1|8|64", "chain_sum", samples=6, k=(1, 5))
    # A k of all tasks counts as far as a task has samples.
    assert asked.ks(TASK, 4) == (1,)
    assert asked.ks(SUMS, 64) == (1, 8, 64)
    assert asked.ks("chain_sum", 6) == (1, 5)
    assert config(f"{TASK},samples=6").ks(TASK, 6) == (1, 2, 4, 6)


def test_suites_say_samples_and_k(monkeypatch) -> None:
    assert EvalConfig(models=("m",), suite="paper").samples == 16
    monkeypatch.setitem(suites.SUITES, "two", (SuiteEntry(TASK, 3, samples=8, k=(1, 8)), SuiteEntry(SUMS, 3)))
    plain = EvalConfig(models=("m",), suite="two")
    assert [(entry.samples, entry.k) for entry in plain.entries()] == [(8, (1, 8)), (4, None)]
    # Options win over the suite; a k that no longer fits is left out.
    fewer = EvalConfig(models=("m",), suite="two", samples=2)
    assert [(entry.samples, entry.k) for entry in fewer.entries()] == [(2, (1, 8)), (2, None)]
    assert fewer.ks(TASK, 2) == (1,)


def test_the_task_stays_the_same() -> None:
    plain, more = (plan_tasks(config(task, num_problems=4))[0] for task in (TASK, f"{TASK},samples=9"))
    assert more.problems == plain.problems == tuple(load_task(TASK).problems("test", 4, 0))
    assert more.task == plain.task
    options = config(TASK)
    differing = {key for key, value in plain.identity(options).items() if more.identity(options)[key] != value}
    assert differing == {"samples"}
    assert replace(more, samples=4) == plain


def test_a_study_counts_them() -> None:
    counts = count_problems(config(f"{TASK},samples=9", SUMS, num_problems=2), dry_run=False)
    assert [(count.spec, count.samples) for count in counts] == [(TASK, 9), (SUMS, 4)]


def test_an_own_task_with_such_an_option_is_refused(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom antiphase.tasks import QuestionTask\n"
        "@dataclass(frozen=True)\nclass Mine(QuestionTask):\n    k: int = 3\n"
        "    def questions(self):\n        return [(f'{i}?', str(i)) for i in range(40)]\n"
        "    def is_right(self, answer, problem):\n        return answer == problem.answer\n"
    )
    with pytest.raises(
        InvalidInputError, match=r"a task cannot have an option of this name\. Rename the parameter 'k'"
    ):
        plan_tasks(config(f"{path}:Mine"))


def test_every_k_that_was_chosen_has_a_column() -> None:
    metrics = dict.fromkeys(("avg@8", "pass@1", "pass@2", "pass@4", "pass@8", "maj@4", "maj@8", "greedy"))
    assert _columns(metrics, (1, 2, 8)) == ("avg@8", "pass@2", "pass@8", "maj@8")
    assert _columns(metrics, None) == ("avg@8", "pass@8", "maj@8")
    assert _columns({"greedy": None}, (1, 2)) == ()


@pytest.fixture(scope="module")
def mixed(model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "run"
    tasks = (f"{TASK},samples=5,k=1|4", SUMS, "chain_sum:samples=0")
    return evaluate(str(model_dir), tasks=tasks, out=out, **SMALL), out


def test_each_task_has_its_own_numbers(mixed) -> None:
    found, out = mixed
    by_task = {entry["task"]: entry for entry in found.summary["results"]}
    assert list(by_task) == [TASK, SUMS, "chain_sum"]
    assert [entry["num_samples"] for entry in by_task.values()] == [5, 2, 0]
    assert [entry["identity"]["samples"] for entry in by_task.values()] == [5, 2, 0]
    assert {"avg@5", "pass@1", "pass@4", "maj@4"} <= set(by_task[TASK]["metrics"])
    assert not {"pass@2", "pass@5"} & set(by_task[TASK]["metrics"])
    assert [name for name in by_task["chain_sum"]["metrics"] if "@" in name] == []
    assert set(by_task[TASK]["inside"]["best_of"]) == {"4"}
    assert Evaluation.load(out).rollouts.task.value_counts().to_dict() == {TASK: 18, SUMS: 9, "chain_sum": 3}


def test_tables_without_empty_columns(mixed) -> None:
    lines = str(mixed[0]).splitlines()
    heads = [line.split()[:10] for line in lines if "form" in line and "greedy" in line]
    plain = [[word for word in head if word not in ("[95", "%]")] for head in heads]
    assert plain[0] == ["model", "task", "problems", "avg@5", "greedy", "pass@4", "maj@4"][: len(plain[0])]
    assert "avg@2" in heads[1]
    assert not any("@" in word for word in heads[2])
    assert not any("@k" in line for line in lines if "Pass@k:" not in line)


def test_the_seeds_of_other_tasks_stay(mixed, model_dir) -> None:
    found, _ = mixed
    alone = evaluate(str(model_dir), tasks=(TASK, SUMS), estimators="none", **SMALL)
    other = found.rollouts[found.rollouts.task == SUMS].completion.tolist()
    assert alone.rollouts[alone.rollouts.task == SUMS].completion.tolist() == other
    own = found.rollouts[(found.rollouts.task == TASK) & ~found.rollouts.greedy]
    assert own.completion.nunique() > 3


def test_resume_refuses_another_number(mixed, model_dir) -> None:
    with pytest.raises(InvalidInputError, match="tasks was"):
        evaluate(str(model_dir), tasks=(f"{TASK},samples=4,k=1|4", SUMS), out=mixed[1], resume=True, **SMALL)
