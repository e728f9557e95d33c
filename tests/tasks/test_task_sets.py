"""Known sets from local copies, multiple choice, gated data, levels and suites."""

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import pytest

from antiphase.errors import InvalidInputError
from antiphase.tasks.choice_task import LETTERS
from antiphase.tasks.math_sets import BOXED_TEMPLATE, MATH_SETS
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.registry import build_task, load_task
from antiphase.tasks.suites import SUITES, resolve_suite

GPQA_ROWS = [
    {
        "Question": f"Which particle is number {i}?\n",
        "Correct Answer": f"right {i}",
        **{f"Incorrect Answer {k}": f" wrong {i} {k}\n" for k in (1, 2, 3)},
        "Record ID": f"rec{i}",
    }
    for i in range(40)
]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package `datasets`: what it is given is what it serves, or raises."""
    served: list = []

    def load_dataset(name, config, *, split, revision):
        served.append((name, config, split, revision))
        if isinstance(served[0], Exception):
            raise served[0]
        return served[0]

    module = types.ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.exceptions = types.SimpleNamespace(DatasetsError=_DatasetsError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return served


class _DatasetsError(Exception):
    pass


@pytest.mark.parametrize("name", [name for name, known in MATH_SETS.items() if known.test is not None])
def test_a_copy_in_a_file_gives_the_problems_of_the_hub(hub, tmp_path, name) -> None:
    known = MATH_SETS[name]
    rows = [{known.question: f"What is {i} + {i}?", known.answer: str(2 * i)} for i in range(6)]
    hub.append(rows)
    ours = load_task(f"{name}:revision=main").problems("test", None, 0)
    assert hub[1] == (known.hub_id, known.config, known.test, "main")
    path = write_rows(
        tmp_path / "copy.jsonl", [{"question": r[known.question], "answer": r[known.answer]} for r in rows]
    )
    task = load_task(f"{name}:file={path}")
    problems = task.problems("test", None, 0)
    assert [(p.problem_id, p.prompt, p.answer) for p in problems] == [(p.problem_id, p.prompt, p.answer) for p in ours]
    assert task.prompt_template == BOXED_TEMPLATE
    assert (task.name, path in task.source) == (name, True)
    with pytest.raises(InvalidInputError, match=f"is read as the test split of {name}, so it has no train split"):
        task.problems("train", None, 0)
    Path(path).unlink()
    build_task.cache_clear()
    assert build_task(problems[0].task).verify(f"\\boxed{{{problems[0].answer}}}", problems[0])


def test_a_file_given_for_training_is_trained_on(tmp_path) -> None:
    rows = [{"id": f"row-{i}", "question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(40)]
    path = write_rows(tmp_path / "latest.jsonl", rows)
    # The test questions of GSM8K are at hand, so all rows are for training and those are held out.
    task = load_task(f"gsm8k:file={path}").for_training()
    training, held = (task.problems(split, None, 0) for split in ("train", "test"))
    assert sorted(p.prompt for p in training) == sorted(row["question"] for row in rows)
    assert {p.problem_id for p in held} == {f"gsm8k_test-{i}" for i in range(1319)}
    assert len(task.problems("all", None, 0)) == 40 + 1319
    # Those of MATH are not, so the prompt decides, as in a file that is no known set's.
    task = load_task(f"math:file={path}").for_training()
    training, held = (task.problems(split, None, 0) for split in ("train", "test"))
    assert sorted(p.prompt for p in training + held) == sorted(row["question"] for row in rows)
    assert len(training) > len(held) > 0
    # An evaluation reads the same file as the test split, whole.
    assert len(load_task(f"math:file={path}").problems("test", None, 0)) == 40


def test_test_splits_are_not_trained_on_unawares(tmp_path) -> None:
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(9)]
    question = load_task("gsm8k").problems("test", 1, 0)[0].prompt
    path = write_rows(tmp_path / "train.jsonl", [*rows, {"question": f"{question}\n", "answer": "1"}])
    with pytest.raises(InvalidInputError, match=r"1 of the 10 rows of .* are test questions of gsm8k"):
        load_task(f"gsm8k:file={path}").for_training().problems("train", None, 0)
    # Of MATH only what the file says of itself is known.
    path = write_rows(tmp_path / "math-test.jsonl", rows)
    with pytest.warns(UserWarning, match="seems to be a test split, by its name, but the run trains on it"):
        load_task(f"math:file={path}").for_training().problems("train", None, 0)
    named = [{"unique_id": f"test/algebra/{i}.json", **row} for i, row in enumerate(rows)]
    path = write_rows(tmp_path / "contest.jsonl", named)
    with pytest.warns(UserWarning, match="seems to be a test split, by the ids of its rows"):
        load_task(f"math:file={path}").for_training().problems("train", None, 0)
    # A set that only tests stays one, and the message says what can be trained on.
    with pytest.raises(
        InvalidInputError, match=r"of aime24, so it has no train split\. .* name the file alone: .*contest\.jsonl"
    ):
        load_task(f"aime24:file={path}").for_training().problems("train", None, 0)
    assert load_task(path).for_training().problems("train", None, 0)


def test_pinned_revisions_are_what_is_read(hub) -> None:
    hub.append([{"problem": "1+1?", "answer": "2"}])
    load_task("aime25").problems("test", None, 0)
    assert hub[1] == ("math-ai/aime25", None, "test", "563bb8404243c5f09de6ec262f2db674fe5bce9b")
    unpinned = {name for name, known in MATH_SETS.items() if known.revision == "main"}
    assert unpinned == {"openthoughts_math"}  # no commit of it is known to us
    pinned = [known.revision for name, known in MATH_SETS.items() if name not in unpinned]
    assert all(len(revision) == 40 and int(revision, 16) for revision in pinned)
    # The sizes that a dry run counts by are those that docs/tasks.md states.
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    for name, known in MATH_SETS.items():
        if known.test is not None:
            (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` | `{known.revision}`")]
            assert f"`{known.test}` {known.test_rows:,}" in line


class _Table(list):
    """Rows as the package `datasets` serves them, as far as a set with large columns needs."""

    @property
    def column_names(self):
        return list(self[0])

    def select_columns(self, names):
        return _Table({name: row[name] for name in names} for row in self)


OPENTHOUGHTS = [
    {"problem": f"What is {i} + {i}?", "solution": solution, "messages": ["long"], "correct": True}
    for i, solution in enumerate(
        ("so \\boxed{0}.", "first \\boxed{9}, then \\boxed{2}", "a proof without an answer", "\\boxed{}", "it is $6$")
    )
]


def test_the_training_set_of_the_paper_keeps_boxed_answers(hub, tmp_path) -> None:
    hub.append(_Table(OPENTHOUGHTS))
    problems = load_task("openthoughts_math").problems("all", None, 0)
    assert hub[1] == ("open-r1/OpenThoughts-114k-math", None, "train", "main")
    assert {problem.prompt: problem.answer for problem in problems} == {"What is 0 + 0?": "0", "What is 1 + 1?": "2"}
    path = write_rows(tmp_path / "copy.jsonl", OPENTHOUGHTS)
    copy = load_task(f"openthoughts_math:file={path}").problems("all", None, 0)
    assert {problem.prompt for problem in copy} == {problem.prompt for problem in problems}
    # Training and test problems are told apart by the prompt, as in every set without official splits.
    many = [{"problem": f"{i}?", "solution": f"\\boxed{{{i}}}"} for i in range(40)]
    path = write_rows(tmp_path / "many.jsonl", many)
    parts = [load_task(f"openthoughts_math:file={path}").problems(split, None, 0) for split in ("train", "test")]
    assert sum(map(len, parts)) == 40
    assert not {p.prompt for p in parts[0]} & {p.prompt for p in parts[1]}


def test_order_of_rows_does_not_matter_to_ids(tmp_path) -> None:
    rows = [{"question": f"{i}?", "answer": i} for i in range(9)]
    ids = [
        {p.prompt: p.problem_id for p in load_task(f"amc23:file={path}").problems("test", None, 0)}
        for path in (write_rows(tmp_path / "a.jsonl", rows), write_rows(tmp_path / "b.jsonl", rows[::-1]))
    ]
    assert ids[0] == ids[1]
    twice = write_rows(tmp_path / "c.jsonl", [rows[0], rows[0]])
    assert len({p.problem_id for p in load_task(f"amc23:file={twice}").problems("test", None, 0)}) == 2


@pytest.mark.parametrize(
    ("spec", "rows", "message"),
    [
        ("math500", [{"problem": "a", "solution": ""}], "line 1: the answer is empty"),
        (
            "aime24",
            [{"problem": "a", "answer": "1"}, {"problem": "b"}],
            "line 2: no answer. Looked for the column answer or final_answer or solution; found problem. "
            "Name its column with answer_column=.",
        ),
        ("gsm8k", [{"text": "a", "answer": "1"}], "line 1: no question. Looked for the column question or problem or"),
        ("amc23", [{"question": "a", "answer": ["1", "2"]}], "line 1: the answer must be text or a number"),
        ("olympiadbench", [{"question": "a", "final_answer": []}], "line 1: the answer must be text or a number"),
        ("gpqa_diamond", [{"Question": "a", "Correct Answer": "b"}], "line 1: no wrong answer. .*Incorrect Answer 1"),
        ("gpqa_diamond", [{"question": "a"}], "line 1: no answer. Looked for the column Correct Answer"),
        ("gpqa_diamond", [{"question": "a", "answer": "E"}], "line 1: no answer that is a letter A to D"),
        (
            "gpqa_diamond",
            [{**GPQA_ROWS[0], "Incorrect Answer 2": "right 0"}],
            "line 1: the right answer 'right 0' is also one of the wrong ones",
        ),
    ],
)
def test_rows_without_answers_are_refused_early(tmp_path, spec, rows, message) -> None:
    path = write_rows(tmp_path / "copy.jsonl", rows)
    with pytest.raises(InvalidInputError, match=message):
        load_task(f"{spec}:file={path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("math500:file=absent.jsonl", "the file 'absent.jsonl' does not exist"),
        ("math500:file=a.csv", "file must end in .jsonl, .json, .ndjson, .parquet; got 'a.csv'"),
        ("math500:file=a.jsonl,revision=main", "give file= or revision=, not both"),
        ("gpqa:files=a.jsonl", "no option 'files'. Did you mean 'file'"),
        ("gpqa:order=any", "no option 'order'"),
        ("chain_sum:level=99", "level must be 0 to"),
        ("list_functions:level=1", "list_functions has no curriculum, so it has no levels"),
        ("knight_swap:level=0", "reasoning_gym refuses the options"),
        ("digit_sum:level=1", "no option 'level'"),
    ],
)
def test_bad_options(spec, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_task(spec)


def test_lists_and_contexts_of_olympiadbench(tmp_path) -> None:
    rows = [
        {"question": "Roots?", "final_answer": ["1", "-2"], "context": "Let $f(x)=x^2+x-2$."},
        {"question": "Pair?", "final_answer": ["(1,2)"], "context": None},
    ]
    roots, pair = sorted(
        load_task(f"olympiadbench:file={write_rows(tmp_path / 'o.jsonl', rows)}").problems("test", None, 0),
        key=lambda problem: problem.answer,
        reverse=True,
    )
    if roots.answer.startswith("("):
        roots, pair = pair, roots
    assert (roots.prompt, roots.answer) == ("Let $f(x)=x^2+x-2$.\nRoots?", "1, -2")
    task = build_task(roots.task)
    verdicts = [task.verify(f"\\boxed{{{text}}}", roots) for text in ("-2,1", "\\{1,-2\\}", "x=1, x=-2", "1", "1,2")]
    assert verdicts == [True, True, True, False, False]
    assert [task.verify(f"\\boxed{{{text}}}", pair) for text in ("(1,2)", "(2,1)", "\\{1,2\\}")] == [
        True,
        False,
        False,
    ]
    strict = build_task(f"{roots.task},order=given")
    assert not strict.verify("\\boxed{-2,1}", roots)


def test_gpqa_options_and_letters(tmp_path) -> None:
    spec = f"gpqa_diamond:file={write_rows(tmp_path / 'g.jsonl', GPQA_ROWS)}"
    problems = load_task(spec).problems("test", None, 0)
    again = load_task(f"gpqa:file={write_rows(tmp_path / 'h.jsonl', GPQA_ROWS[::-1])}").problems("test", None, 5)
    assert {(p.problem_id, p.prompt, p.answer) for p in problems} == {
        (p.problem_id, p.prompt, p.answer) for p in again
    }
    assert {p.answer for p in problems} == set(LETTERS)
    for problem in problems:
        number = problem.prompt.split("number ")[1].split("?")[0]
        assert f"\n{problem.answer}) right {number}" in problem.prompt
        assert [problem.prompt.count(f"\n{letter}) ") for letter in LETTERS] == [1, 1, 1, 1]
    task = build_task(spec)
    assert task.prompt_template is not None
    assert "{prompt}" in task.prompt_template
    with VerifierPool(1) as pool:
        pairs = [(f"\\boxed{{{letter}}}", problems[0]) for letter in LETTERS]
        assert [v.correct for v in pool.check(pairs)] == [letter == problems[0].answer for letter in LETTERS]
    lettered = write_rows(tmp_path / "l.jsonl", [{"question": "Which?\nA) 1\nB) 2\nC) 3\nD) 4", "answer": "(C)"}])
    assert load_task(f"gpqa:file={lettered}").problems("all", None, 0)[0].answer == "C"


def gated(status: int) -> Exception:
    """What `datasets` raises where the hub answers 401 or 403 for a gated data set."""
    from datasets.exceptions import DatasetNotFoundError

    error = DatasetNotFoundError(f"Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.\nStatus {status}.")
    error.__cause__ = bare_gated(status)
    return error


def bare_gated(status: int) -> Exception:
    """What huggingface_hub raises, where `datasets` does not wrap it."""
    from huggingface_hub.errors import GatedRepoError

    error = GatedRepoError.__new__(GatedRepoError)
    error.args = (f"{status} Client Error.\nCannot access gated repo",)
    return error


def absent(status: int) -> Exception:
    """What `datasets` raises for a data set that is not there."""
    from datasets.exceptions import DatasetNotFoundError

    return DatasetNotFoundError(f"Dataset 'Idavidrein/gpqa' doesn't exist on the Hub or cannot be accessed. {status}")


def broken(status: int) -> Exception:
    """What `datasets` raises in building, around the hub's refusal of a file."""
    from datasets.exceptions import DatasetGenerationError

    error = DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = bare_gated(status)
    return error


@pytest.mark.parametrize(
    ("made", "status", "says"),
    [(gated, 401, True), (gated, 403, True), (bare_gated, 403, True), (broken, 403, True), (absent, 404, False)],
)
def test_gated_data_says_what_to_do(monkeypatch, made, status, says) -> None:
    import datasets

    def load_dataset(*args, **kwargs):
        raise made(status)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InvalidInputError) as caught:
        load_task("gpqa_diamond").problems("test", None, 0)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith("Or give a local copy: gpqa_diamond:file=PATH.")
    assert ("is gated: accept its terms on https://huggingface.co/datasets/Idavidrein/gpqa" in text) is says
    assert ("log in with `hf auth login`" in text) is says


def test_levels_of_reasoning_gym() -> None:
    easy, hard = load_task("chain_sum:level=0"), load_task("chain_sum:level=3")
    lengths = [sum(len(p.prompt) for p in task.problems("test", 20, 0)) for task in (easy, hard)]
    assert lengths[0] < lengths[1]
    (problem,) = load_task("chain_sum:level=0,max_digits=5,min_digits=5").problems("test", 1, 0)
    with VerifierPool(1) as pool:
        pairs = [(f"<answer>{text}</answer>", problem) for text in (problem.answer, f"{problem.answer}1")]
        assert [verdict.correct for verdict in pool.check(pairs)] == [True, False]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_every_lowest_level_makes_problems() -> None:
    from reasoning_gym.factory import CURRICULA

    refused = {}
    for name in sorted(CURRICULA):
        try:
            load_task(f"{name}:level=0")
        except InvalidInputError as error:
            refused[name] = str(error)
    assert set(refused) <= {
        "boxnet", "game_of_life_halting", "graph_color", "knight_swap", "propositional_logic", "rubiks_cube",
        "rush_hour",
    }, refused  # fmt: skip


def test_suites_name_tasks_that_exist() -> None:
    assert set(SUITES) == {"math", "logic", "paper", "smoke"}
    for name, entries in SUITES.items():
        assert resolve_suite(name) == entries
        assert len({entry.spec for entry in entries}) == len(entries)
        for entry in entries:
            task = load_task(entry.spec)
            assert entry.prompt_template is None or entry.prompt_template.count("{prompt}") == 1
            if name not in ("math", "paper"):
                num = entry.num_problems if name == "smoke" else 10  # some are slow to make
                assert len(task.problems("test", num, 0)) == num
    assert [entry.spec for entry in SUITES["math"]] == [
        "gsm8k", "math500", "aime24", "aime25", "amc23", "minerva", "olympiadbench",
    ]  # fmt: skip
    with pytest.raises(InvalidInputError, match=r"unknown suite 'maths'\. Did you mean 'math'"):
        resolve_suite("maths")


def test_templates_are_for_evaluation_only() -> None:
    assert load_task("gsm8k").prompt_template == BOXED_TEMPLATE
    assert [build_task(spec).prompt_template for spec in ("sums", "digit_sum", "chain_sum", "x.jsonl", "o/d")] == [
        None
    ] * 5


def test_names_of_reasoning_gym_are_those_that_it_registers() -> None:
    from antiphase.tasks.gym_names import gym_names
    from antiphase.tasks.gym_task import gym_generators

    assert set(gym_names()) == set(gym_generators())
