"""Where the answer stands in a completion, and when two answers are equal."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphase.tasks.extraction import EXTRACT_MODES, MAX_LENGTH, extract_answer
from antiphase.tasks.gym_entries import exact_value, pack_entry, safe_to_score, unpack_entry
from antiphase.tasks.math_equality import quick_same, same_answer
from antiphase.tasks.plain_numbers import decimal_text, plain_number


@pytest.mark.parametrize(
    ("text", "mode", "gold", "expected"),
    [
        ("<answer> 18 </answer>", "auto", "18", "18"),
        ("<answer>17</answer> no: <answer>18</answer>", "tags", "18", "18"),
        ("<answer><answer>18</answer>", "tags", "18", "18"),
        ("<answer>18</answer> <answer>19", "auto", "18", "18"),
        ("<answer>\\boxed{18}</answer>", "tags", "18", "18"),
        ("\\boxed{5} <answer> \\boxed{18}", "auto", "18", "18"),
        ("\\boxed{5} <answer> 18", "auto", "18", "18"),
        ("\\boxed{5} <answer> 18", "tags", "18", None),
        ("</answer>18<answer>", "tags", "18", None),
        ("<answer></answer>", "auto", "18", None),
        ("18", "tags", "18", None),
        ("\\boxed{17}, rather \\boxed{18}", "auto", "18", "18"),
        ("\\boxed{12", "auto", "12", None),
        ("\\boxed{12} \\boxed{13", "auto", "12", "12"),
        ("\\boxed{}", "auto", "12", None),
        ("\\boxed{\\frac{1}{2}}", "boxed", "x", "\\frac{1}{2}"),
        ("{ \\boxed {a\\}b} }", "boxed", "x", "a\\}b"),
        ("\\boxed{x = \\boxed{5}}", "boxed", "5", "5"),
        ("\\fbox{5}", "boxed", "5", "5"),
        ("\\boxed5", "boxed", "5", None),
        ("The answer is 18. ", "auto", "18", "18"),
        ("so $1,234.50 in all", "auto", "1", "1234.50"),
        ("it costs \\$1{,}234", "auto", "1", "1234"),
        ("a rise of 50%.", "auto", "1", "50"),
        ("10-4", "auto", "1", None),
        ("= -4", "auto", "1", "-4"),
        ("10 - 4", "last-number", "1", "4"),
        ("loses -$5", "last-number", "1", "-5"),
        ("3/4", "last-number", "x", "3/4"),
        (".5", "last-number", "x", ".5"),
        ("1234,567", "last-number", "x", "567"),
        ("1,2", "last-number", "x", "2"),
        ("v2 of 0017", "last-number", "x", "0017"),
        ("١٨", "auto", "18", "18"),
        ("１８", "tags", "18", None),
        ("<answer>１,０００</answer>", "tags", "18", "1000"),
        ("<answer>−18</answer>", "tags", "18", "-18"),
        ("none", "last-number", "18", None),
        ("Answer: Lily\nbye", "auto", "Lily", "Lily"),
        ("the answer is **Lily**.", "auto", "Lily", "Lily"),
        ("The answer is:\n\nLily", "auto", "Lily", "Lily"),
        ("I think\nLily\n\n", "auto", "Lily", "Lily"),
        ("a\nb\n", "last-line", "x", "b"),
        (" a\nb ", "whole", "x", "a\nb"),
        ("", "auto", "x", None),
        (" \n ", "whole", "x", None),
        ("<1122>A2", "after-A", "2", "2"),
        ("A1A 2 ", "after-A", "2", "2"),
        ("2", "after-A", "2", None),
        ("A", "after-A", "2", None),
        ("x" * MAX_LENGTH + " 18", "auto", "18", "18"),
        ("\\boxed{18}" + "x" * MAX_LENGTH, "auto", "18", None),
        ("18" + " " * MAX_LENGTH, "whole", "18", None),
    ],
)
def test_extraction(text, mode, gold, expected) -> None:
    assert extract_answer(text, mode, gold) == expected


_PIECES = st.sampled_from(
    [
        "<answer>",
        "</answer>",
        "\\boxed{",
        "{",
        "}",
        "\\",
        "answer is",
        "A",
        "1,234",
        "-",
        "$",
        "%",
        ".",
        "/",
        "\n",
        " ",
    ]
)


@given(st.lists(_PIECES | st.text(max_size=5)), st.sampled_from(EXTRACT_MODES), st.sampled_from(["18", "x", "1/2"]))
def test_extraction_never_raises(pieces, mode, gold) -> None:
    text = "".join(pieces) * 3
    answer = extract_answer(text, mode, gold)
    assert answer is None or (answer == answer.strip() and 0 < len(answer) <= min(len(text), MAX_LENGTH))
    if answer is not None:
        assert quick_same(answer, gold) in (True, False, None)
        assert plain_number(answer) is None or plain_number(str(plain_number(answer))) == plain_number(answer)


@pytest.mark.parametrize(
    "piece", ["1,111", "\\boxed{", "<answer>", "answer ", "-", "1/", "{}", "\\", " ", "1 ", "$", "9"]
)
def test_extraction_is_fast(piece) -> None:
    text = piece * (10_000_000 // len(piece))
    start = time.perf_counter()
    for mode in EXTRACT_MODES:
        for gold in ("18", "x"):
            answer = extract_answer(text, mode, gold)
            if answer is not None:
                quick_same(answer, gold)
                plain_number(answer)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"), ("+18", "18"), ("-18.50", "-18.50"), ("1,000", "1000"), ("$5", "5"), ("-$5", "-5"), ("5%", "5"),
        ("50\\%", "50"), ("18.", "18"), (".5", ".5"), ("11,\\! 111,\\! 100", "11111100"), ("1/2", None), ("1,2", None),
        ("1e5", None), ("10²", None), ("", None), ("-", None), ("1 2", None), ("9" * 101, None), ("nan", None),
    ],
)  # fmt: skip
def test_plain_decimals(text, value) -> None:
    assert decimal_text(text) == value


def test_plain_fractions() -> None:
    assert plain_number("-3/6") == plain_number("\\dfrac{-1}{2}") == plain_number("-0.5")
    assert plain_number("1/0") is None
    assert plain_number("1/2/3") is None


# (gold, answer): golds of GSM8K, MATH-500, MATH and OlympiadBench.
EQUAL = [
    ("18", "18.0"), ("18", "18\\text{ cm}"), ("70000", "$70,000"), ("50", "50\\%"), ("0.5", "\\frac12"),
    ("4", "x=4"), ("x=5", "5"), ("3", "x_1 = 3"), ("5", "f(3)=5"), ("y = 2x + 3", "2x+3"),
    ("2, 3, \\text{ and } 4", "2,3,4"), ("AB=9, CD=4", "9, 4"), ("69$,$84", "69,84"),
    ("f(n)=n$, $g(n)=1", "f(n)=n, g(n)=1"), ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"),
    ("[1,2)", "\\left[1, 2\\right)"), ("\\{1,2\\}", "\\{2,1\\}"), ("(1,2),(3,4)", "(1,2), (3, 4)"),
    ("\\$32,\\!348", "32348"), ("11,\\! 111,\\! 111,\\! 100", "11111111100"), ("90^\\circ", "90"),
    ("\\text{Evelyn}", "Evelyn"), ("\\text{(B)}", "B"), ("p - q", "-q + p"), ("3\\sqrt{13}", "\\sqrt{117}"),
    ("(-\\infty,0)\\cup(1,2)", "(1,2)\\cup(-\\infty,0)"), ("\\frac{3}{56}", "3/56"), ("6 - 5i", "6-5i"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=-4"),
    ("(1,2)", "x=1, y=2"), ("(1,2)", "y = 2 and x = 1"), ("(1,\\frac{1}{2},3)", "a=1, b=0.5, c=3"),
    ("x=1,y=2", "(1,2)"), ("[3,\\infty)", "x \\ge 3"), ("(1,2]", "1 < x ≤ 2"), ("(1,2]", "2 \\geq x > 1"),
    ("(-\\infty,5)", "5 > x"), ("x \\leq 5", "(-\\infty,5]"), ("(0,\\sqrt{2})", "0<t<\\sqrt2"),
]  # fmt: skip
DIFFERENT = [
    ("4", "3=4"), ("4", "4=5=4"), ("4", "2x=4"), ("4", "x+y=4"), ("x=5", "y=5"), ("x=5", "4=5"), ("2,1", "1,2"),
    ("(1,2)", "\\{1,2\\}"), ("(1,2)", "[1,2]"), ("(1,2)", "1,2"), ("1,2", "(1,2)"), ("\\{1,2\\}", "\\{1,1,2\\}"),
    ("(1,2),(3,4)", "(3,4),(1,2)"), ("AB=9, CD=4", "AB=4, CD=9"), ("0.5", "50\\%"), ("9", "5 4"), ("19", "10 9"),
    ("9", "5 \\quad 4"), ("4", "4 or 5"), ("4", "4, 5"), ("4", "\\pm 4"), ("\\frac{1}{3}", "0.333333"),
    ("2", "2.0000001"),
    ("4", "{4"), ("4", "4} \\boxed{4"), ("6", "x \\le 6"), ("1", "\\infty"), ("x^2+1", "x^2+1=0"), ("3", "x=3,x=4"),
    ("(1,2)", "x=2, y=1"), ("(1,2)", "x=1, x=2"), ("(1,2)", "x=1"), ("\\{1,2\\}", "x=1, y=2"), ("(1,2]", "1<x<2"),
    ("(1,2]", "1 < x, x \\le 2"), ("[3,\\infty)", "x \\le 3"), ("(1,2)", "2<x<1"), ("(1,2)", "1<x>2"),
    ("(1,2)", "1<2"), ("(1,3)", "1<2<3"), ("(1,2)", "1<x\\ne 2"), ("4", ""), ("54", "5 4"), ("18", "18" * 60),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers(gold, answer) -> None:
    assert same_answer(answer, gold)
    assert same_answer(gold, gold)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers(gold, answer) -> None:
    assert not same_answer(answer, gold)


def test_order_of_lists_can_be_waived() -> None:
    assert same_answer("-2, 1", "1,-2", order="any")
    assert not same_answer("1, 1", "1,-2", order="any")
    assert not same_answer("(2,1)", "(1,2)", order="any")


def test_entries_survive_json() -> None:
    entry = {"a": (1, [2.5, None]), "b": {3: {4}, "x": frozenset("y")}, "$set": True, "e": {}}
    packed = pack_entry(entry)
    assert packed is not None
    assert unpack_entry(json.dumps(json.loads(packed))) == entry
    assert pack_entry({"a": object()}) is None
    assert pack_entry({"a": float("nan")}) is None


@pytest.mark.parametrize(
    "text", ["4**2", "4.0*4", "abs(4)", "4 4", "(4", "4//2", "1/(1-1)", "-" * 200 + "4,", "4 # 4", ""]
)
def test_what_is_no_arithmetic(text) -> None:
    assert exact_value(text) is None


def test_scorers_that_evaluate_see_no_code() -> None:
    bomb = "__import__('os').system('true')"
    for generator in ("countdown", "puzzle24", "simple_integration", "polynomial_multiplication", "n_queens"):
        assert not safe_to_score(generator, bomb, {"answer": "4 + x", "metadata": {"numbers": [4], "target": 4}})
    assert safe_to_score("simple_integration", "-7*x**5/5 + 2*sin(x) + C", {"answer": "x"})
    assert not safe_to_score("simple_integration", "x.real", {"answer": "x"})
    assert not safe_to_score("simple_integration", "Integral(x)", {"answer": "x"})
    puzzle = {"answer": "24 * 1", "metadata": {"numbers": [49, 2, 1, 1]}}
    assert not safe_to_score("puzzle24", "49/2*1*1", puzzle)  # reasoning_gym rounds 24.5 down to 24
