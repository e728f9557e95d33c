"""Specs, sources and splits of the task registry."""

import importlib.machinery
import json
import sys
import types

import pandas as pd
import pytest

from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.tasks.gym_task import GymTask
from antiphase.tasks.math_equality import same_answer
from antiphase.tasks.math_sets import MATH_SETS
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import check_request
from antiphase.tasks.registry import build_task, load_task
from antiphase.tasks.task_rewards import rows
from task_cases import as_problem

# From shared/data: MATH-500, GSM8K, OlympiadBench.
MATH_ROWS = [
    ("Convert $(0,3)$ to polar coordinates.", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("Write the double sum in terms of $p$ and $q$.", "p - q"),
    ("If $f(x) = \\frac{3x-2}{x-2}$, what is $f(-2) +f(-1)+f(0)$?", "\\frac{14}{3}"),
    ("Who has the greatest average speed?", "\\text{Evelyn}"),
    ("What is the area of the region? Round to cents.", "\\$18.90"),
    ("How many clips did Natalia sell?", "72"),
    ("Find the solutions.", "1,-2"),
    ("Name the line.", "y = 2x + 3"),
    ("Which functions?", "f(n)=n$, $g(n)=1"),
    ("What is the product?", "11,\\! 111,\\! 111,\\! 100"),
    ("Find the interval.", "(-\\infty, 0) \\cup\\{1\\}$."),
    ("Find the vector.", "\\begin{pmatrix} -1 \\\\ 5 \\end{pmatrix}"),
]


def write_rows(path, table) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    return str(path)


def test_embedded_gsm8k() -> None:
    task = load_task("gsm8k")
    problems = task.problems("test", None, 0)
    assert len(problems) == len({p.problem_id for p in problems}) == 1319
    by_id = {p.problem_id: p for p in problems}
    assert by_id["gsm8k_test-0"].answer == "18"
    assert by_id["gsm8k_test-0"].prompt.startswith("Janet’s ducks lay 16 eggs per day.")
    assert task.problems("test", 5, 0) == problems[:5] != task.problems("test", 5, 1)
    assert (task.name, task.licence) == ("gsm8k", "MIT")
    assert "openai/gsm8k" in task.source
    assert all(task.quick_verdict(f"#### {p.answer}", p) for p in problems)


@pytest.mark.parametrize(
    ("spec", "name", "kind"),
    [
        ("GSM-8K", "gsm8k", "TableTask"),
        ("math_500", "math500", "TableTask"),
        ("digit-sum", "digit_sum", "DigitSumTask"),
        ("knights_and_knaves", "knights_knaves", "GymTask"),
        ("Chain-Sum : min_terms = 2 , max_terms=3", "chain_sum", "GymTask"),
        ("data/some.jsonl:question_column=q", "data/some.jsonl", "TableTask"),
        ("C:\\data\\some.parquet", "C:\\data\\some.parquet", "TableTask"),
        ("owner/some-name_1.0:split=train", "owner/some-name_1.0", "TableTask"),
    ],
)
def test_names_and_aliases(spec, name, kind) -> None:
    task = build_task(spec)
    assert (task.name, type(task).__name__, task.spec) == (name, kind, spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "has no name"),
        (":a=1", "has no name"),
        ("chain_summ", "unknown task 'chain_summ'. Did you mean 'chain_sum'"),
        ("gsm8", "Did you mean 'gsm8k'"),
        ("no/such/path", "unknown task 'no/such/path'"),
        ("gsm8k:", "unknown task 'gsm8k:'"),
        ("absent.jsonl", "the file 'absent.jsonl' does not exist"),
        ("chain_sum:max_terms=3,min_terms", "'min_terms' is not of the form key=value"),
        ("chain_sum:max_terms=", "'max_terms=' is not of the form key=value"),
        ("chain_sum:size=3,size=4", "'size' is given twice"),
        ("chain_sum:max_term=3", "no option 'max_term'. Did you mean 'max_terms'"),
        ("chain_sum:seed=3", "no option 'seed'"),
        ("chain_sum:max_terms=many", "max_terms must be int; got 'many'"),
        ("chain_sum:allow_negation=maybe", "allow_negation must be bool; got 'maybe'"),
        ("chain_sum:min_terms=4,max_terms=3", r"reasoning_gym refuses the options \(max_terms must be >= min_terms\)"),
        ("chain_sum:size=0", "size must be at least 1"),
        ("chain_sum:extract=box", "extract must be one of auto, tags, boxed"),
        ("basic_arithmetic:format_style=odd", "format_style must be one of simple, natural"),
        ("word_sorting:transformation=odd", "transformation must be one of lowercase"),
        ("rearc:rng_difficulty_ranges=0|1", "a spec cannot express it"),
        ("time_intervals:min_time=noon", "min_time must be time; got 'noon'"),
        ("propositional_logic", "does not accept its own reference answer"),
        ("composite", "reasoning_gym refuses the options"),
        ("digit_sum:base=11", "base must be 2 to 10; got 11"),
        ("digit_sum:num_digits=0", "num_digits must be 1 to 1000; got 0"),
        ("digit_sum:bases=3", "no option 'bases'. Did you mean 'base'"),
        ("gsm8k:split=train", "no option 'split'"),
    ],
)
def test_bad_specs(spec, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_task(spec)


def test_options_have_the_types_of_the_generator() -> None:
    task = build_task("basic_arithmetic:operators=+|*,allow_parentheses=no,format_style=simple,max_digits=2")
    assert isinstance(task, GymTask)
    assert dict(task.options) == {
        "operators": ["+", "*"],
        "allow_parentheses": False,
        "format_style": "simple",
        "max_digits": 2,
    }
    assert len(task.problems("all", 3, 0)) == 3
    assert isinstance(task := build_task("countdown:operators=+|-"), GymTask)
    assert dict(task.options) == {"operators": ("+", "-")}
    assert isinstance(task := build_task("figlet_font:static_word=none"), GymTask)
    assert dict(task.options) == {"static_word": None}


def test_local_files(tmp_path, monkeypatch) -> None:
    table = [{"id": f"m-{i}", "question": q, "answer": a, "source": "s"} for i, (q, a) in enumerate(MATH_ROWS)]
    path = write_rows(tmp_path / "m.jsonl", table)
    monkeypatch.chdir(tmp_path)
    task = load_task(path)
    problems = task.problems("all", None, 0)
    assert {(p.problem_id, p.prompt, p.answer) for p in problems} == {
        (r["id"], r["question"], r["answer"]) for r in table
    }
    assert [p.prompt for p in load_task("m.jsonl").problems("all", 4, 3)] == [
        p.prompt for p in task.problems("all", 4, 3)
    ]
    pd.DataFrame({"problem": ["a", "b"], "final_answer": [7.0, 1.5]}).to_parquet(tmp_path / "p.parquet")
    assert {(p.problem_id, p.answer) for p in load_task("p.parquet").problems("all", None, 0)} == {
        ("p-0", "7.0"),
        ("p-1", "1.5"),
    }
    write_rows(tmp_path / "q.jsonl", [{"q": "a", "a": 7}, {"q": "b", "a": ["8"]}, {"q": "a", "a": 9}])
    named = load_task("q.jsonl:question_column=q,answer_column=a").problems("all", None, 0)
    assert {(p.prompt, p.answer) for p in named} == {("a", "7"), ("b", "8")}


@pytest.mark.parametrize(
    "wrapping", ["\\boxed{%s}", "so <answer>%s</answer>", "<think>\\boxed{1}</think> \\boxed{%s}"]
)
def test_every_gold_verifies(tmp_path, wrapping) -> None:
    path = write_rows(tmp_path / "m.jsonl", [{"question": q, "answer": a} for q, a in MATH_ROWS])
    task = load_task(path)
    for row in rows(task.problems("all", None, 0), chat=False):
        problem = as_problem(row)
        assert task.verify(wrapping % problem.answer, problem), problem.answer
        assert not task.verify(wrapping % "12345", problem), problem.answer


def test_verifying_outlives_the_file(tmp_path) -> None:
    path = write_rows(tmp_path / "m.jsonl", [{"question": "a", "answer": "18"}])
    (problem,) = load_task(path).problems("all", None, 0)
    (tmp_path / "m.jsonl").unlink()
    build_task.cache_clear()
    assert build_task(problem.task).verify("\\boxed{18}", problem)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([{"question": "a", "answer": "1"}, {"text": "b", "gold": "2"}], "line 2: no question.*found text, gold"),
        (
            [{"question": "a", "gold": "2"}],
            "line 1: no answer. Looked for the column answer or final_answer or solution",
        ),
        ([{"question": "a", "answer": "1"}, {"question": "b", "answer": " "}], "line 2: the answer is empty"),
        ([{"question": "a", "answer": "so\n#### "}], "line 1: the answer is empty"),
        ([{"question": " ", "answer": "1"}], "line 1: the question must be text that is not empty"),
        ([{"question": 3, "answer": "1"}], "line 1: the question must be text"),
        ([{"question": "a", "answer": True}], "line 1: the answer must be text or a number"),
        ([{"question": "a", "answer": ["1", "2"]}], "line 1: the answer must be text or a number"),
        ([{"id": 1, "question": "a", "answer": "1"}] * 2, "line 2: the id '1' is also the id of .*line 1;"),
    ],
)
def test_bad_rows(tmp_path, table, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_task(write_rows(tmp_path / "m.jsonl", table))


def test_splits_of_a_file_are_disjoint_and_whole(tmp_path) -> None:
    table = [{"question": f"What is {i} + {i}?", "answer": 2 * i} for i in range(200)]
    task = load_task(write_rows(tmp_path / "m.jsonl", [*table, *table[:20]]))
    train, test = ({p.prompt for p in task.problems(split, None, 0)} for split in ("train", "test"))
    assert not train & test
    assert train | test == {row["question"] for row in table}
    assert 20 < len(test) < 60
    with pytest.raises(InvalidInputError, match=f"of the split 'test' is {len(test)}, but must be at least 200"):
        task.problems("test", 200, 0)
    with pytest.raises(InvalidInputError, match="split must be one of train, test, all; got 'validation'"):
        check_request("m", "validation", None)
    with pytest.raises(InvalidInputError, match="num must be at least 1; got 0"):
        task.problems("test", 0, 0)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package `datasets` that records what it is asked for."""
    calls = []

    def load_dataset(name, config, *, split, revision):
        calls.append((name, config, split, revision))
        if split not in ("train", "test"):
            raise ValueError(f"Unknown split {split!r}.\nmore")
        return [
            {
                "question": f"{split} {i}?",
                "problem": f"{split} {i}?",
                "answer": f"so\n#### {i}",
                "solution": f"\\boxed{{{i}}}",
            }
            for i in range(10)
        ]

    module = types.ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.exceptions = types.SimpleNamespace(DatasetsError=OSError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_known_sets_on_the_hub(hub) -> None:
    train = load_task("gsm8k:revision=abc").problems("train", None, 0)
    assert sorted((p.problem_id, p.prompt, p.answer) for p in train)[3] == ("gsm8k_train-3", "train 3?", "3")
    assert len(load_task("gsm8k").problems("all", None, 0)) == 1319 + 10
    assert len(load_task("gsm8k:revision=abc").problems("test", None, 0)) == 10
    assert {p.answer for p in load_task("math").problems("test", 3, 0)} < set("0123456789")
    assert hub == [
        ("openai/gsm8k", "main", "train", "abc"),
        ("openai/gsm8k", "main", "train", MATH_SETS["gsm8k"].revision),
        ("openai/gsm8k", "main", "test", "abc"),
        (MATH_SETS["math"].hub_id, None, "test", MATH_SETS["math"].revision),
    ]
    assert len(load_task("math500").problems("all", None, 0)) == 10
    with pytest.raises(InvalidInputError, match="math500 has no train split"):
        load_task("math500").problems("train", 3, 0)


def test_hub_data_sets(hub) -> None:
    task = load_task("o/d:config=c,revision=r,split=train")
    split = {s: {p.prompt for p in task.problems(s, None, 0)} for s in ("train", "test", "all")}
    assert split["train"] | split["test"] == split["all"]
    assert not split["train"] & split["test"]
    assert hub == [("o/d", "c", "train", "r")] * 3
    official = load_task("o/d").problems("all", None, 0)
    assert len(official) == 20
    with pytest.raises(InvalidInputError, match=r"'o/d' \(config default, split dev\).* \(Unknown split 'dev'.\)"):
        load_task("o/d:split=dev").problems("train", None, 0)
    with pytest.raises(InvalidInputError, match=r"train row 0: no question.*question_column="):
        load_task("o/d:question_column=q").problems("train", None, 0)


@pytest.mark.parametrize(
    ("package", "spec", "named"),
    [
        ("math_verify", "gsm8k", "math-verify"),
        ("datasets", "math500", "datasets"),
        ("reasoning_gym", "chain_sum:max_terms=5", "reasoning-gym"),
    ],
)
def test_missing_packages_are_named(monkeypatch, package, spec, named) -> None:
    build_task.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{named}'. Install it: pip install 'antiphase\[train\]'"):
        load_task(spec).problems("train", None, 0)


@pytest.fixture
def no_math_verify(monkeypatch, tmp_path):
    """No math-verify here, nor in the processes that verify."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "math_verify.py").write_text("raise ImportError('blocked')")
    build_task.cache_clear()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, "math_verify", None)


def test_only_algebra_needs_math_verify(no_math_verify, tmp_path) -> None:
    table = [{"question": f"Which animal is number {i}?", "answer": f"the {i}. cat, dog"} for i in range(40)]
    path = write_rows(tmp_path / "m.jsonl", table)
    choice = {"Question": "Which is a metal?", "Correct Answer": "iron"}
    choice |= {f"Incorrect Answer {i}": f"gas {i}" for i in (1, 2, 3)}
    gpqa = write_rows(tmp_path / "g.jsonl", [choice])
    specs = ["sums", "digit_sum:base=3", "chain_sum", "countdown", f"gpqa_diamond:file={gpqa}"]
    specs += ["gsm8k:compare=exact", f"{path}:compare=exact"]
    with VerifierPool(1) as pool:
        for spec in specs:
            (problem,) = load_task(spec).problems("test", 1, 0)
            texts = [f"<answer>{problem.answer}</answer> A{problem.answer}", "<answer>x+1</answer>"]
            if spec == "sums":
                texts[0] = problem.answer
            verdicts = pool.check([(text, problem) for text in texts])
            assert [verdict.correct for verdict in verdicts] == [True, False], spec
        with pytest.raises(MissingExtraError, match="unless its spec says compare=exact"):
            load_task(path)


def test_exact_comparison() -> None:
    def same(answer, gold, order="given"):
        return same_answer(answer, gold, order, "exact")

    assert all(
        same(*pair) for pair in (("0.50", "1/2"), ("x = 5", "5"), ("\\text{Evelyn}", "Evelyn"), ("(1, 2)", "(1,2)"))
    )
    assert not any(same(*pair) for pair in (("x+1", "1+x"), ("2,1", "1,2"), ("\\sqrt{4}", "2"), ("evelyn", "Evelyn")))
    assert same("2, 1.0", "1,2", "any")
    assert build_task("gsm8k:compare=exact").compare == "exact"
    with pytest.raises(InvalidInputError, match="compare must be one of math, exact; got 'text'"):
        build_task("gsm8k:compare=text")


def test_typo_without_reasoning_gym_is_a_typo(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(InvalidInputError, match="Did you mean 'digit_sum'"):
        load_task("digit_sums")
