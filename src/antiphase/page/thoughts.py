"""Count the tokens of each rollout's thought (as between <think> and </think>), which the page folds away.

If the token table has a column `segment`, which says whether a token belongs to the thought or to the answer, this
column decides. In an older table, the thought is found in the text.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from antiphase.page.spacing import found_places
from antiphase.steps.thoughts import spoken

SEGMENT, THOUGHT = "segment", "thought"


def thought_lengths(rollouts: pd.DataFrame, tokens: pd.DataFrame, starts: np.ndarray) -> np.ndarray:
    """Return the number of tokens in each rollout's thought, `[rollout]`. Tags are counted too. No thought gives 0.

    A thought stands at the beginning of its rollout. A thought without an end is the whole rollout.

    Args:
        rollouts: one row for each rollout, with `completion`.
        tokens: the tokens of the rollouts, in the order of `rollouts`, with `token` and perhaps `segment`.
        starts: index of each rollout's first token; the last entry is the number of all tokens.
    """
    if SEGMENT in tokens:
        before = np.concatenate([[0], (tokens[SEGMENT] == THOUGHT).to_numpy(dtype=np.int64).cumsum()])
        return np.diff(before[starts])
    completions = rollouts.completion.astype(str).tolist() if "completion" in rollouts else [""] * len(rollouts)
    texts = tokens.token.tolist()
    bounds = zip(completions, starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    return np.array([_thought_of(text, texts[low:high]) for text, low, high in bounds], dtype=np.int64)


def _thought_of(completion: str, tokens: Sequence[str]) -> int:
    """Return how many tokens the thought of a completion has. The thought is found in the texts of the tokens.

    >>> _thought_of("<think>2 + 2</think>4", ["<think>", "2", " +", " 2", "</think>", "4"])
    5
    """
    found = spoken(completion)
    if not found.thought:
        return 0
    if found.answer is None:
        return len(tokens)
    end = len(found.thought)
    inside = [index for index, (_, place) in enumerate(found_places(completion, tokens)) if 0 <= place < end]
    return inside[-1] + 1 if inside else 0
