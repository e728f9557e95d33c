"""Turn given rollouts in memory, a data frame or a list of mappings, into rows of plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from antiphase.data.tables import TableRow
from antiphase.errors import InvalidInputError

_TOKEN_COLUMNS = ("prompt_ids", "completion_ids")


def rows_in_memory(source: Sequence[Mapping[str, Any]] | pd.DataFrame) -> list[TableRow]:
    """The rows of the source. Arrays and tensors of token ids become lists.

    Raises:
        InvalidInputError: there are no rows.
    """
    records: Sequence[Mapping[Any, Any]] = source.to_dict("records") if isinstance(source, pd.DataFrame) else source
    if not len(records):
        raise InvalidInputError("the list of rollouts is empty.")
    return [TableRow(f"rollout {index}", _plain(values)) for index, values in enumerate(records)]


def _plain(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    arrays = {key: values[key] for key in _TOKEN_COLUMNS if isinstance(values.get(key), np.ndarray | torch.Tensor)}
    return {**values, **{key: value.tolist() for key, value in arrays.items()}} if arrays else values
