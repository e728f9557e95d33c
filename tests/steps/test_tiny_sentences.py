"""Sums worked a sentence a digit: the labelled task, its demonstrations, and their tokenizer."""

import importlib.util
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphase.errors import InvalidInputError
from antiphase.steps import Splitter
from antiphase.steps.assigning import token_steps
from antiphase.tasks.distinct_problems import in_split
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import load_task

_PATH = Path(__file__).parents[2] / "recipes" / "tiny" / "sentences.py"
_SPEC = importlib.util.spec_from_file_location("sentences", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
sentences = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sentences)

TASK = "digit_sum:base=3,num_digits=12,labels=true"
PROMPT = "Sum a1 b0 c2 d2 =?"
TOKENIZER = sentences.word_tokenizer(3)


class First(random.Random):
    """Draws the first of everything, and 0.5."""

    def random(self):
        return 0.5

    def choice(self, values):
        return values[0]

    def randrange(self, start, stop=None, step=1):
        return start if stop is not None else 0


def test_labelled_problems():
    plain, labelled = load_task("digit_sum:base=3,num_digits=4"), load_task("digit_sum:base=3,num_digits=4,labels=yes")
    pairs = zip(plain.problems("all", 20, 0), labelled.problems("all", 20, 0), strict=True)
    for one, other in pairs:
        digits = one.prompt.removesuffix("=?")
        assert other.prompt == f"Sum a{digits[0]} b{digits[1]} c{digits[2]} d{digits[3]} =?"
        assert other.answer == one.answer
    assert all(in_split(p.prompt, "test") for p in labelled.problems("test", 5, 0))
    longest = load_task("digit_sum:num_digits=26,labels=true").problems("all", 1, 0)[0]
    assert [label for label, _ in sentences.labelled(longest.prompt)] == list("abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(InvalidInputError, match="from a to z, so num_digits must be at most 26; got 27"):
        load_task("digit_sum:num_digits=27,labels=true")
    assert len(load_task("digit_sum:num_digits=27").problems("all", 1, 0)[0].prompt) == 29


def test_a_worked_answer_by_hand():
    assert sentences.worked(PROMPT, 3, 0.0, 0.0, First()) == (
        " We start at 0. Then a one gives 1. Then b zero leaves 1. Then c two gives 0. Then d two gives 2. A 2."
    )
    # Every sum slips by one, and the next goes on from it: 0+1→2, 2+0→0, 0+2→0, 0+2→0; an aside each.
    assert sentences.worked(PROMPT, 3, 0.6, 0.6, First()) == (
        " We start at 0. So far so good. Then a one gives 2. So far so good. Then b zero leaves 0."
        " So far so good. Then c two gives 0. So far so good. Then d two gives 0. A 0."
    )
    assert sentences.direct("2") == " A 2."


def test_answers_in_sentences_are_verified():
    task, problem = load_task(TASK), Problem("p", TASK, "Sum a1 b1 =?", "2")
    assert task.verify(" We start at 0. Then a one gives 1. After that b one gives 2. A 2.", problem)
    assert task.verify(sentences.direct("2"), problem)
    # An answer that was not reached is none, though the sum is right.
    assert not task.verify(" We start at 0. Then a one gives 1. After that b one gives 2.", problem)
    assert not task.verify(" A 1.", problem)


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_a_sentence_is_a_step(seed, slip, aside):
    problem = load_task(TASK).problems("train", 1, seed)[0]
    text = sentences.worked(problem.prompt, 3, slip, aside, random.Random(seed))
    ids = TOKENIZER(text).input_ids
    assert TOKENIZER.unk_token_id not in ids
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(TOKENIZER(problem.prompt).input_ids) == problem.prompt
    steps = token_steps(ids, TOKENIZER, Splitter.parse("sentence"))
    ends = [step for step, token in zip(steps, ids, strict=True) if TOKENIZER.decode([token]) == "."]
    assert ends == list(range(text.count(".")))
    assert len(ends) >= 14  # the opening, the digits and the answer


@given(st.integers(0, 2**32))
def test_without_slips_the_sum_is_right(seed):
    task = load_task(TASK)
    problem = task.problems("train", 1, seed)[0]
    assert task.verify(sentences.worked(problem.prompt, 3, 0.0, 0.3, random.Random(seed)), problem)
    assert not task.verify(sentences.direct(str((int(problem.answer) + 1) % 3)), problem)


def test_slips_are_as_frequent_as_asked():
    draw = random.Random(0)
    problems = load_task(TASK).problems("train", 200, 0)
    right = [load_task(TASK).verify(sentences.worked(p.prompt, 3, 0.05, 0.1, draw), p) for p in problems]
    # No slip in twelve sums, or slips that cancel: by the recursion of sums modulo 3, 1/3 + 2/3 (1 − 1.5 · 0.05)^12.
    assert sum(right) / len(right) == pytest.approx(1 / 3 + 2 / 3 * (1 - 0.075) ** 12, abs=0.1)
