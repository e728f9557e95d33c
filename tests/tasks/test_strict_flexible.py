"""The strict and the flexible score, by hand, and beside lm-eval's rule in words of its own."""

import time

import pytest

from antiphase.tasks.checking import lm_eval_verdict
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task
from antiphase.tasks.strict_flexible import TwoScores, strict_and_flexible


def scores(text, reference="18", spec="gsm8k"):
    task, problem = build_task(spec), Problem("p", spec, "", reference)
    return strict_and_flexible(task, text, problem, correct=task.verify(text, problem))


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (r"So it is \boxed{18}.", True, True),
        ("<answer>18</answer>", True, True),
        ("The answer is 18.", True, True),
        ("9 + 9\n#### 18", True, True),
        ("She has **18** apples.", True, True),
        ("9 + 9 makes 18", False, True),
        ("She makes $18.00", False, True),
        ("The answer is 17, not 18", False, True),
        ("The answer is 18. She does it 3 times.", True, False),
        (r"\boxed{18} or 3?", True, False),
        (r"\boxed{18", False, True),
        ("18 of 20", False, False),
        ("none", False, False),
        ("", False, False),
    ],
)
def test_by_hand(text, strict, flexible) -> None:
    assert scores(text) == TwoScores(strict, flexible)


@pytest.mark.parametrize(
    "text", ["9 + 9 makes 18", "18 of 20", "The answer is 18. She does it 3 times.", "-18", "$18."]
)
def test_flexible_is_the_rule_of_lm_eval(text) -> None:
    assert scores(text).flexible == lm_eval_verdict(text, "18")


def test_numbers_are_compared_and_not_text() -> None:
    assert scores("about 0.50", "1/2").flexible
    assert scores("It is 1/2", "0.5").flexible
    assert scores("1,234.0", "1234").flexible
    assert not scores("-18").flexible


def test_a_reference_that_is_no_number_has_no_flexible_score() -> None:
    assert scores(r"\boxed{\frac{\sqrt2}{2}}", r"\frac{\sqrt{2}}{2}") == TwoScores(True, None)
    assert scores("it is x+1", "x+1").flexible is None


@pytest.mark.parametrize(
    "spec", ["gsm8k:extract=boxed", "gsm8k:extract=last-number", "sums", "digit_sum", "gpqa_diamond"]
)
def test_a_task_that_looks_in_one_place_has_neither(spec) -> None:
    assert not build_task(spec).has_two_scores
    assert strict_and_flexible(build_task(spec), "18", Problem("p", spec, "", "18"), correct=True) == TwoScores()


@pytest.mark.parametrize("text", ["\\boxed{" * 50_000, "1," * 100_000, "the answer is " * 20_000, "<answer>" * 40_000])
def test_hostile_texts_cost_little(text) -> None:
    started = time.perf_counter()
    strict_and_flexible(build_task("gsm8k"), text, Problem("p", "gsm8k", "", "18"), correct=True)
    assert time.perf_counter() - started < 5
