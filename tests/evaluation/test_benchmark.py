"""The table of several tasks: Pass@1, Pass@k, Major@k and their average, by hand, simulated, in every format."""

import csv
import io
import json
import math

import numpy as np
import pytest

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.evaluation.benchmark import average_difference, average_of_shares
from antiphase.evaluation.compare import compare
from antiphase.evaluation.comparison import Options
from antiphase.evaluation.comparison_formats import (
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    render_comparison,
)
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.result import Evaluation
from antiphase.statistics.estimate import Estimate, average_interval, share_interval
from evaluation_cases import write_rows

NAMES = ("aime24", "math500", "gsm8k")
# For each task, for each problem, the answers of four samples; the reference is 7 everywhere.
ANSWERS = {
    "aime24": [[7, 1, 2, 3], [1, 1, 2, 3]],
    "math500": [[7, 7, 7, 1], [7, 7, 1, 1], [1, 1, 1, 7]],
    "gsm8k": [[7, 7, 7, 7]],
}
# Pass@1, Pass@4, Major@4 of each problem, by hand. Ties share: of two answers a half, of four a quarter.
BY_HAND = {
    "aime24": [(0.25, 1, 0.25), (0, 0, 0)],
    "math500": [(0.75, 1, 1), (0.5, 1, 0.5), (0.25, 1, 0)],
    "gsm8k": [(1, 1, 1)],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    return {
        name: write_rows(
            folder / f"{name}.jsonl",
            [
                {"id": f"{name}-{i}", "question": f"{name}, question {i}: what is {i} + 7 - {i}?", "answer": "7"}
                for i in range(len(ANSWERS[name]))
            ],
        )
        for name in NAMES
    }


def suite(files):
    return "paper:" + ",".join(f"{name}={path}" for name, path in files.items())


def rows_of(files, answers=None):
    rows = []
    for name in NAMES:
        for line, samples in zip(files[name].read_text().splitlines(), (answers or ANSWERS)[name], strict=True):
            for sample, answer in enumerate(samples):
                text = f"So it must be \\boxed{{{answer}}}. And so on."
                question = json.loads(line)["question"]
                rows.append(
                    {"question": question, "task": f"{name}:file={files[name]}", "completion": text, "sample": sample}
                )
    return rows


def scored(model_dir, files, out=None, answers=None, **options):
    plain = {"suite": suite(files), "progress": False, "figures": False, "num_resamples": 20, **options}
    return evaluate(str(model_dir), rollouts=rows_of(files, answers), out=out, **plain)


def test_the_suite_asks_for_sixteen_samples(files):
    assert EvalConfig(("m",), suite="paper").samples == 16
    assert EvalConfig(("m",), suite="paper", samples=2).samples == 2
    assert EvalConfig(("m",), suite="math").samples == 4
    assert EvalConfig(("m",), tasks=("gsm8k",)).samples == 4
    for text, message in (
        ("papr", "unknown suite 'papr'. Did you mean 'paper'"),
        ("paper:aime=x.jsonl", "has no set 'aime'. Did you mean 'aime24'"),
        ("smoke:sums=x.jsonl", "A local copy can be given for: gsm8k"),
        ("paper:aime24=", "not of the form key=value"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            evaluate("m", suite=text, progress=False)


def test_the_table_by_hand(model_dir, files):
    found = scored(model_dir, files)
    table = found.summary["benchmark"]
    assert table["metrics"] == ["accuracy", "pass@4", "maj@4", "three@4"]
    rows = {row["task"].partition(":")[0]: row["values"] for row in table["rows"]}
    means = {name: np.mean(values, axis=0) for name, values in BY_HAND.items()}
    for name in NAMES:
        expected = [*means[name], np.mean(means[name])]
        assert [rows[name][metric]["value"] for metric in table["metrics"]] == pytest.approx(expected)
    # Each task has the same weight, though they have 2, 3 and 1 problems.
    average = np.mean([means[name] for name in NAMES], axis=0)
    expected = [*average, average.mean()]
    assert [rows["average"][metric]["value"] for metric in table["metrics"]] == pytest.approx(expected)
    assert rows["average"]["accuracy"]["num_problems"] == 6
    shares = [np.array([problem[0] for problem in BY_HAND[name]], dtype=float) for name in NAMES]
    estimate = average_interval([share_interval(values) for values in shares])
    assert rows["average"]["accuracy"] == pytest.approx(estimate.to_dict())
    printed = str(found)
    (line,) = [line for line in printed.splitlines() if " average " in line]
    assert f"{expected[0]:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" in line
    assert "Pass@1 [95 %]" in printed
    assert "Major@4 [95 %]" in printed
    document = found.document()
    assert [row[1] for row in document.tables[0].rows] == [*NAMES, "average"]


def test_the_average_interval_by_hand():
    parts = [Estimate(0.2, 0.1, 0.4, 30), Estimate(0.8, 0.7, 0.9, 500)]
    average = average_interval(parts)
    assert average.value == pytest.approx(0.5)
    assert average.low == pytest.approx(0.5 - math.hypot(0.1, 0.1) / 2)
    assert average.high == pytest.approx(0.5 + math.hypot(0.2, 0.1) / 2)
    assert average.num_problems == 530
    assert not average_interval([*parts, share_interval(np.array([]))]).defined
    with pytest.raises(InvalidInputError, match="at least one task"):
        average_interval([])


def test_a_task_without_samples_leaves_no_average(model_dir, files):
    rows = rows_of(files)
    for row in rows:
        if row["task"].startswith("gsm8k"):
            row["greedy"] = row.pop("sample") == 0
    rows = [row for row in rows if row.get("greedy", True)]
    options = {"suite": suite(files), "progress": False, "num_resamples": 20}
    table = evaluate(str(model_dir), rollouts=rows, **options).summary["benchmark"]
    values = {row["task"].partition(":")[0]: row["values"]["accuracy"]["value"] for row in table["rows"]}
    assert values["aime24"] is not None
    assert values["gsm8k"] is None
    assert values["average"] is None


def test_one_task_has_no_table(model_dir, files):
    path = files["math500"]
    rows = [row for row in rows_of(files) if row["task"].startswith("math500")]
    found = evaluate(str(model_dir), rollouts=rows, tasks=(f"math500:file={path}",), progress=False, num_resamples=20)
    assert found.summary["benchmark"] is None
    assert "Major@" not in str(found)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_coverage_of_the_average(num_seeds):
    """95 % intervals over problems, and over seeds that all tasks share, cover 92 to 99 % of 400 benchmarks."""
    generator = np.random.default_rng(0)
    sizes, means, samples = (30, 100, 200), (0.15, 0.6, 0.9), 16
    spread = 0.03  # of seeds, the same for all tasks
    covered = covered_difference = 0
    for _ in range(400):
        seeds = generator.normal(scale=spread, size=num_seeds) if num_seeds > 1 else np.zeros(1)
        sides = []
        for shift in (seeds, generator.normal(scale=spread, size=num_seeds) if num_seeds > 1 else np.zeros(1)):
            side = []
            for size, mean in zip(sizes, means, strict=True):
                difficulty = generator.beta(2 * mean, 2 * (1 - mean), size=size)
                rates = np.clip(difficulty[None] * (1 - 0.1) + 0.1 * mean + shift[:, None], 0, 1)
                side.append(generator.binomial(samples, rates) / samples)
            sides.append(side)
        truth = np.mean(means)
        found = average_of_shares(sides[0])
        covered += found["low"] <= truth <= found["high"]
        gap = average_difference(sides[0], sides[1], Options())
        covered_difference += gap["low"] <= 0 <= gap["high"]
        assert gap["seeds_covered"] == (num_seeds > 1)
    print(num_seeds, covered / 400, covered_difference / 400)
    assert 0.92 <= covered / 400 <= 0.99
    assert 0.92 <= covered_difference / 400 <= 0.99


def test_a_difference_without_variance_is_not_certain():
    alike = [np.ones((1, 30)), np.zeros((1, 40))]
    found = average_difference(alike, alike, Options())
    assert found["difference"] == 0
    assert found["low"] < -0.01
    assert found["high"] > 0.01
    assert found["probability_of_improvement"] == pytest.approx(0.5)


def test_one_seed_agrees_with_the_paired_difference_of_one_task():
    from antiphase.statistics.paired import paired_difference

    generator = np.random.default_rng(1)
    left, right = generator.random((2, 1, 80))
    alone = paired_difference(left, right, paired_seeds=False)
    found = average_difference([left], [right], Options())
    assert found["difference"] == pytest.approx(alone.difference)
    assert found["minimum_detectable"] == pytest.approx(alone.minimum_detectable)
    assert found["low"] == pytest.approx(alone.low, abs=0.01)


def test_methods_are_compared_on_the_average(model_dir, files, tmp_path):
    better = {name: [[7, 7, *samples[2:]] for samples in problems] for name, problems in ANSWERS.items()}
    for name, answers in (("a", None), ("b", better)):
        scored(model_dir, files, tmp_path / name, answers, report=False)
    comparison = compare(
        [f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"], Options(num_resamples=200), out=tmp_path / "c", figures=False
    )
    table = comparison.benchmarks[""]
    assert table["reference"] == "a"
    (row,) = [row for row in table["rows"] if "differences" in row]
    assert (row["name"], row["task"]) == ("b", "average")
    # b gains 1/4 and 1/2 on aime24, 0, 0 and 1/2 on math500, 0 on gsm8k.
    expected = ((0.25 + 0.5) / 2 + (0 + 0 + 0.5) / 3 + 0) / 3
    assert row["differences"]["accuracy"]["difference"] == pytest.approx(expected)
    for text in (
        render_comparison(comparison),
        comparison_markdown(comparison),
        comparison_latex(comparison),
        (tmp_path / "c" / "report.html").read_text(),
    ):
        assert "Major@4" in text
        assert "average" in text
        assert "ifference of the averages from a" in text
    lines = [row for row in csv.DictReader(io.StringIO(comparison_csv(comparison))) if row["task"] == "average"]
    assert {(line["method"], line["metric"]) for line in lines} == {
        (method, metric) for method in "ab" for metric in ("accuracy", "pass@4", "maj@4", "three@4")
    }
    (line,) = [line for line in lines if (line["method"], line["metric"]) == ("b", "accuracy")]
    assert float(line["difference"]) == pytest.approx(expected)
    stored = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert stored["benchmarks"][""]["rows"][-1]["task"] == "average"


def test_a_model_runs_the_suite_offline(model_dir, files, tmp_path, capsys):
    words = ["--suite", suite(files), "--num-problems", "1", "--max-new-tokens", "3", "--batch-size", "16"]
    options = ["--no-greedy", "--estimator", "none", "--no-figures", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["eval", str(model_dir), *words, *options]) == 0
    assert "Pass@16 [95 %]" in capsys.readouterr().out
    found = Evaluation.load(tmp_path / "run")
    assert found.summary["config"]["samples"] == 16
    assert found.rollouts.groupby("task").size().tolist() == [16, 16, 16]
    assert found.summary["benchmark"]["metrics"] == ["accuracy", "pass@16", "maj@16", "three@16"]
    again = evaluate(
        str(model_dir), out=tmp_path / "run", resume=True, progress=False, suite=suite(files), num_problems=1,
        max_new_tokens=3, batch_size=16, greedy=False, estimators=("none",),
    )  # fmt: skip
    assert again.summary["benchmark"] == found.summary["benchmark"]
