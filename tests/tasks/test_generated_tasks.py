"""Tasks that antiphase generates."""

import pytest

from antiphase.errors import InvalidInputError
from antiphase.tasks.distinct_problems import in_split
from antiphase.tasks.registry import load_task


class TestSums:
    def test_problems_and_answers(self):
        task = load_task("sums:digits=2|1")
        problems = task.problems("train", 50, seed=0)
        for problem in problems:
            left, right = map(int, problem.prompt.split("+"))
            assert 10 <= left <= 99
            assert 1 <= right <= 9
            assert problem.answer == str(left + right)
            assert task.verify(f"{problem.answer}, since {problem.prompt}={problem.answer}", problem)
            assert not task.verify(f"{problem.answer}, since {problem.prompt}={left}", problem)
        assert not {p.prompt for p in problems} & {p.prompt for p in task.problems("test", 50, seed=0)}

    @pytest.mark.parametrize("spec", ["sums:digits=2", "sums:digits=0|1", "sums:size=0", "sums:digit=1"])
    def test_bad_options(self, spec):
        with pytest.raises(InvalidInputError):
            load_task(spec)

    def test_one_number_of_digits_is_not_enough(self):
        with pytest.raises(
            InvalidInputError, match=r"a number for each of the 2 to 100 terms: .*digits=2\|1 .*Got 1\.$"
        ):
            load_task("sums:digits=1")


def test_digit_sum() -> None:
    task = load_task("digit_sum:base=3,num_digits=8")
    problems = task.problems("all", 50, 0)
    for problem in problems:
        digits = problem.prompt.removesuffix("=?")
        assert len(digits) == 8
        assert set(digits) <= set("012")
        assert problem.answer == str(sum(map(int, digits)) % 3)
        assert task.verify(f"<1122>A{problem.answer}", problem)
        assert not task.verify(problem.answer, problem)
        assert not task.verify(f"A{problem.answer}0", problem)
    train, test = (task.problems(split, 200, seed) for split, seed in (("train", 1), ("test", 2)))
    assert not {p.prompt for p in train} & {p.prompt for p in test}
    assert all(in_split(p.prompt, "test") for p in test)


def test_small_spaces_are_counted() -> None:
    task = load_task("digit_sum:base=2,num_digits=5")
    train, test = task.problems("train", None, 0), task.problems("test", None, 0)
    assert len(train) + len(test) == 32
    with pytest.raises(InvalidInputError, match=r"asked for 33 problems, but only 32 different ones exist"):
        task.problems("all", 33, 0)
    with pytest.raises(InvalidInputError, match=rf"in the test split, but only {len(test)} .*\(32 in both splits\)"):
        load_task("digit_sum:base=2,num_digits=5,size=30").problems("test", None, 0)
    sums = load_task("chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1")
    with pytest.raises(InvalidInputError, match=r"only 200 different ones exist"):
        sums.problems("all", 500, 0)
