"""Verdicts on stored cases: of public reports (verdicts.jsonl), and more of the same kinds (verdicts_more.jsonl)."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.steps.thoughts import TAGS, completion_text, spoken, thought_tags
from antiphase.tasks.checking import check_rows, read_rows
from antiphase.tasks.extraction import find_answer
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.task_rewards import format_reward

DATA = Path(__file__).parents[1] / "data"
FILES = ("verdicts.jsonl", "verdicts_more.jsonl")


def cases(name):
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", FILES)
def test_every_case_has_its_verdict(name) -> None:
    path = DATA / name
    checked = check_rows(read_rows(path, f"{path}:answer_column=reference"))
    wrong = [(one.id, one.extracted, one.reason) for one in checked if one.correct != one.expected]
    assert wrong == []
    assert all(one.outcome not in ("timeout", "error") for one in checked)


def test_there_are_cases_of_every_kind() -> None:
    kinds = Counter(case["kind"] for name in FILES for case in cases(name))
    assert set(kinds) == {"thinking", "cut", "exact", "announced", "boxes", "notation", "units", "hack"}
    assert min(kinds.values()) >= 7
    assert len(cases("verdicts.jsonl")) == 54
    assert len(cases("verdicts_more.jsonl")) >= 60


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_every_family_of_tags(opening, closing) -> None:
    assert spoken(f"{opening}so 4?{closing}It is 5.").answer == "It is 5."
    assert spoken(f"so 4?{closing}It is 5.").answer == "It is 5."
    assert spoken(f"\n{opening}It is 5.").answer is None
    assert spoken(f"It is 4.\n{opening}or 5?").answer is None
    assert spoken(f"Never write {opening} here: 5").answer == f"Never write {opening} here: 5"


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis to=python<|message|>The answer is 7.",
        "<|channel|>commentary<|message|>The answer is 7.",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{7}",
        "<|channel|>final<|message|>6<|end|><|start|>assistant<|channel|>analysis<|message|>7",
        "analysis to=pythonThe answer is 7", "commentaryThe answer is 7",
        "Okay, <think>\nThe answer is 7.",
        "<THINK>7", "<think >7", "<|think|>7", "< Think>7",
    ],
)  # fmt: skip
def test_a_thought_that_does_not_end_has_no_answer_however_its_tag_is_written(text) -> None:
    assert spoken(text).answer is None


def test_other_ways_to_write_a_closing_tag() -> None:
    assert spoken("<THINK>7</Think>5").answer == "5"
    assert spoken("<|think|>7<|/think|>5").answer == "5"
    assert spoken("<think>7</think >5").answer == "5"
    assert spoken("<|channel|>commentary<|message|>7<|channel|>final <|constrain|>json<|message|>5").answer == "5"
    assert spoken("commentary on 7: it is odd").answer == "commentary on 7: it is odd"


def test_a_known_opening_tag_with_another_closing_tag_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="<think> is closed by </think>, not by </plan>"):
        thought_tags(["<think> </plan>"])
    assert thought_tags(["<think> </think>"]) == TAGS


def test_own_tags() -> None:
    assert spoken("[[hm]] 4 [[/hm]] 5", [("[[hm]]", "[[/hm]]")]).answer == " 5"
    assert spoken("<think>4", [("[[hm]]", "[[/hm]]")]).answer == "<think>4"
    problem = Problem("p", "gsm8k", "", "5")
    texts = ["<plan>4</plan>5", "<plan>5", "<think>4</think>5"]
    for tags, expected in ((["<plan> </plan>"], [True, False, True]), (None, [True, True, True])):
        with VerifierPool(1, tags) as pool:
            assert [verdict.correct for verdict in pool.check([(text, problem) for text in texts])] == expected


def test_mentions_in_quotation_marks_and_flattened_channels() -> None:
    assert spoken("<think>4</think>The answer is 5. I closed with `</think>`.").answer.startswith("The answer is 5.")
    assert spoken("<think>4</think>It is 5. I closed with </think> as asked.").answer.startswith("It is 5.")
    assert spoken("<think>I close with </think> later. 4?</think>It is 5.").answer == "It is 5."
    assert spoken("<think>it is 4 </think> so 5").answer == " so 5"
    assert spoken("<think>4</think>Wait.\n<think>it is 4 </think> so 5").answer == " so 5"
    assert spoken('<think>I close with "</think>" and say 4').answer is None
    assert spoken("analysisThe sum is 4?assistantfinalIt is 5.").answer == "It is 5."
    assert spoken("analysisThe sum is 4").answer is None
    assert spoken("analysis of the sum: 4").answer == "analysis of the sum: 4"


@pytest.mark.parametrize("tags", ["<plan>", "<plan></plan>", "<plan> <plan>", "a b c", ""])
@pytest.mark.parametrize("command", [["eval", "m", "--tasks", "gsm8k"], ["probe", "m"], ["check", "FILE"]])
def test_tags_that_are_no_pair_are_refused(command, tags, capsys) -> None:
    words = [str(DATA / "verdicts.jsonl") if word == "FILE" else word for word in command]
    assert cli.main([*words, "--think-tags", tags]) == 2
    assert "think tags must be an opening and a closing tag" in capsys.readouterr().err


def test_check_knows_tags_of_ones_own(tmp_path, capsys) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"reference": "5", "completion": "<plan>5"}) + "\n")
    found = []
    for words in ([], ["--think-tags", "<plan> </plan>", "--think-tags", "<a> </a>"]):
        assert cli.main(["check", str(path), "--json", *words]) == 0
        found.append(json.loads(capsys.readouterr().out)["outcome"])
    assert found == ["right", "no answer"]


class Special:
    """A tokenizer whose ids are places in a list of words, some of them special."""

    all_special_tokens = ("[THINK]", "[/THINK]", "<eos>")
    bos_token = None

    def __init__(self) -> None:
        self.words = []

    def ids(self, *words):
        self.words += words
        return list(range(len(self.words) - len(words), len(self.words)))

    def get_added_vocab(self):
        return {word: place for place, word in enumerate(self.words) if word in self.all_special_tokens}

    def decode(self, ids, skip_special_tokens=False):
        words = [self.words[place] for place in ids]
        return "".join(word for word in words if not (skip_special_tokens and word in self.all_special_tokens))


def test_tags_that_are_special_tokens_and_openings_in_the_prompt() -> None:
    tokenizer = Special()
    ids, prompt = tokenizer.ids, tokenizer.ids("Hi", "<think>", "\n")
    assert completion_text(tokenizer, ids("[THINK]", "4?", "[/THINK]", "5", "<eos>")) == "[THINK]4?[/THINK]5"
    assert completion_text(tokenizer, ids("5", "<eos>")) == "5"
    opened = completion_text(tokenizer, ids("4?", "<eos>"), prompt)
    assert opened == "<think>\n4?"
    assert spoken(opened).answer is None
    closed = completion_text(tokenizer, ids("4?", "</think>", "5"), prompt)
    assert spoken(closed).answer == "5"
    assert completion_text(tokenizer, ids("5"), ids("<think>", "\n\n", "</think>", "\n\n")) == "5"


LONG = {
    "offers": "The answer is 5 a" + " or 1" * 4000,
    "announcements": "answer: " * 2500, "formulas": "answer: \\[ " * 1800,
    "dollars": "answer: $" * 2200, "spaces": "answer" + " " * 20_000, "boxes": "\\boxed{1} and \\boxed{2} " * 900,
    "tags": "<answer>1</answer> or " * 900, "bold": "**1" * 6000, "displays": "\\[" * 10_000, "numbers": "1 " * 10_000,
    "thoughts": "<think>\n" * 20_000, "closings": "<think>" + "</think>" * 20_000,
    "quoted": '<think>"</think>"' * 9000, "flat": "analysisA" * 20_000,
    "answers": "<think>" + "<answer></answer>" * 9000 + "</think><answer>5</answer>",
    "lines": "\n" * 100_000 + "x <think>", "equations": "answer: " + "1=" * 9000,
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_long_completions_are_read_in_time(name) -> None:
    """The caller's own process reads them, so none may take long. Quadratic ways took seconds of CPU time."""
    began = time.process_time()
    for gold in ("5", "x+1"):
        answer = spoken(LONG[name]).answer
        find_answer(LONG[name] if answer is None else answer, "auto", gold)
    format_reward([LONG[name]], ["<think>"])
    assert time.process_time() - began < 1.0


def test_outcomes_and_reasons() -> None:
    problem = Problem("p", "gsm8k", "", "5")
    texts = ["\\boxed{5}", "The answer is 4.", "none", "<think>5", "<think>5"]
    with VerifierPool(1) as pool:
        verdicts = pool.check([(text, problem) for text in texts], finishes=["stop"] * 4 + ["length"])
    assert [verdict.outcome for verdict in verdicts] == ["right", "wrong", "no answer", "no answer", "cut off"]
    assert [verdict.reason for verdict in verdicts] == [
        "the answer (in a box) equals the reference",
        "the answer (announced) is not the reference",
        "no answer was found",
        *["the thought was begun and not ended"] * 2,
    ]


def test_json_holds_a_line_for_each_row(capsys) -> None:
    assert cli.main(["check", str(DATA / "verdicts.jsonl"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == [case["id"] for case in cases("verdicts.jsonl")]
    assert all({"id", "extracted", "correct", "outcome", "reason"} <= set(line) for line in lines)
    assert lines[5]["extracted"] is None
    assert lines[5]["outcome"] == "cut off"


def test_the_table_marks_where_other_rules_disagree(tmp_path, capsys) -> None:
    rows = [
        {"reference": "18", "completion": "The answer is 18. She does this 3 times."},
        {"id": "frac", "reference": "\\frac{1}{2004!}", "completion": "\\boxed{\\frac{1}{2006!}}", "expected": False},
        {"reference": "Mg", "completion": "no idea", "task": "gsm8k:compare=exact"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    first, second = (
        next(line for line in shown.splitlines() if line.startswith(f" {name} ")) for name in ("0", "frac")
    )
    assert first.split()[-1] == "wrong"  # lm-eval takes the last number
    assert second.split()[-1] == "right"  # math-verify has a tolerance
    assert "math-verify alone disagrees on 1 of 3 rows" in shown
    assert "lm-eval's rule for GSM8K disagrees on 1 of 1 rows" in shown
    assert "1 of 1 verdicts are as the column 'expected' says." in shown


def test_rows_whose_verdict_is_not_as_expected_are_marked(tmp_path, capsys) -> None:
    rows = [
        {"id": "one", "reference": "5", "completion": "5", "expected": 0},
        {"id": "two", "reference": "5", "completion": "5", "expected": 1},
        {"id": "three", "reference": "5", "completion": "5"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    lines = {
        name: next(line for line in shown.splitlines() if line.startswith(f" {name} ")) for name in ("one", "two")
    }
    assert lines["one"].split()[2:4] == ["right", "wrong"]
    assert lines["two"].split()[2:4] == ["right", "the"]
    assert "1 of 2 verdicts are as the column 'expected' says. The other rows are marked" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"reference": "5"}', "completion must be text; got None"),
        ('{"reference": 5, "completion": "5"}', "reference must be text; got 5"),
        ('{"reference": "5", "completion": "5", "finish": "eos"}', "finish must be 'stop' or 'length'"),
        ('{"reference": "5", "completion": "5", "task": "gsm9k"}', r"line 1: unknown task 'gsm9k'.*gsm8k"),
        ('{"reference": "5", "completion": "5", "task": 5}', "line 1: task must be text, such as 'gsm8k'; got 5"),
        (
            '{"reference": "5", "completion": "5", "expected": "yes"}',
            "line 1: expected must be true or false; got 'yes'",
        ),
        ('{"reference": "5", "completion": "5", "expected": 2}', "line 1: expected must be true or false; got 2"),
        ('{"reference": "5", "completion": "5", "expected": []}', "line 1: expected must be true or false; got"),
    ],
)
def test_bad_rows(text, message, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text + "\n" * bool(text))
    with pytest.raises(InvalidInputError, match=message):
        read_rows(path, f"{path}:answer_column=reference")
