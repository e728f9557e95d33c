"""Extraction, equality, and the pool that survives what models write."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphase.errors import InvalidInputError
from antiphase.tasks.extraction import EXTRACT_MODES, MAX_LENGTH, extract_answer
from antiphase.tasks.gym_entries import exact_value, pack_entry, safe_to_score, unpack_entry
from antiphase.tasks.math_equality import quick_same, same_answer
from antiphase.tasks.plain_numbers import decimal_text, plain_number
from antiphase.tasks.pool import Verdict, VerifierError, VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.rewards import AccuracyReward, completion_text, format_reward, rows

TOWER = "\\boxed{9^{9^{9^{9}}}}"  # sympy computes until it is killed
PI = Problem("pi", "gsm8k", "", "\\frac{\\pi}{7}")
SUM = Problem("sum", "gsm8k", "", "18")
DIGITS = Problem("digits", "digit_sum", "12=?", "0")


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(2) as shared:
        yield shared


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
        ("10-4", "auto", "1", "4"),
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
        ("the answer is **Lily**.", "auto", "Lily", "Lily**."),
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
        ("x" * MAX_LENGTH + "18", "auto", "18", "18"),
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
]  # fmt: skip
DIFFERENT = [
    ("4", "3=4"), ("4", "4=4"), ("4", "2x=4"), ("4", "x+y=4"), ("x=5", "y=5"), ("x=5", "4=5"), ("2,1", "1,2"),
    ("(1,2)", "\\{1,2\\}"), ("(1,2)", "[1,2]"), ("(1,2)", "1,2"), ("1,2", "(1,2)"), ("\\{1,2\\}", "\\{1,1,2\\}"),
    ("(1,2),(3,4)", "(3,4),(1,2)"), ("AB=9, CD=4", "AB=4, CD=9"), ("0.5", "50\\%"), ("9", "5 4"), ("19", "10 9"),
    ("9", "5 \\quad 4"), ("4", "4 or 5"), ("4", "4, 5"), ("4", "\\pm 4"), ("\\frac{1}{3}", "0.333333"),
    ("2", "2.0000001"),
    ("4", "{4"), ("4", "4} \\boxed{4"), ("6", "x \\le 6"), ("1", "\\infty"), ("x^2+1", "x^2+1=0"), ("3", "x=3,x=4"),
    ("4", ""), ("54", "5 4"), ("18", "18" * 60),
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


HOSTILE = [
    "", " ", "\0", "\n" * 1000, "A", "AAAA", "\\boxed{", "\\boxed{}", "<answer>", "<answer></answer>", "\ud800",
    "9" * 10_000, "-" * 5000, "\\boxed{" + "9" * 5000 + "}", "x" * 10_000_000, "\\boxed{" * 3000, "}" * 5000,
    "\\boxed{" + "(" * 900 + "}", "\\boxed{" + "[" * 300 + "1" + "]" * 300 + "}",
    "\\boxed{" + "{" * 300 + "}" * 300 + "}",
    "\\boxed{" + "\\frac{" * 150 + "}" * 300 + "}", "\\boxed{3=4=5}", "\\boxed{=}", "\\boxed{,,,}", "\\boxed{1/0}",
    "\\boxed{0^{-1}}", "\\boxed{nan}", "\\boxed{\\infty}", "\\boxed{\\int\\int\\int}", "\\boxed{\\begin{matrix}}",
    "\\boxed{10^{10^{10}}}", TOWER, "<answer>9**9**9**9</answer>", "<answer>" + "(" * 3000 + "</answer>",
    "<answer>__import__('os')._exit(0)</answer>", "<answer>[x for x in iter(int, 1)]</answer>",
    "<answer>exit()</answer>", "<answer>{" + '"a":[' * 3000 + "</answer>", "<answer>" + "-" * 10_000 + "</answer>",
    "<answer>𝟙 ² ½ Ⅷ ٣</answer>", "<answer>%s%n{0}\\x00</answer>", "<answer>" + "a " * 9000 + "</answer>",
]  # fmt: skip
_INTEGRAL = "simple_integration", {"integrand": "2*x", "variable": "x"}, "x**2 + C"
_POLYNOMIAL = "polynomial_multiplication", {}, "x**2 + x"
_COUNTDOWN = "countdown", {"numbers": [4, 33, 38, 14], "target": 61}, "38 + 4 + 33 - 14"
_SORTING = "number_sorting", {"direction": "ascending"}, "['-1', '2']"


def gym_problem(name, metadata, answer) -> Problem:
    entry = pack_entry({"question": "q", "answer": answer, "metadata": metadata})
    return Problem("p", name, "q", answer, f'{{"entry": {entry}}}')


@pytest.mark.parametrize(
    "problem",
    [
        SUM, PI, DIGITS, Problem("set", "gsm8k:extract=boxed", "", "\\{1,2\\}"),
        gym_problem("chain_sum", {}, "18"), gym_problem(*_INTEGRAL), gym_problem(*_POLYNOMIAL),
        gym_problem(*_COUNTDOWN), gym_problem(*_SORTING),
    ],
    ids=lambda problem: f"{problem.task}-{problem.problem_id}",
)  # fmt: skip
def test_hostile_completions_are_wrong(pool, problem) -> None:
    assert len(HOSTILE) >= 40
    verdicts = pool.check([(text, problem) for text in HOSTILE], timeout=0.6)
    assert [text[:40] for text, verdict in zip(HOSTILE, verdicts, strict=True) if verdict.correct] == []
    assert pool.check(
        [(f"<answer>{problem.answer}</answer>\\boxed{{{problem.answer}}}A{problem.answer}", problem)]
    ) == [Verdict(True, "right")]


def test_neighbours_of_a_timeout_are_unaffected(pool) -> None:
    right = "\\boxed{\\pi/7}"
    outcomes = [v.outcome for v in pool.check([(right, PI), (TOWER, PI), (right, PI), ("\\boxed{7}", PI)], 1.0)]
    assert outcomes == ["right", "timeout", "right", "wrong"]


def test_off_the_main_thread(pool) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(pool.check([(TOWER, PI), ("\\boxed{\\pi/7}", PI)], 0.7)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[Verdict(False, "timeout"), Verdict(True, "right")]] * 2


def workers_of(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children() if any("antiphase.tasks.worker" in a for a in p.cmdline())]


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_killed_process_costs_its_own_completion_only() -> None:
    with VerifierPool(1) as own:
        assert own.check([("\\boxed{\\pi/7}", PI)]) == [Verdict(True, "right")]
        (victim,) = [worker.pid for worker in own._idle]
        killer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
        killer.start()
        verdicts = own.check([(TOWER, PI), ("\\boxed{\\pi/7}", PI)], timeout=20.0)
        assert [v.outcome for v in verdicts] == ["error", "right"]
        (idle,) = [worker.pid for worker in own._idle]
        os.kill(idle, signal.SIGKILL)  # between checks: nobody's fault
        # A zombie may still have threads that end, and is not to be waited for until they have.
        wait_until(lambda: not own._idle[0].usable, 5)
        assert own.check([("\\boxed{\\pi/7}", PI)]) == [Verdict(True, "right")]
    assert not psutil.pid_exists(idle)


def test_close_and_collection_end_the_processes() -> None:
    own = VerifierPool(1)
    own.check([("\\boxed{\\pi/7}", PI)])
    (pid,) = [worker.pid for worker in own._idle]
    own.close()
    assert not psutil.pid_exists(pid)
    assert own.check([("\\boxed{\\pi/7}", PI)]) == [Verdict(True, "right")]
    (pid,) = [worker.pid for worker in own._idle]
    del own
    wait_until(lambda: not psutil.pid_exists(pid), 5)


_PARENT = """
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
problem = Problem("pi", "gsm8k", "", "\\\\frac{\\\\pi}{7}")
pool = VerifierPool(1)
pool.check([("\\\\boxed{\\\\pi/7}", problem)])
print("ready", flush=True)
pool.check([(%r, problem)] if %r else [], timeout=3.0)
import time; time.sleep(60)
"""


@pytest.mark.parametrize("busy", [False, True])
def test_no_orphans_when_the_parent_is_killed(busy) -> None:
    code = _PARENT % (TOWER, busy)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (worker,) = workers_of(parent.pid)
        time.sleep(0.5)
        parent.kill()
        parent.wait()
        # A busy one may hold the interpreter's lock in C; then its own alarm ends it.
        wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 10)


def test_what_cannot_be_verified_at_all_is_an_error(pool) -> None:
    with pytest.raises(InvalidInputError, match="unknown task 'no_such'"):
        pool.check([("1", Problem("p", "no_such", "", "1"))])
    with pytest.raises(InvalidInputError, match="timeout must be"):
        pool.check([], timeout=0.0)
    with pytest.raises(InvalidInputError, match="num_workers"):
        VerifierPool(0)
    broken = gym_problem("chain_sum", {}, "18")
    lost = Problem("p", "chain_sum", "q", "18", "not json")
    assert pool.check([("17", lost), ("17", broken)]) == [Verdict(False, "error"), Verdict(False, "wrong")]


def test_process_that_does_not_start(monkeypatch) -> None:
    monkeypatch.setattr("antiphase.tasks.pool._START", "raise SystemExit")
    with VerifierPool(2) as own, pytest.raises(VerifierError, match="did not start"):
        own.check([("\\boxed{7}", PI)] * 3)


def test_trivial_verdicts_need_no_process(monkeypatch) -> None:
    monkeypatch.setattr("antiphase.tasks.pool._Worker", None)
    with VerifierPool() as own:
        pairs = [("#### 18", SUM), ("19", SUM), ("none", SUM), ("<12>A0", DIGITS), ("A1", DIGITS), ("", PI)]
        assert [v.correct for v in own.check(pairs)] == [True, False, False, True, False, False]
        assert own.check([]) == []


def columns(problems: list[Problem]) -> dict[str, list]:
    table = rows(problems, chat=False)
    return {key: [row[key] for row in table] for key in ("answer", "task", "problem_id", "metadata")}


def test_accuracy_reward(pool) -> None:
    reward = AccuracyReward(timeout=0.7, pool=pool)
    assert reward.__name__ == "accuracy"
    logged = {}
    completions = [
        "The answer is 18.",
        [{"role": "assistant", "content": "17"}, {"role": "tool", "content": "18"}],
        [{"role": "assistant", "content": "17"}, {"role": "assistant", "content": [{"type": "text", "text": "18"}]}],
        TOWER,
    ]
    problems = [SUM, SUM, SUM, PI]
    got = reward(
        prompts=["p"] * 4,
        completions=completions,
        completion_ids=[[1]] * 4,
        log_metric=logged.__setitem__,
        log_extra=None,
        trainer_state=None,
        **columns(problems),
    )
    assert got == [1.0, 0.0, 1.0, 0.0]
    assert logged == {"accuracy/timeouts": 0.25, "accuracy/errors": 0.0}
    assert reward(["p"], ["18"], [[1]], **columns([SUM])) == [1.0]


def test_completion_texts() -> None:
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    assert completion_text([]) == ""
    with pytest.raises(InvalidInputError, match="got int"):
        completion_text(3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" <think>a\nb</think>\n <answer></answer>\n", 1.0),
        ("<think>a</think> so <answer>b</answer>", 0.0),
        ("x<think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>.", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think><think>a</think><answer>b</answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think><answer></think></answer>", 0.0),
        ("<answer>b</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_format_reward(text, expected) -> None:
    assert format_reward([text], prompts=["p"]) == [expected]
    assert format_reward([[{"role": "assistant", "content": text}]]) == [expected]


def test_rows() -> None:
    (row,) = rows([SUM], chat=True, system_prompt="Be brief.", prompt_template="Q: {prompt}!")
    assert row["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q: !"}]
    assert {key: row[key] for key in ("answer", "task", "problem_id", "metadata")} == {
        "answer": "18",
        "task": "gsm8k",
        "problem_id": "sum",
        "metadata": "{}",
    }
    assert rows([DIGITS], chat=False)[0]["prompt"] == "12=?"
    assert rows([DIGITS], chat=False, system_prompt="Be brief.")[0]["prompt"] == "Be brief.\n\n12=?"
    with pytest.raises(InvalidInputError, match=r"must contain \{prompt\}"):
        rows([SUM], chat=False, prompt_template="Q:")


def test_verifying_needs_no_torch() -> None:
    code = (
        "import sys, antiphase.tasks.pool, antiphase.tasks.rewards, antiphase.tasks.worker\n"
        "from antiphase.tasks.registry import load_task\n"
        "load_task('gsm8k').warm_up(); load_task('chain_sum').problems('train', 2, 0)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_memory_is_limited() -> None:
    code = "from antiphase.tasks.worker import _limit_resources; _limit_resources(); bytearray(5 << 30)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "MemoryError" in done.stderr


def test_alarm_ends_a_process_that_holds_the_lock() -> None:
    code = "from antiphase.tasks.worker import _set_alarm; _set_alarm(0.3); 9 ** (9**9)"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=30)
    assert done.returncode == -signal.SIGALRM
