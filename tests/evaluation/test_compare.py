"""`compare`: differences by hand, what does not match is refused, tables in every format."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.evaluation.compare import compare
from antiphase.evaluation.comparison import Options, compare_entrants
from antiphase.evaluation.comparison_formats import (
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    render_comparison,
)
from antiphase.evaluation.entrants import entrants_of
from antiphase.statistics.paired import paired_difference
from evaluation_cases import scored

LEFT = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]]
RIGHT = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]]
OTHER = [[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]


@pytest.fixture(scope="module")
def runs(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, pattern, seed in (("left-0", LEFT, 0), ("right-0", RIGHT, 0), ("right-1", OTHER, 1)):
        scored(model_dir, pattern, out=folder / name, seed=seed)
    scored(model_dir, LEFT[:5], out=folder / "fewer")
    scored(model_dir, LEFT, out=folder / "last", estimators="last")
    scored(model_dir, LEFT, out=folder / "one-layer", layers="last")
    scored(model_dir, LEFT, out=folder / "min-tokens", min_tokens=4)
    scored(model_dir, [row[:2] for row in LEFT], out=folder / "more")
    scored(model_dir, LEFT, out=folder / "asked", prompt_template="Compute {prompt}")
    scored(model_dir, LEFT, out=folder / "left-1", seed=1)
    return folder


def test_difference_by_hand(runs):
    found = compare([f"a={runs / 'left-0'}", f"b={runs / 'right-0'}"])
    (task,) = found.tasks.values()
    first, second = task["entrants"]
    left, right = np.array(LEFT).mean(1)[None], np.array(RIGHT).mean(1)[None]
    assert task["reference"] == "a"
    assert first["differences"] == {}
    assert first["values"]["accuracy"]["value"] == pytest.approx(left.mean())
    expected = paired_difference(right, left, paired_seeds=False).to_dict()
    for key, value in expected.items():
        got = second["differences"]["accuracy"][key]
        assert got == (pytest.approx(value) if isinstance(value, float) else value)
    assert not second["differences"]["accuracy"]["seeds_covered"]
    assert second["differences"]["length"]["verdict"] is None
    assert second["values"]["pass@4"]["value"] == pytest.approx(5 / 6)


def test_seeds(runs):
    found = compare([f"a={runs / 'left-0'},{runs / 'left-1'}", f"b={runs}/right-*"], Options(paired_seeds=True))
    (task,) = found.tasks.values()
    left = np.array([np.array(LEFT).mean(1)] * 2)
    right = np.array([np.array(RIGHT).mean(1), np.array(OTHER).mean(1)])
    expected = paired_difference(right, left, paired_seeds=True)
    got = task["entrants"][1]["differences"]["accuracy"]
    assert got["difference"] == pytest.approx(expected.difference)
    assert got["low"] == pytest.approx(expected.low)
    assert got["seeds_covered"]
    assert task["entrants"][1]["num_seeds"] == 2
    with pytest.raises(InvalidInputError, match="share no seed"):
        compare([f"a={runs / 'left-0'}", f"b={runs / 'right-1'}"], Options(paired_seeds=True))


def test_reference(runs):
    entries = [f"a={runs / 'left-0'}", f"b={runs / 'right-0'}"]
    (task,) = compare(entries, Options(reference="b")).tasks.values()
    assert task["reference"] == "b"
    assert set(task["entrants"][0]["differences"]) > {"accuracy", "pass@4", "inversion"}
    with pytest.raises(InvalidInputError, match="the reference 'c' is none of the compared models or methods: a, b"):
        compare(entries, Options(reference="c"))


@pytest.mark.parametrize(
    ("other", "message"),
    {
        "fewer": "prompts: the problems differ",
        "last": "signals: estimator is 'own' and 'last'",
        "asked": "prompts: prompt_template is",
        "one-layer": "signals: chosen_layers is 'all' and 'last'",
        "min-tokens": "signals: min_tokens is 8 and 4",
        "more": "budget: 4 and 2 samples of a problem",
    }.items(),
)
def test_what_does_not_match_is_refused(runs, other, message):
    entries = [f"a={runs / 'left-0'}", f"b={runs / other}"]
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        compare(entries)
    (task,) = compare(entries, Options(allow_mismatch=True)).tasks.values()
    assert task["num_problems"] == (5 if other == "fewer" else 6)


def test_another_verifier_is_refused(runs, tmp_path):
    shutil.copytree(runs / "right-0", tmp_path / "old")
    summary = json.loads((tmp_path / "old" / "summary.json").read_text())
    summary["versions"]["math-verify"] = "0.1"
    (tmp_path / "old" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InvalidInputError, match=r"verifier: math-verify [\d.]+ and 0\.1"):
        compare([f"a={runs / 'left-0'}", f"b={tmp_path / 'old'}"])


def test_bad_entries(runs, tmp_path, model_dir):
    good = str(runs / "left-0")
    cases = {
        "at least two models or methods": [good],
        "matches nothing": [good, f"b={runs}/nothing-*"],
        "twice; seeds must be different": [f"a={good},{good}/", f"b={runs / 'right-0'}"],
        "two entrants are called 'x'": [f"x={good}", f"x={runs / 'right-0'}"],
        "is no folder of an evaluation": [good, str(model_dir)],
        "names an empty run": [good, f"b={runs / 'right-0'},"],
    }
    for message, entries in cases.items():
        with pytest.raises(InvalidInputError, match=message):
            compare(entries)
    with pytest.raises(InvalidInputError, match="smallest must be a difference between"):
        Options(smallest=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="holds files that compare does not write"):
        compare([f"a={good}", f"b={runs / 'right-0'}"], out=tmp_path)
    shutil.copytree(runs / "left-0", tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    with pytest.raises(InvalidInputError, match="unfinished run of an evaluation"):
        compare([f"a={good}", f"b={tmp_path / 'cut'}"])


def test_models_are_evaluated_first(model_dir, runs, tmp_path):
    from evaluation_cases import TASK

    words = [
        "compare",
        str(model_dir),
        f"copy={model_dir}/.",
        "--tasks",
        TASK,
        "--num-problems",
        "2",
        "--samples",
        "2",
    ]
    words += ["--max-new-tokens", "10", "--out", str(tmp_path / "out"), "--quiet", "--num-resamples", "20"]
    assert main(words) == 0
    (task,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["tasks"].values()
    difference = task["entrants"][1]["differences"]["accuracy"]
    assert difference["difference"] == 0
    assert difference["verdict"] == "not enough data"
    assert len(list((tmp_path / "out" / "evals").iterdir())) == 2
    # Again: nothing is generated anew.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "evals").rglob("summary.json")}
    assert main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "evals").rglob("summary.json")}


@pytest.fixture(scope="module")
def many(runs):
    names = ["left-0", "right-0", "right-1", "left-1"]
    evaluations = [entrants_of(f"m|{name}_%&", [load(runs / name)]) for name in names]
    return compare_entrants([entrant for own in evaluations for entrant in own], Options(num_resamples=200))


def load(path):
    from antiphase.evaluation.result import Evaluation

    return Evaluation.load(path)


def test_across(many):
    (task,) = many.tasks.values()
    assert task["across"]["inversion_within"]["num_points"] == 4
    # A random permutation cannot be rarer than 1 in 4!.
    assert task["across"]["inversion_within"]["p_value"] >= 1 / 24
    assert set(task["across"]) == set(many.points[0]) - {"entrant", "task", "seed", "accuracy"}


def test_formats(many):
    markdown = comparison_markdown(many)
    lines = [line for line in markdown.splitlines() if line.startswith("| m\\|")]
    assert len(lines) == 4
    assert all(len(re.split(r"(?<!\\)\|", line)) == 15 for line in lines)
    rows = list(csv.DictReader(io.StringIO(comparison_csv(many))))
    (task,) = many.tasks.values()
    accuracies = [float(row["value"]) for row in rows if row["metric"] == "accuracy"]
    assert accuracies == [entrant["values"]["accuracy"]["value"] for entrant in task["entrants"]]
    latex = comparison_latex(many)
    assert r"m|left-0\_\%\&" in latex
    assert latex.count(r"\\") == 5
    assert latex.count("{") == latex.count("}")
    text = render_comparison(many)
    assert "m|left-0_%&" in text
    assert "detectable" in text
    assert "without a correction" in text


def test_command(runs, tmp_path, capsys):
    words = ["compare", f"a={runs / 'left-0'}", f"b={runs / 'right-0'}", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "against" not in shown
    assert "difference: accuracy minus that of a," in shown
    for name in ("comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "figures/differences.png"):
        assert (tmp_path / "out" / name).is_file()
    assert main(["compare", f"a={runs / 'left-0'}", f"b={runs / 'fewer'}", "--out", str(tmp_path / "no")]) == 2
    assert "--allow-mismatch" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_runs_of_one_seed_are_paired_by_place(model_dir, tmp_path):
    for name, pattern in (("a-2", LEFT), ("a-10", RIGHT), ("b-2", RIGHT), ("b-10", OTHER)):
        scored(model_dir, pattern, out=tmp_path / name)
    (task,) = compare([f"a={tmp_path}/a-*", f"b={tmp_path}/b-*"], Options(paired_seeds=True)).tasks.values()
    left, right = (np.array([np.array(p).mean(1) for p in side]) for side in ((RIGHT, OTHER), (LEFT, RIGHT)))
    expected = paired_difference(left, right, paired_seeds=True)
    assert task["entrants"][1]["differences"]["accuracy"]["low"] == pytest.approx(expected.low)
    with pytest.raises(InvalidInputError, match=r"different numbers of runs \(1 and 2\)"):
        compare([f"a={tmp_path}/a-*", f"b={tmp_path}/b-2"], Options(paired_seeds=True))


def test_budgets_of_generated_rollouts(model_dir, tmp_path):
    from antiphase.evaluation.evaluate import evaluate
    from evaluation_cases import TASK

    plain = {
        "tasks": (TASK,),
        "num_problems": 2,
        "samples": 1,
        "max_new_tokens": 9,
        "progress": False,
        "figures": False,
    }
    for name, changes in (("a", {}), ("b", {"temperature": 0.5}), ("c", {"max_new_tokens": 10})):
        evaluate(str(model_dir), out=tmp_path / name, num_resamples=10, **{**plain, **changes})
    with pytest.raises(InvalidInputError, match=r"budget: temperature is 1\.0 and 0\.5"):
        compare([f"a={tmp_path}/a", f"b={tmp_path}/b"])
    with pytest.raises(InvalidInputError, match="budget: max_new_tokens is 9 and 10"):
        compare([f"a={tmp_path}/a", f"b={tmp_path}/c"])


def test_figures_hide_empty_panels(many):
    from antiphase.figures.differences import method_differences

    (task,) = many.tasks.values()
    figure = method_differences({f"task {number}": task for number in range(4)}, 0.05)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
    row = task["entrants"][1]["differences"]["accuracy"]
    shown = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert row["difference"] in shown
