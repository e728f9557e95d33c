"""Read given rollouts: prompts with completions that another program generated.

A row holds either texts or token ids. This module reads and checks the rows; `prompt_rendering` turns texts into token
ids.
"""

import dataclasses
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from antiphase.data.prompts import Messages, checked_content, checked_text
from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError

_PROMPT_COLUMNS = ("prompt", "question", "problem", "messages")
COMPLETION_COLUMNS = ("completion", "response", "output")


@dataclass(frozen=True)
class GivenRollout:
    """A prompt and its completion, both as texts or both as token ids.

    Args:
        prompt_id: the id of the prompt, which several rollouts may share.
        rollout_id: the id of the rollout.
        place: where the rollout was read, such as `rollouts.jsonl, line 3`, for error messages.
        prompt: the text or the chat of the prompt; None if token ids are given.
        completion: the text of the completion; None if token ids are given.
        prompt_ids: the token ids of the prompt; None if texts are given.
        completion_ids: the token ids of the completion; None if texts are given.
    """

    prompt_id: str
    rollout_id: str
    place: str
    prompt: str | Messages | None
    completion: str | None
    prompt_ids: tuple[int, ...] | None
    completion_ids: tuple[int, ...] | None


def load_rollouts(source: str | Path | Any, limit: int | None = None) -> list[GivenRollout]:
    """Read the rollouts of a JSONL or Parquet file, a data frame, or a list of mappings.

    Args:
        source: rows with `prompt` (or `question`, `problem`, `messages`) and `completion` (or `response`, `output`),
            or with `prompt_ids` and `completion_ids`. The columns `prompt_id` and `rollout_id` are optional. Rows with
            equal prompts and no `prompt_id` get the same `prompt_id`.
        limit: the number of prompts. Only the rollouts of the first `limit` prompts are returned; None returns all
            rollouts.

    Raises:
        InvalidInputError: a row lacks the prompt or the completion, a value has the wrong type, or two different
            rollouts have the same id. The message names the row.
    """
    rows = given_rows(source)
    ids: dict[str, str] = {}
    counts: dict[str, int] = {}
    rollouts: dict[str, GivenRollout] = {}
    for row in rows:
        rollout = _rollout(row, ids, counts)
        known = rollouts.setdefault(rollout.rollout_id, rollout)
        # The table of a run contains every rollout once for each estimator. Any other repetition is a mistake.
        if dataclasses.replace(known, place="") != dataclasses.replace(rollout, place=""):
            raise InvalidInputError(
                f"the rollout id {rollout.rollout_id!r} stands twice ({known.place}; {rollout.place}) with different "
                "tokens; ids must be unique. If a run has several models, keep the rows of one model."
            )
    kept = set(list(dict.fromkeys(rollout.prompt_id for rollout in rollouts.values()))[:limit])
    return [rollout for rollout in rollouts.values() if rollout.prompt_id in kept]


def given_rows(source: str | Path | Any) -> list[TableRow]:
    """Read the rows of a file, a data frame or a list of mappings.

    Arrays and tensors of token ids become lists.

    Raises:
        InvalidInputError: the file cannot be read, or there are no rows.
    """
    if isinstance(source, str | Path):
        return read_table(Path(source))
    # A file needs none of these, and they take seconds to import.
    import numpy as np
    import pandas as pd
    import torch

    records = source.to_dict("records") if isinstance(source, pd.DataFrame) else source
    if not len(records):
        raise InvalidInputError("the list of rollouts is empty.")
    rows = []
    for index, record in enumerate(records):
        given = ((key, record.get(key)) for key in ("prompt_ids", "completion_ids"))
        lists = {key: ids.tolist() for key, ids in given if isinstance(ids, np.ndarray | torch.Tensor)}
        rows.append(TableRow(f"rollout {index}", {**record, **lists}))
    return rows


def _rollout(row: TableRow, ids: dict[str, str], counts: dict[str, int]) -> GivenRollout:
    """Check a row of the table, and return its rollout. Ids that the row lacks are made up.

    Args:
        row: the row.
        ids: a mapping from a prompt of an earlier row to the id that was made up for it. This function adds the
            prompt of a row that lacks an id.
        counts: a mapping from each prompt id to the index of the prompt's latest rollout, counted from 0. This
            function updates the mapping.
    """
    prompt, completion = row.first_of(_PROMPT_COLUMNS), row.first_of(COMPLETION_COLUMNS)
    prompt_ids, completion_ids = row.values.get("prompt_ids"), row.values.get("completion_ids")
    if prompt_ids is not None and completion_ids is not None:
        prompt_ids = token_ids(prompt_ids, row, "prompt_ids")
        completion_ids = token_ids(completion_ids, row, "completion_ids")
        prompt = completion = None
        if not prompt_ids:
            raise InvalidInputError(
                f"{row.place}: prompt_ids is empty, so nothing predicts the first completion token. Give at least one "
                "prompt token."
            )
    elif prompt is not None and isinstance(completion, str):
        prompt, completion = checked_content(prompt, row.place), checked_text(completion, row.place)
        prompt_ids = completion_ids = None
    else:
        raise InvalidInputError(
            f"{row.place}: expected 'prompt' and 'completion' text, or 'prompt_ids' and 'completion_ids'; found "
            f"{', '.join(row.values) or 'nothing'}."
        )
    key = repr(prompt if prompt_ids is None else prompt_ids)
    given = row.values.get("prompt_id")
    prompt_id = str(given) if given is not None else ids.setdefault(key, f"prompt-{len(ids)}")
    counts[prompt_id] = counts.get(prompt_id, -1) + 1
    name = row.values.get("rollout_id")
    rollout_id = str(name) if name is not None else f"{prompt_id}/{counts[prompt_id]}"
    return GivenRollout(prompt_id, rollout_id, row.place, prompt, completion, prompt_ids, completion_ids)


def token_ids(value: Any, row: TableRow, column: str) -> tuple[int, ...]:
    """Check that the value of a column is a list of token ids, and return them as a tuple.

    Args:
        value: the value.
        row: the row with this value, for the error message.
        column: the name of the column, for the error message.

    Raises:
        InvalidInputError: the value is not a list of non-negative integers.
    """
    if not isinstance(value, list | tuple) or not all(_is_token_id(token) for token in value):
        raise InvalidInputError(f"{row.place}: {column} must be a list of token ids (non-negative integers).")
    return tuple(int(token) for token in value)


def _is_token_id(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and int(value) >= 0
