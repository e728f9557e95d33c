"""The pool that survives what models write, and the rewards that use it."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from antiphase.errors import InvalidInputError
from antiphase.steps.thoughts import thought_tags
from antiphase.tasks.gym_entries import pack_entry
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.task_rewards import AccuracyReward, FormatReward, completion_text, format_reward, rows
from antiphase.tasks.verdict import Verdict, VerifierError

TOWER = "\\boxed{9^{9^{9^{9}}}}"  # sympy computes until it is killed
PI = Problem("pi", "gsm8k", "", "\\frac{\\pi}{7}")
SUM = Problem("sum", "gsm8k", "", "18")
DIGITS = Problem("digits", "digit_sum", "12=?", "0")


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(2) as shared:
        yield shared


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
    assert logged == {"accuracy/timeouts": 0.25, "accuracy/errors": 0.0, "accuracy/no_answer": 0.0}
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
        ("[THINK]a[/THINK]<answer>b</answer>", 1.0),
        ("<think>a [/THINK]<answer>b</answer>", 0.0),
        # What is mentioned in the thought neither helps nor harms.
        ("<think>I close with </answer> later</think><answer>b</answer>", 1.0),
        ("<think>First <think>, then <answer>c</answer>.</think><answer>b</answer>", 1.0),
        ('<think>I end with "</think>" and `</answer>`.</think><answer>b</answer>', 1.0),
        ("<think>a <answer>b</answer></think>", 0.0),
        ("<think>a</think><answer>b</answer><think>c</think><answer>d</answer>", 0.0),
        ("<think>a</think>b</think><answer>c</answer>", 0.0),
        ("<think>a\n<think>b</think><answer>c</answer>", 0.0),
        ("<think> \n</think><answer>b</answer>", 0.0),
        ("<think></think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b <answer>c</answer>", 0.0),
        ("<think>a</think><answer>b</answer></answer>", 0.0),
        ("<think>a</think><answer><think>b</answer>", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("a</think><answer>b</answer>", 0.0),
    ],
)
def test_format_reward(text, expected) -> None:
    assert format_reward([text], prompts=["p"]) == [expected]
    assert format_reward([[{"role": "assistant", "content": text}]]) == [expected]


def test_the_prompt_may_open_the_thought_that_the_format_asks_for() -> None:
    text = "a</think><answer>b</answer>"
    assert format_reward([text, text], prompts=["p<think>\n", "p"]) == [1, 0]
    parsed = [{"role": "assistant", "reasoning_content": "a", "content": "<answer>b</answer>"}]
    unfinished = [{"role": "assistant", "reasoning_content": "a</think><answer>b</answer>", "content": ""}]
    assert format_reward([parsed, unfinished]) == [1, 0]
    assert FormatReward(thought_tags(["<plan> </plan>"]))([text.replace("think", "plan")], ["<plan>"]) == [1]


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
        "import sys, antiphase.tasks.pool, antiphase.tasks.task_rewards, antiphase.tasks.worker\n"
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
