"""Tasks of the generators of reasoning_gym: answers, splits, and generators that are refused."""

import json

import pytest

from antiphase.errors import InvalidInputError
from antiphase.tasks.gym_task import GymTask, gym_generators
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import load_task
from antiphase.tasks.task_rewards import rows
from task_cases import as_problem

# Generators that have no reference answer, or accept any answer.
REFUSED = {
    "boxnet",
    "composite",
    "game_of_life_halting",
    "graph_color",
    "propositional_logic",
    "rubiks_cube",
    "rush_hour",
}


def check_generator(name: str, num: int) -> None:
    task = load_task(name)
    problems = task.problems("all", num, 0)
    assert [p.prompt for p in problems] == [p.prompt for p in task.problems("all", num, 0)]
    assert isinstance(task, GymTask)
    for row in rows(problems, chat=True):
        problem = as_problem(row)
        assert task.verify(f"I think <answer>{problem.answer}</answer>", problem), problem
        assert task._scores(problem.answer, task._entry(problem)), problem
        wrong_answers = [
            "no idea",
            "nan",
            "inf",
            "None",
            "[]",
            "18 19 20",
            problem.prompt[:3000],
            "(" * 100,
            "x" * 1000,
        ]
        for wrong in ["", *(f"<answer>{text}</answer>" for text in wrong_answers if text != problem.answer)]:
            assert not task.verify(wrong, problem), (wrong, problem)


@pytest.mark.parametrize(
    "name",
    [
        "chain_sum", "countdown", "knights_knaves", "simple_equations", "n_queens", "spell_backward",
        "number_sorting", "time_intervals", "zebra_puzzles",
    ],
)  # fmt: skip
def test_generators(name) -> None:
    check_generator(name, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", sorted(set(gym_generators()) - REFUSED))
def test_every_generator(name) -> None:
    check_generator(name, 3)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_generators(name) -> None:
    with pytest.raises(InvalidInputError, match=r"does not accept its own|refuses the options|accepts '.*' where"):
        load_task(name)


def test_scorers_that_accept_too_much_are_guarded() -> None:
    for name, wrong in (("coin_flip", "0"), ("gsm_symbolic", "{0} or 19"), ("complex_arithmetic", "nan")):
        task = load_task(name)
        for problem in task.problems("all", 4, 0):
            assert not task.verify(f"<answer>{wrong.format(problem.answer)}</answer>", problem), name
    task = load_task("time_intervals")
    late = next(p for p in task.problems("all", 40, 0) if p.answer.count(":") == 1 and " " not in p.answer)
    hours, minutes = late.answer.split(":")
    assert not task.verify(f"<answer>{hours}:{(int(minutes) + 1) % 60:02d}</answer>", late)  # scores 0.999


def test_generators_have_disjoint_splits() -> None:
    task = load_task("chain_sum:max_terms=3")
    test = task.problems("test", 40, 0)
    train = task.problems("train", 40, 1)
    assert not {p.prompt for p in test} & {p.prompt for p in train}
    assert {p.prompt for p in train} != {p.prompt for p in task.problems("train", 40, 2)}
    assert len({p.problem_id for p in train}) == 40


def test_entry_that_is_no_json_is_made_again() -> None:
    task = load_task("chain_sum")
    (problem,) = task.problems("all", 1, 0)
    _, seed, index = problem.problem_id.split("-")
    place = Problem("p", "chain_sum", "", problem.answer, f'{{"seed": {seed}, "index": {index}}}')
    assert isinstance(task, GymTask)
    assert task._entry(place) == task._entry(problem)


def test_no_partial_credit_and_no_code() -> None:
    task = load_task("countdown")
    problem = next(p for p in task.problems("all", 20, 0))
    target = json.loads(problem.metadata)["entry"]["metadata"]["target"]
    for wrong in (
        str(target),
        f"{problem.answer} # {target}",
        f"{problem.answer} = {target}",
        f"({problem.answer})*1.0",
    ):
        assert not task.verify(f"<answer>{wrong}</answer>", problem)
    assert task.verify(f"<answer>({problem.answer}).</answer>", problem)
    assert not load_task("knights_knaves").verify("Lily is here", load_task("knights_knaves").problems("all", 1, 0)[0])
