"""Verifiers as a whole: references are right in every form, their neighbours wrong, and nothing hostile gets through.

`ANTIPHASE_TASK_DATA` may name a folder with other copies of the known sets (`math500.jsonl`, `olympiadbench.jsonl`, …).
"""

import os
import time
from pathlib import Path

import pytest
from task_cases import TOWER, hostile, perturbed, rewritten

from antiphase.tasks.gym_entries import pack_entry
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task, load_task

DATA = Path(os.environ.get("ANTIPHASE_TASK_DATA", Path(__file__).parent / "data"))
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
