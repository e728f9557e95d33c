"""Verifiers as a whole: references are right in every form, their neighbours wrong, and nothing hostile gets through.

`ANTIPHASE_TASK_DATA` may name a folder with other copies of the known sets (`math500.jsonl`, `aime24.jsonl`, …).
"""

import os
import time
from pathlib import Path

import pytest

from antiphase.tasks.gym_entries import pack_entry
from antiphase.tasks.gym_task import GymTask
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task, load_task
from antiphase.tasks.table_task import TableTask
from task_cases import TOWER, hostile, perturbed, rewritten

DATA = Path(os.environ.get("ANTIPHASE_TASK_DATA", Path(__file__).parents[1] / "data"))
KNOWN = [name for name in ("gsm8k", "math500", "aime24", "aime25", "amc23", "minerva", "olympiadbench")
         if (DATA / f"{name}.jsonl").is_file()]  # fmt: skip
FORMS = ["so \\boxed{%s}.", "<think>\\boxed{0}</think> <answer>%s</answer>", "Therefore the answer is %s"]
WRONG_FORMS = [FORMS[0], FORMS[1]]


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(2) as shared:
        yield shared


def known_problems(name: str) -> list[Problem]:
    return load_task(f"{name}:file={DATA / f'{name}.jsonl'}").problems("test", None, 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", KNOWN)
def test_references_are_right(pool, name, form) -> None:
    problems = known_problems(name)
    assert len(problems) >= 30
    verdicts = pool.check([(form % problem.answer, problem) for problem in problems])
    bad = [problem.answer for problem, verdict in zip(problems, verdicts, strict=True) if not verdict.correct]
    assert len(bad) <= 0.01 * len(problems), bad


@pytest.mark.parametrize("name", KNOWN)
def test_references_are_right_as_others_write_them(pool, name) -> None:
    pairs = [(f"\\boxed{{{text}}}", problem) for problem in known_problems(name) for text in rewritten(problem.answer)]
    verdicts = pool.check(pairs)
    bad = [(text, p.answer) for (text, p), verdict in zip(pairs, verdicts, strict=True) if not verdict.correct]
    print(name, f"{len(bad)} of {len(pairs)} rewritten references refused", bad)
    assert len(bad) <= 0.01 * len(pairs), bad


@pytest.mark.parametrize("name", KNOWN)
def test_neighbours_of_references_are_wrong(pool, name) -> None:
    problems = known_problems(name)
    ordered = build_task(problems[0].task).order == "given"
    pairs = [
        (WRONG_FORMS[i % 2] % wrong, problem)
        for problem in problems
        for i, wrong in enumerate(perturbed(problem.answer, ordered=ordered))
    ]
    verdicts = pool.check(pairs)
    bad = [(text, p.answer) for (text, p), verdict in zip(pairs, verdicts, strict=True) if verdict.correct]
    print(name, f"{len(bad)} of {len(pairs)} neighbours accepted", bad)
    assert bad == []


def gym_problem(name: str, metadata: dict, answer: str) -> Problem:
    entry = pack_entry({"question": "q", "answer": answer, "metadata": metadata})
    return Problem("p", name, "q", answer, f'{{"entry": {entry}}}')


BOX, TAGS = "\\boxed{%s}", "<answer>%s</answer>"
VICTIMS = [
    Problem("number", "gsm8k", "", "4831"),
    Problem("algebra", "math500:file=absent.jsonl", "", "\\frac{\\pi}{7}"),
    Problem("list", "olympiadbench", "", "(1,2), (2,7)"),
    gym_problem("chain_sum", {}, "4831"),
    gym_problem("countdown", {"numbers": [4, 33, 38, 14], "target": 61}, "38 + 4 + 33 - 14"),
    gym_problem("simple_integration", {"integrand": "2*x", "variable": "x"}, "x**2 + C"),
    Problem("digits", "digit_sum:base=9", "88=?", "7"),
    Problem("sum", "sums:digits=4|3", "4444+387", "4831"),
    Problem("choice", "gpqa_diamond", "", "D"),
]


@pytest.mark.parametrize("problem", VICTIMS, ids=lambda problem: problem.task.partition(":")[0])
def test_hostile_completions_are_wrong_in_time(pool, problem) -> None:
    # What is extracted from the one form or the other is the same; where it is slow, one of them is enough.
    task = build_task(problem.task)
    forms = [BOX] if isinstance(task, TableTask) else [TAGS] if isinstance(task, GymTask) else [BOX, TAGS]
    texts = hostile(*forms)
    assert len(texts) >= 40
    pool.check([(f"\\boxed{{{problem.answer}+1}}", problem)])  # starting and importing is not what is timed
    started = time.monotonic()
    verdicts = pool.check([(text, problem) for text in texts], timeout=0.25)
    print(problem.task, f"{time.monotonic() - started:.1f} s", [v.outcome for v in verdicts].count("timeout"), "late")
    assert [text[:60] for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct] == []
    (verdict,) = pool.check(
        [(f"<answer>{problem.answer}</answer>\\boxed{{{problem.answer}}}A{problem.answer}", problem)]
    )
    assert verdict.correct


@pytest.mark.parametrize("problem", VICTIMS, ids=lambda problem: problem.task.partition(":")[0])
def test_votes_and_form_need_no_process(problem) -> None:
    task = build_task(problem.task)
    started = time.monotonic()
    for text in hostile(BOX, TAGS):
        vote = task.extracted(text, problem)
        assert vote is None or (len(vote) <= 20_000 and vote.encode("utf-8").decode("utf-8") == vote)
        assert isinstance(task.well_formed(text, problem), bool)
    assert time.monotonic() - started < 10


def test_a_tower_costs_its_neighbours_nothing(pool) -> None:
    right = "\\boxed{\\pi/7}"
    verdicts = pool.check([(right, VICTIMS[1]), (f"\\boxed{{{TOWER}}}", VICTIMS[1]), (right, VICTIMS[1])], timeout=0.8)
    assert [verdict.correct for verdict in verdicts] == [True, False, True]
