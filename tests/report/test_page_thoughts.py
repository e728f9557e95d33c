"""Where a thought ends among the tokens of the page: by the text, and by the column `segment`."""

import numpy as np
import pandas as pd
import pytest

from antiphase.page.payload import payload_of
from antiphase.page.thoughts import thought_lengths
from page_cases import evaluated


def lengths(completions, tokens, **columns):
    starts = np.cumsum([0, *map(len, tokens)])
    frame = pd.DataFrame({"token": [text for row in tokens for text in row], **columns})
    return thought_lengths(pd.DataFrame({"completion": completions}), frame, starts).tolist()


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        (["<think>", "2", " +", " 2", "</think>", " 4"], 5),
        (["<", "think", ">", "2", "</", "think", ">", "4"], 7),
        # The template opened the thought.
        (["2", " +", " 2", "</think>", "4"], 4),
        (["4", " is", " it"], 0),
        (["<think>", "2", " +"], 3),
        (["<think>", "2", "</think>"], 3),
        # A thought in parts: the last tag ends it.
        (["<think>", "2", "</think>", "3", "<think>", "4", "</think>", "5"], 7),
    ],
)
def test_by_the_text(tokens, count) -> None:
    assert lengths(["".join(tokens)], [tokens]) == [count]


def test_tokens_that_the_text_lacks() -> None:
    # Parts of a character, a space that a token alone has lost, and a token that holds a part of the answer.
    assert lengths(["<think>é 2</think>4"], [["<think>", "\ufffd", "\ufffd", "2", "</think>", "4"]]) == [5]
    assert lengths(["<think>2</think>4"], [["<think>", "2", "</think>4"]]) == [3]
    assert lengths(["<think>2</think>é"], [["<think>", "2", "</think>", "\ufffd", "\ufffd"]]) == [3]


def test_by_the_column() -> None:
    completions, tokens = ["<think>2</think>4", "7"], [["<think>", "2", "</think>", "4"], ["7"]]
    segments = ["thought", "thought", "answer", "answer", "answer"]
    assert lengths(completions, tokens, segment=segments) == [2, 0]
    assert lengths(completions, tokens, segment=["thought"] * 5) == [4, 1]
    assert lengths([], []) == []


def test_the_page_says_how_long_a_thought_is() -> None:
    from antiphase.page.building import signals_document

    tokens, rollouts, entry = evaluated(greedy=(False,) * 4)
    tokens["segment"] = np.where(tokens.rollout_id.eq("p0/1") & (tokens.position < 5), "thought", "answer")
    document = signals_document("eval", "run", tokens, rollouts, {"config": {}, "results": [entry]})
    values, _ = payload_of(document)
    shown = {row["id"]: row.get("thought") for row in values["subjects"][0]["rollouts"]}
    assert shown == {"p0/0": None, "p0/1": 5, "p1/0": None, "p1/1": None}
