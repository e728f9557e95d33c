"""The problems that one model solves and the other does not: by hand, against simulation, in CSV and on the page."""

import csv
import io
import itertools
import math

import numpy as np
import pytest

from antiphase.cli import main
from antiphase.evaluation.compare import compare
from antiphase.evaluation.disagreement_tables import disagreement_tables
from antiphase.evaluation.disagreements import disagreements, disagreements_csv, excerpt
from antiphase.evaluation.entrants import entrants_of
from antiphase.evaluation.entries import Options
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_pages import comparison_document
from antiphase.page.html import render_page
from antiphase.statistics.accuracy import chance_of_unequal_shares
from evaluation_cases import TASK, given, problems, scored

LEFT = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
RIGHT = [[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]


@pytest.fixture(scope="module")
def runs(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    scored(model_dir, LEFT, out=folder / "left")
    scored(model_dir, RIGHT, out=folder / "right")
    scored(model_dir, RIGHT[:2], out=folder / "fewer")
    scored(model_dir, [row[:1] for row in LEFT], out=folder / "left-1")
    scored(model_dir, [row[:1] for row in RIGHT], out=folder / "right-1")
    scored(model_dir, [row[:3] for row in RIGHT], out=folder / "right-3")
    return folder


def load(path):
    from antiphase.evaluation.result import Evaluation

    return Evaluation.load(path)


def between(*paths, **options):
    entrants = [one for path in paths for one in entrants_of(path.name, [load(path)])]
    return disagreements(entrants, Options(num_resamples=100, **options))


def test_problems_by_hand(runs) -> None:
    (found,) = between(runs / "left", runs / "right")
    names = [problem.problem_id for problem in problems(5)]
    assert (found.reference, found.model, found.task, found.num_problems) == ("left", "right", TASK, 5)
    assert [(row.problem_id, row.difference) for row in found.problems] == [
        (names[2], -1.0), (names[0], 0.5), (names[4], 0.25)
    ]  # fmt: skip
    first, second = found.problems[:2]
    assert [id for _, id in first.reference.rollouts] == [f"{TASK}/{names[2]}/{sample}" for sample in range(4)]
    assert [id for _, id in second.reference.rollouts] == [f"{TASK}/{names[0]}/{sample}" for sample in (2, 3)]
    assert [id for _, id in second.model.rollouts] == [f"{TASK}/{names[0]}/{sample}" for sample in range(4)]
    assert found.paired["difference"] == pytest.approx((2 + 0 - 4 + 0 + 1) / 20)
    chances = [chance_of_unequal_shares(sum(left), 4, sum(right), 4) for left, right in zip(LEFT, RIGHT, strict=True)]
    assert found.by_chance == pytest.approx(sum(chances))


def test_another_reference_turns_the_signs(runs) -> None:
    (found,) = between(runs / "left", runs / "right", reference="right")
    assert [row.difference for row in found.problems] == [1.0, -0.5, -0.25]


def test_only_problems_of_both(runs) -> None:
    (found,) = between(runs / "left", runs / "fewer")
    assert found.num_problems == 2
    assert len(found.problems) == 1


def test_a_single_completion_tells_no_chance(runs) -> None:
    (found,) = between(runs / "left-1", runs / "right-1")
    assert found.by_chance is None
    assert [row.difference for row in found.problems] == [1.0, -1.0, -1.0]


def test_numbers_without_a_common_divisor_tell_no_chance(runs) -> None:
    (found,) = between(runs / "left", runs / "right-3")
    assert found.by_chance is None
    for right in range(4):
        assert chance_of_unequal_shares(2, 4, right, 3) == 1
    assert chance_of_unequal_shares(0, 4, 0, 3) == chance_of_unequal_shares(4, 4, 3, 3) == 0


def test_one_entrant_disagrees_with_nobody(runs) -> None:
    assert between(runs / "left") == []


def test_chance_by_enumeration() -> None:
    for num_left, num_right in itertools.product(range(1, 5), repeat=2):
        for total in range(num_left + num_right + 1):
            places = list(itertools.combinations(range(num_left + num_right), total))
            unequal = [
                sum(place < num_left for place in chosen) * num_right
                != sum(place >= num_left for place in chosen) * num_left
                for chosen in places
            ]
            left = min(total, num_left)
            found = chance_of_unequal_shares(left, num_left, total - left, num_right)
            assert found == pytest.approx(np.mean(unequal)), (num_left, num_right, total)
    assert chance_of_unequal_shares(1, 1, 0, 1) == 1
    assert chance_of_unequal_shares(500, 1000, 500, 1000) == pytest.approx(
        1 - math.sqrt(2 / (math.pi * 500)), abs=1e-3
    )


def test_chance_is_what_equal_models_show() -> None:
    random = np.random.default_rng(0)
    ability = random.beta(0.5, 0.5, 20_000)
    left, right = random.binomial(4, ability), random.binomial(8, ability)
    expected = sum(chance_of_unequal_shares(int(a), 4, int(b), 8) for a, b in zip(left, right, strict=True))
    observed = int((left * 8 != right * 4).sum())
    assert abs(observed - expected) < 3 * math.sqrt(observed)


def test_csv(runs, tmp_path) -> None:
    out = tmp_path / "out"
    assert main(["compare", f"a={runs / 'left'}", f"b={runs / 'right'}", "--out", str(out), "--no-figures"]) == 0
    rows = list(csv.DictReader(io.StringIO((out / "disagreements.csv").read_text())))
    assert [float(row["difference"]) for row in rows] == [-1.0, 0.5, 0.25]
    assert {(row["reference"], row["model"], row["task"], row["samples_model"]) for row in rows} == {
        ("a", "b", TASK, "4")
    }
    known = dict(zip(load(runs / "left").rollouts.rollout_id, load(runs / "left").rollouts.correct, strict=True))
    assert [known[row["rollout_reference"]] for row in rows] == [True, False, False]
    # Its own file is no reason to refuse the folder.
    compare([f"a={runs / 'left'}", f"b={runs / 'right'}"], out=out, figures=False, report=False)


def test_formulas_and_long_prompts_in_csv(runs) -> None:
    (found,) = between(runs / "left", runs / "right")
    row = found.problems[0]
    from dataclasses import replace

    changed = replace(found, problems=(replace(row, prompt="=1+1\n" + "word " * 100),))
    (line,) = csv.DictReader(io.StringIO(disagreements_csv([changed])))
    assert line["prompt"].startswith("'=1+1 word word")
    assert len(excerpt("word " * 100)) == 120


def test_tables_and_links_of_a_comparison(runs) -> None:
    comparison = compare([f"a={runs / 'left'}", f"b={runs / 'right'}"])
    found = between(runs / "left", runs / "right")
    folders = {"left": [runs / "left"], "right": [runs / "right"]}
    names = {"left": "left", "right": "right"}
    document = comparison_document(comparison, folders, found, names)
    table = next(table for table in document.tables if "problem by problem" in table.title)
    assert table.header == ["problem", "task", "right: left", "right: right", "difference", "prompt"]
    assert table.rows[0][2:5] == ["1.00 (4 of 4)", "0.00 (0 of 4)", "−1.000"]
    assert {subject.label for subject in document.subjects} == {"left", "right"}
    assert table.links[1, 2][0] == ("left", f"{TASK}/{table.rows[1][0]}/2")
    notes = " ".join(table.notes)
    assert f"{TASK}: of 5 problems, right solves 2 more often than left and 1 less often." in notes
    assert f"{TASK}: the shares differ on 3 problems. If both solved every problem equally often, " in notes
    assert f"{found[0].by_chance:.1f} problems would still be expected to differ by chance." in notes
    assert "seeds" not in notes.partition("by chance.")[2]
    assert 'class="opens"' in render_page(document)


def test_seeds_open_their_own_rollouts(runs) -> None:
    left = [load(runs / "left"), load(runs / "left")]
    entrants = [*entrants_of("m", left), *entrants_of("n", [load(runs / "right")])]
    (found,) = disagreements(entrants, Options(num_resamples=50))
    assert found.problems[0].reference.num_samples == 8
    assert {place for place, _ in found.problems[0].reference.rollouts} == {0, 1}
    (table,) = disagreement_tables([found], {})
    assert table.notes[-1].endswith(" This number assumes that all seeds are equally good.")


def test_an_evaluation_of_several_models(model_dir, tmp_path) -> None:
    models = [str(model_dir), f"{model_dir}/."]
    options = {"tasks": (TASK,), "num_problems": 6, "samples": 0, "max_new_tokens": 8, "progress": False}
    found = evaluate(models, out=tmp_path / "run", figures=False, num_resamples=20, **options)
    # The two are one model, and greedy: they agree about everything.
    assert (tmp_path / "run" / "disagreements.csv").read_text().count("\n") == 1
    (table,) = [table for table in found.document().tables if "problem by problem" in table.title]
    assert table.rows == []
    assert "a single completion of each problem" in " ".join(table.notes)
    alone = evaluate(str(model_dir), rollouts=given([[1]]), tasks=(TASK,), num_problems=1, progress=False)
    assert not alone.document().tables
