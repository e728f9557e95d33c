"""Strict and flexible scores of an evaluation: columns, shares with intervals, console and page."""

import json

import pandas as pd
import pytest

from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.two_scores import TWO_SCORES_NOTE
from antiphase.page.document import joined
from antiphase.page.payload import payload_of
from antiphase.report.sources import read_run
from evaluation_cases import scored, write_rows

# (completion, right, strict, flexible) for the reference 18; the last problem's reference is no number.
TEXTS = [
    ("The sum is 9 + 9, which gives us 18", True, False, True),
    ("The answer is 18. She does this 3 times.", True, True, False),
    ("<think>It is 18, so 18.</think>I am not sure about it: 17", False, False, False),
    ("<think>It is 18, or is it? I go on to think: 18", False, False, False),
]
FORMULA = "\\frac{\\sqrt{2}}{2}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def found(model_dir, folder):
    rows = [{"id": f"p{place}", "question": f"How many, {place}?", "answer": "18"} for place in range(4)]
    path = write_rows(folder / "set.jsonl", [*rows, {"id": "p4", "question": "Which?", "answer": FORMULA}])
    given = [{"problem_id": f"p{place}", "completion": text} for place, (text, *_) in enumerate(TEXTS)]
    given.append({"problem_id": "p4", "completion": f"It is \\boxed{{{FORMULA}}}."})
    return evaluate(
        str(model_dir), tasks=(str(path),), split="all", rollouts=given, out=folder / "run", progress=False,
        figures=False, num_resamples=20, unit="token",
    )  # fmt: skip


def test_columns(found) -> None:
    rows = found.rollouts.set_index("problem_id").loc[[f"p{place}" for place in range(5)]]
    assert rows.correct.tolist() == [right for _, right, _, _ in TEXTS] + [True]
    assert rows.strict.tolist() == [strict for _, _, strict, _ in TEXTS] + [True]
    assert rows.flexible.tolist()[:4] == [flexible for _, _, _, flexible in TEXTS]
    assert pd.isna(rows.flexible.iloc[4])


def test_shares(found) -> None:
    metrics = found.result()["metrics"]
    assert metrics["avg@1"]["value"] == pytest.approx(3 / 5)
    assert (metrics["strict"]["value"], metrics["strict"]["num_problems"]) == (pytest.approx(2 / 5), 5)
    assert (metrics["flexible"]["value"], metrics["flexible"]["num_problems"]) == (pytest.approx(1 / 4), 4)
    assert metrics["strict"]["low"] < 2 / 5 < metrics["strict"]["high"]


def test_console_and_page(found) -> None:
    text = str(found)
    head = next(line for line in text.splitlines() if "flexible" in line)
    row = text.splitlines()[text.splitlines().index(head) + 2]
    assert head.split().index("strict") + 1 == head.split().index("flexible")
    assert "0.400" in row
    assert "0.250 (4)" in row
    assert "flexible: the last number after the thought" in " ".join(text.split())
    document = found.document()
    table = document.tables[0]
    assert table.title == "strict and flexible scores"
    assert [cell.split()[0] for cell in table.rows[0][2:5]] == ["0.600", "0.400", "0.250"]
    values, _ = payload_of(document)
    shown = {row["id"].split("/")[-2]: row for row in values["subjects"][0]["rollouts"]}
    assert (shown["p0"]["strict"], shown["p0"]["flexible"]) == (False, True)
    assert "flexible" not in shown["p4"]
    json.dumps(values)


def test_one_table_with_the_names_of_the_page(found) -> None:
    page = joined([found.document("a", "base"), found.document("b", "tuned #1")], "both")
    (table,) = page.tables
    assert [row[0] for row in table.rows] == ["base", "tuned #1"] == [subject.label for subject in page.subjects]
    assert table.notes == [TWO_SCORES_NOTE]


def test_a_report_has_the_tables_of_the_evaluation(found, folder) -> None:
    document = read_run(folder / "run", label="mine")
    assert document.tables == found.document("run", "mine").tables
    assert [row[0] for row in document.tables[0].rows] == ["mine"]


def test_a_task_without_these_scores(model_dir) -> None:
    found = scored(model_dir, [[1, 0], [0, 1]])
    metrics = found.result()["metrics"]
    assert (metrics["strict"]["value"], metrics["flexible"]["value"]) == (None, None)
    assert found.rollouts[["strict", "flexible"]].isna().all(axis=None)
    assert "flexible" not in str(found)
    assert [table.title for table in found.document().tables if "flexible" in table.title] == []
