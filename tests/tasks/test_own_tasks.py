"""Tasks of a user's own: from a file and from a module, in processes that verify, in evaluation and in training."""

import hashlib
import json
import sys

import pandas as pd
import pytest

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.evaluation.compare import compare
from antiphase.evaluation.evaluate import evaluate
from antiphase.study.definition import read_study
from antiphase.tasks import Problem, QuestionTask, VerifierPool, load_task
from antiphase.tasks.registry import build_task
from antiphase.tasks.specs import split_specs
from antiphase.tasks.task_rewards import AccuracyReward, rows
from antiphase.tasks.verdict import VerifierError
from antiphase.training.recipe import parse_recipe
from antiphase.training.trajectory import read_trajectory
from docs_pages import DOCS, module
from training_cases import flags

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
EXAMPLE = DOCS / "examples" / "chemistry_task.py"
MASS = f"{EXAMPLE}:SubstanceMass"
PLAIN = """
import time
from dataclasses import dataclass
from antiphase.tasks import Problem, Task

class Plain(Task):
    def problems(self, split, num, seed):
        return [Problem(f"p{i}", "", f"{split} {i}?", str(i)) for i in range(num or 6)]
    def verify(self, completion, problem):
        assert problem.prompt.endswith("?")
        if completion == "hang":
            time.sleep(60)
        return bool(completion and (completion == problem.answer or {}[completion]))  # raises on a wrong answer
    def quick_verdict(self, completion, problem):
        return [][1] if "x" in completion else None
    def extracted(self, completion, problem):
        return completion[:30_000] if "y" not in completion else [][1]
    def well_formed(self, completion, problem):
        return completion.isdigit() if "y" not in completion else [][1]
"""


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(PLAIN)
    return path


def test_the_example() -> None:
    chemistry = module("examples/chemistry_task")
    assert chemistry.molar_mass("Mg3(PO4)2") == pytest.approx(262.855, abs=0.01)
    task = load_task(f"{MASS}:tolerance=0.01")
    problems = task.problems("all", None, 0)
    assert len({problem.problem_id for problem in problems}) == len(problems) == 75
    train, test = (task.problems(split, None, 0) for split in ("train", "test"))
    assert {p.prompt for p in train} | {p.prompt for p in test} == {p.prompt for p in problems}
    assert task.problems("train", 5, 1) == task.problems("train", None, 1)[:5] != train[:5]
    (water,) = [p for p in problems if "12 mol of H2O?" in p.prompt]
    assert water.answer == "216.2 g"
    right = ("216 g", "0.2162 kg", "\\text{215 g}", "216200\\,\\mathrm{mg}", "2.162e2g")
    wrong = ("216.2", "216.2 kg", "230 g", "216 g or 1 g", "g", "")
    answers = [*right, *wrong]
    assert all(task.verify(f"216.2 g, so \\boxed{{{p.answer}}}", p) for p in problems)
    with VerifierPool(1) as pool:
        verdicts = pool.check([(f"so \\boxed{{{answer}}}", water) for answer in answers])
    assert [verdict.correct for verdict in verdicts] == [True] * len(right) + [False] * len(wrong)
    assert {verdict.outcome for verdict in verdicts} == {"right", "wrong", "no answer"}


def test_the_example_is_evaluated(tmp_path, model_dir, capsys, monkeypatch) -> None:
    monkeypatch.chdir(EXAMPLE.parent)
    out, spec = tmp_path / "run", "chemistry_task.py:SubstanceMass:tolerance=0.01"
    options = ["--num-problems", "2", "--samples", "2", "--max-new-tokens", "8", "--quiet"]
    assert main(["eval", str(model_dir), "--tasks", spec, *options, "--out", str(out)]) == 0
    assert "chemistry_task.py" in capsys.readouterr().out
    stored = json.loads((out / "config.json").read_text())["config"]
    assert stored["tasks"] == [spec]
    assert stored["tasks_sha256"] == {spec: hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()}
    assert json.loads((out / "summary.json").read_text())["config"]["tasks_sha256"] == stored["tasks_sha256"]
    assert set(pd.read_parquet(out / "rollouts.parquet").outcome) <= {"wrong", "cut off"}


def test_the_example_rewards(tmp_path, model_dir, capsys) -> None:
    arguments = flags(model_dir, tmp_path / "run", tasks=MASS, max_steps=1, eval_problems=2, eval_samples=1)
    recorded = {MASS: hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()}
    assert main(["train", *arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "59 training problems, 2 held out" in printed
    assert json.dumps(recorded, indent=2).strip("{}\n ") in printed
    assert main(["train", *arguments]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["tasks_sha256"] == recorded
    (step,) = [row for row in read_trajectory(tmp_path / "run") if row["kind"] == "step"]
    assert step["task/accuracy"] == 0


def given(spec, answers):
    (problem,) = load_task(spec).problems("test", 1, 0)
    return [{"problem_id": problem.problem_id, "completion": text, "sample": i} for i, text in enumerate(answers)]


def scored(model_dir, spec, answers, **options):
    shared = {"num_problems": 1, "progress": False, "figures": False, "num_resamples": 20, "unit": "token"}
    return evaluate(str(model_dir), tasks=(spec,), rollouts=given(spec, answers), **shared, **options)


def test_outcomes_of_an_evaluation(model_dir, plain) -> None:
    """A verifier that hangs or raises costs its completion alone; so do the methods that run here."""
    found = scored(model_dir, f"{plain}:Plain", ["0", "hang", "7", "0x", "0y"], timeout=0.5).rollouts
    shown = {row.completion: (row.outcome, row.answer, row.well_formed) for row in found.itertuples()}
    assert shown["0"] == ("right", "0", True)
    assert shown["hang"] == ("timeout", "hang", False)
    assert shown["7"] == ("error", "7", True)
    assert shown["0x"] == ("error", "0x", False)
    assert shown["0y"][::2] == ("error", False)
    assert pd.isna(shown["0y"][1])


def test_a_changed_verifier_is_noticed(tmp_path, model_dir, plain, capsys) -> None:
    spec = f"{plain}:Plain"
    for name, comment in (("a", ""), ("b", "# changed\n")):
        plain.write_text(PLAIN + comment)
        scored(model_dir, spec, ["0", "7"], out=tmp_path / name)
    (tmp_path / "a" / "summary.json").unlink()
    with pytest.raises(InvalidInputError, match=r"other options, .*: tasks_sha256 was .*, is "):
        scored(model_dir, spec, ["0", "7"], out=tmp_path / "a", resume=True)
    plain.write_text(PLAIN)
    scored(model_dir, spec, ["0", "7"], out=tmp_path / "a", resume=True)
    with pytest.raises(InvalidInputError, match="verifier: the file of the task"):
        compare([f"one={tmp_path}/a", f"two={tmp_path}/b"])


def test_a_changed_verifier_is_noticed_by_a_training(tmp_path, model_dir, plain, capsys) -> None:
    out = tmp_path / "run"
    out.mkdir()
    arguments = flags(model_dir, out, tasks=f"{plain}:Plain", eval_problems=0)
    (out / "recipe.json").write_text(json.dumps(parse_recipe(arguments).resolved))
    plain.write_text(PLAIN + "# changed")
    assert main(["train", *arguments, "--resume"]) == 2
    assert "tasks_sha256 was" in capsys.readouterr().err


def test_a_changed_verifier_is_noticed_by_a_study(tmp_path, plain) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        f"models: {{tiny: nowhere}}\nmethods: {{grpo: {{}}}}\nseeds: [0]\ntrain: {{tasks: '{plain}:Plain'}}\n"
        f"eval: {{tasks: ['{plain}:Plain', gsm8k]}}\n"
    )
    before = [cell.digest() for cell in read_study(study).cells]
    plain.write_text(PLAIN + "# changed")
    assert not set(before) & {cell.digest() for cell in read_study(study).cells}


def test_a_change_under_way(plain) -> None:
    """What was loaded is what verifies; another process does not take up another file."""
    spec = f"{plain}:Plain"
    (problem,) = load_task(spec).problems("test", 1, 0)
    with VerifierPool(1) as pool:
        assert pool.check([("7", problem)])[0].outcome == "error"
        plain.write_text(PLAIN.replace("return bool(completion", "return bool(completion == '7' or completion"))
        assert pool.check([("7", problem)])[0].outcome == "error"
        pool.close()
        with pytest.raises(VerifierError, match="has changed since it was loaded"):
            pool.check([("7", problem)])
        load_task(spec)
        assert pool.check([("7", problem)])[0].outcome == "right"


def test_relative_files_and_modules(tmp_path, monkeypatch) -> None:
    """They are found from the working directory of when they were loaded."""
    package = tmp_path / "here" / "own_package_of_tasks"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(PLAIN)
    monkeypatch.chdir(package.parent)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    specs = ("own_package_of_tasks/tasks.py:Plain", "own_package_of_tasks.tasks:Plain")
    problems = [load_task(spec).problems("test", 1, 0)[0] for spec in specs]
    assert [problem.task for problem in problems] == list(specs)
    monkeypatch.chdir(tmp_path)
    with VerifierPool(1) as pool:
        assert [v.outcome for v in pool.check([("7", p) for p in problems])] == ["error"] * 2
        assert [v.outcome for v in pool.check([("0", p) for p in problems])] == ["right"] * 2
    with pytest.raises(InvalidInputError, match=r"there is no file 'own_package_of_tasks/tasks\.py'"):
        load_task(specs[0])
    build_task.cache_clear()


def test_rewards_see_the_question(plain) -> None:
    """Plain's verifier refuses a problem without its prompt, which training puts a template around."""
    problems = load_task(f"{plain}:Plain").problems("train", 3, 0)
    table = rows(problems, prompt_template="Q: {prompt}!", chat=True)
    columns = {key: [row[key] for row in table] for key in table[0] if key != "prompt"}
    with VerifierPool(1) as pool:
        assert AccuracyReward(pool=pool)(["p"] * 3, ["0", "x", "2"], **columns) == [1.0, 0.0, 1.0]


OWN = """
from pathlib import Path
from antiphase.errors import InvalidInputError
from antiphase.tasks import Problem, QuestionTask, Task

class Asks(QuestionTask):
    def questions(self):
        return [(f"What is {i}?", str(i)) for i in range(40)]
    def is_right(self, answer, problem):
        return answer == problem.answer

class Given(Asks):
    given = ()
    def problems(self, split, num, seed):
        return self.given

class Nothing(Given): pass
class Many(Given):
    given = [Problem(str(i), "", "?", "1") for i in range(3)]
class NoProblem(Given):
    given = ["1 + 1"]
class NoId(Given):
    given = [Problem("a", "", "?", "1"), Problem("", "", "?", "1")]
class NumberAsId(Given):
    given = [Problem("7", "", "?", "1")]
    object.__setattr__(given[0], "problem_id", 7)
class Twice(Given):
    given = [Problem("a", "", "?", "1"), Problem("b", "", "!", "1"), Problem("a", "", "!!", "1")]
class NoPrompt(Given):
    given = [Problem("a", "", " ", "1")]
class Fails(Asks):
    def questions(self):
        yield "What?", "1"
        raise KeyError("golden")
class TwoAnswers(Asks):
    def questions(self):
        return [("What?", "1"), ("What?", "2")]
class Score(Asks):
    def verify(self, completion, problem):
        return 0.5
class Raises(Asks):
    def is_right(self, answer, problem):
        return problem.answr
class Disagrees(Asks):
    def quick_verdict(self, completion, problem):
        return True
class Half(Task):
    def problems(self, split, num, seed): ...
class Needs(Asks):
    def __init__(self, data: Path, base: int = 10, loud=False, other: "Path | None" = None):
        super().__init__("", "needs", "here", "CC0")
        self.seen = (data, base, loud, other)
class Trains(Asks):
    def for_training(self):
        return Many("", "m", "here", "CC0")
class Template(Asks):
    def __init__(self):
        super().__init__("", "t", "here", "CC0", prompt_template="Q:")
class Nameless(Asks):
    def __init__(self):
        super().__init__("", "n", "here", "CC0")
        object.__setattr__(self, "name", None)
def made(level: int): return Asks("", f"made{level}", "here", "CC0")
def nothing(): return None
def refuses(): raise InvalidInputError("give a level")
def breaks(): return 1 / 0
value = 3
class Other: pass
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return path


def line(text):
    """The line of OWN that holds a text."""
    return next(number for number, content in enumerate(OWN.splitlines(), 1) if text in content)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "say which task of the file, as .*own.py:MyTask"),
        (":Askes", "own.py has no task 'Askes'. Did you mean 'Asks'"),
        (":value", "value in .*own.py is a int; expected a subclass of antiphase.tasks.Task"),
        (":Other", "is the class Other; expected a subclass"),
        (":Half", "Half cannot make the task .TypeError: Can't instantiate abstract class Half"),
        (":nothing", "nothing returned a NoneType; expected"),
        (":breaks", f"breaks cannot make the task .ZeroDivisionError: division by zero; line {line('1 / 0')}"),
        (":refuses", "give a level"),
        (":Template", "prompt_template must contain"),
        (":Nameless", "its name must be text; got None"),
        (":made", "the option 'level' is needed. Write .*own.py:made:level=VALUE"),
        (":made:level=high", "the option level must be int; got 'high'"),
        (":Asks:extracts=boxed", "no option 'extracts'. Did you mean 'extract'"),
        (":Asks:spec=x", "no option 'spec'"),
        (":Nothing", "problems gave 0 problems of the split 'test'; expected at least one"),
        (":NoProblem", "problem 0 of 1 is a str; expected an antiphase.tasks.Problem"),
        (":NoId", "problem 1 of 2 has no problem_id. Every problem needs"),
        (":NumberAsId", "problem 0 of 1: its problem_id must be text; got 7"),
        (":Twice", "problem 2 of 3 has the id 'a', which problem 0 has too; ids must be unique"),
        (":NoPrompt", "problem 0 of 1 has no prompt"),
        (":Fails", f"problems fails .KeyError: 'golden'; line {line('raise KeyError')}"),
        (":TwoAnswers", "the question 'What\\?' has two answers, '1' and '2'"),
        (":Score", "verify fails .TypeError: it returned 0.5; expected True or False"),
        (":Raises", f"verify fails .AttributeError: .*'answr'; line {line('problem.answr')}"),
        (":Disagrees", "quick_verdict says True but verify says False. Return None"),
    ],
)  # fmt: skip
def test_bad_tasks(own, name, message) -> None:
    with pytest.raises(InvalidInputError, match=message) as raised:
        load_task(f"{own}{name}").problems("test", None, 0)
    assert "\n" not in str(raised.value)


def test_bad_numbers_of_problems(own) -> None:
    with pytest.raises(InvalidInputError, match="gave 3 problems of the split 'train'; expected 2"):
        load_task(f"{own}:Many").problems("train", 2, 0)
    assert [p.problem_id for p in load_task(f"{own}:Trains").for_training().problems("train", 3, 0)] == ["0", "1", "2"]
    with pytest.raises(InvalidInputError, match=r"'train' is \d+ \(of 40\), but must be at least 400"):
        load_task(f"{own}:Asks").problems("train", 400, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport absent_module_x\n", "ModuleNotFoundError: No module named 'absent_module_x'; line 2"),
        ("\n\ndef f(:\n", "SyntaxError: .*; line 3"),
        ("def f():\n    raise SystemExit('no\\nway')\nf()\n", "SystemExit: no way; line 2"),
    ],
)
def test_files_that_raise(tmp_path, capsys, model_dir, text, message) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InvalidInputError, match=rf"bad.py cannot be imported \({message}\)\."):
        load_task(f"{tmp_path}/bad.py:T")
    (tmp_path / "bad.py").unlink()
    assert main(["eval", str(model_dir), "--tasks", f"{tmp_path}/bad.py:T", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_modules_that_are_none() -> None:
    with pytest.raises(InvalidInputError, match="there is no module 'no_such_module_x'"):
        load_task("no_such_module_x:T")
    with pytest.raises(InvalidInputError, match=r"no_such_module_x\.tasks cannot be imported"):
        load_task("no_such_module_x.tasks:T")
    with pytest.raises(InvalidInputError, match=r"unknown task 'gsm8k:extract'"):  # an option without its value
        load_task("gsm8k:extract")


def test_options_of_a_task(own) -> None:
    task = load_task(f"{own}:Needs:data=a/b,base=3,loud=yes,other=none")
    assert [str(value) for value in task.inner.seen] == ["a/b", "3", "True", "None"]
    assert (task.name, task.source, task.licence) == ("needs", "here", "CC0")
    assert load_task(f"{own}:made:level=2").name == "made2"
    asks = load_task(f"{own}:Asks:extract=boxed")
    assert (asks.name, asks.source, asks.licence) == ("Asks", f"Asks in {own}", "not stated")
    (problem,) = asks.problems("test", 1, 0)
    assert (asks.extracted(" \\boxed{ 7 }", problem), asks.extracted("7", problem)) == ("7", None)
    assert split_specs("a.py:T,b.c:T:x=1,y=2,gsm8k") == ("a.py:T", "b.c:T:x=1,y=2", "gsm8k")


def test_a_file_runs_once_and_again_where_it_changed(tmp_path) -> None:
    path = tmp_path / "counted.py"
    path.write_text(OWN + f"with open({str(tmp_path / 'runs')!r}, 'a') as file: file.write('x')\n")
    for _ in range(3):
        load_task(f"{path}:Asks")
    build_task.cache_clear()
    load_task(f"{path}:made:level=1")
    assert (tmp_path / "runs").read_text() == "x"
    path.write_text(path.read_text().replace("range(40)", "range(50)"))
    assert len(load_task(f"{path}:Asks").problems("all", None, 0)) == 50
    assert (tmp_path / "runs").read_text() == "xx"


def test_the_names_of_the_package() -> None:
    import antiphase.tasks

    for name in antiphase.tasks.__all__:
        assert getattr(antiphase.tasks, name) is not None
    assert set(antiphase.tasks.__all__) <= set(dir(antiphase.tasks))
    with pytest.raises(AttributeError, match="no attribute 'Tasks'"):
        _ = antiphase.tasks.Tasks
    assert issubclass(QuestionTask, antiphase.tasks.Task)
    assert Problem("a", "t", "p", "1").metadata == "{}"
