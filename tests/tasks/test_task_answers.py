"""Answers beyond plain numbers: units and bases, letters, and the forms in which answers are counted."""

import subprocess
import sys

import pytest

from antiphase.tasks.choice_task import LETTERS
from antiphase.tasks.letters import chosen_letter
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task
from task_cases import TOWER


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("4.5 \\times 10^{33}", "4.5e33", True), ("4.5*10**3", "4500", True), ("4.5 \\cdot 10^3", "4500", True),
        ("4.4 \\times 10^{33}", "4.5e33", False), ("10^{-3}", "0.001", True), ("110^2", "100", False),
        ("9.6 \\text{ km/s}", "9.6", True), ("45°", "45^{\\circ}", True), ("45", "45^\\circ", True),
        ("52_9", "52_8", False), ("52", "52_8", True), ("18_7", "18", False), ("1e999999", "4", False),
    ],
)  # fmt: skip
def test_numbers_units_and_bases(answer, gold, same) -> None:
    assert build_task("minerva").verify(f"\\boxed{{{answer}}}", Problem("p", "minerva", "", gold)) is same


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{B}", "B"), ("so $\\boxed{\\text{B}}$.", "B"), ("\\boxed{(B)}", "B"), ("\\boxed{b}", "B"),
        ("\\boxed{\\mathbf{(B)}}", "B"), ("\\boxed{B) 3 eV}", "B"), ("\\boxed{A} no, \\boxed{B}", "B"),
        ("put it in \\boxed{}. Answer: B", "B"), ("<answer>B</answer>", "B"), ("<answer>\\boxed{B}</answer>", "B"),
        ("<answer>B", "B"), ("The answer is (B).", "B"), ("The correct answer is B because A fails.", "B"),
        ("The answer is A because B fails.", "A"), ("Answer: B", "B"), ("ANSWER: b", "B"), ("**Answer:** **B**", "B"),
        ("**Final answer: (B) 3 eV**", "B"), ("The correct option is B.", "B"), ("Answer: \\(B\\)", "B"),
        ("Answer: Option B", "B"), ("Thus\n\nB", "B"), ("Thus\n**(B)**", "B"), ("B.", "B"),
        ("The answer is A.\nAnswer: B", "B"),
        ("", None), ("A or B", None), ("\\boxed{A, B}", None), ("\\boxed{AB}", None), ("\\boxed{A or B}", None),
        ("The answer is A or B.", None), ("The answer is either A or B.", None), ("Answer: A, B", None),
        ("Answer: (A) and (C)", None), ("Answer: E", None), ("\\boxed{E}", None), ("\\boxed{3}", None),
        ("\\boxed{B", None),
        ("The answer is a matter of taste.", None), ("The answer is A good one.", None), ("Answer: D-glucose", None),
        ("Answer: Carbon", None), ("I think B", None), ("A\nB\nC\nD and so on", None), ("\\boxed{В}", None),
        ("Answer: C=O", None), ("the answer is not A", None), ("\\boxed{not B}", None),
        ("\\boxed{A} \\boxed{B, C}", None),
    ],
)  # fmt: skip
def test_letters(text, letter) -> None:
    assert chosen_letter(text, "auto", LETTERS) == letter


@pytest.mark.parametrize(
    ("spec", "texts", "votes"),
    [
        (
            "math500",
            ["\\boxed{0.5}", "\\boxed{\\dfrac{1}{2}}", "<answer>.50</answer>", "\\boxed{5 \\times 10^{-1}}", "so 1/2"],
            ["1/2", "1/2", "1/2", "1/2", "so 1/2"],
        ),
        (
            "math500",
            ["\\boxed{\\left( 1, x \\right)}", "\\boxed{(1,x)}", "\\boxed{(x,1)}", "\\boxed{}", ""],
            ["(1,x)", "(1,x)", "(x,1)", None, None],
        ),
        ("gpqa", ["\\boxed{b}", "Answer: (B)", "A or B"], ["B", "B", None]),
        ("chain_sum", ["<answer> 7 </answer>", "it is 7.", ""], ["7", "7", None]),
        ("sums", ["=77", "077", "none"], ["77", "077", None]),
        ("digit_sum", ["<1>A 2", "A", "2"], ["2", None, None]),
    ],
)  # fmt: skip
def test_answers_are_counted_in_one_form(spec, texts, votes) -> None:
    task = build_task(spec)
    problem = Problem("p", spec, "", "7" if "sum" in spec else "\\frac{1}{2}")
    assert [task.extracted(text, problem) for text in texts] == votes
    assert [task.extracted(text, problem) for text in texts] == votes


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        ("math500", "\\boxed{7}", True), ("math500", "<answer>7</answer>", True), ("math500", "\\boxed{7", False),
        ("math500", "\\boxed{ }", False), ("math500", "the answer is 7", False),
        ("math500:extract=boxed", "<answer>7</answer>", False), ("math500:extract=tags", "<answer>7</answer>", True),
        ("gpqa", "\\boxed{B}", True), ("gpqa", "\\boxed{A, B}", False), ("gpqa", "Answer: B", False),
        ("chain_sum", "<answer>7</answer>", True), ("chain_sum", "7", False),
        ("sums", "77", True), ("sums", "=77\n", True), ("sums", "It is 77", False), ("sums", "", False),
        ("digit_sum", "<1>A2", True), ("digit_sum", "<1>A", False), ("digit_sum", "2", False),
    ],
)  # fmt: skip
def test_well_formed(spec, text, expected) -> None:
    assert build_task(spec).well_formed(text, Problem("p", spec, "", "7")) is expected


def test_votes_never_reach_sympy() -> None:
    code = (
        "import sys\nfrom antiphase.tasks.registry import build_task\nfrom antiphase.tasks.problem import Problem\n"
        f"task = build_task('math500'); task.extracted('\\\\boxed{{{TOWER}}}', Problem('p', 'math500', '', 'x'))\n"
        "sys.exit('sympy' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
