"""Send the facts of rollouts from a worker to the trainer as one tensor, `[rollout, fact]`.

A fact is a number that is known about a rollout, such as its inversion or its length (see `RolloutFacts`). verl moves
tensors between its processes. Such a tensor has one row for each rollout, so here a row holds all facts of its
rollout.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from antiphase.inversion.rollout_facts import RolloutFacts
from antiphase.scores import RolloutScores
from antiphase.signal_spec import UNITS


def to_columns(facts: RolloutFacts) -> Float[Tensor, "rollout fact"]:
    """Return the facts of rollouts as a float64 tensor, which `from_columns` turns back into facts."""
    kept: list[Tensor] = []

    def keep(columns: Tensor) -> Tensor:
        kept.append(columns)
        return columns

    facts.gathered(keep)
    return kept[0]


def from_columns(columns: Float[Tensor, "rollout fact"]) -> RolloutFacts:
    """Return the facts of rollouts from the tensor that `to_columns` made.

    A rollout that was not measured has NaN in all columns. Its number of tokens and its number of items are then 0.
    """
    counted = columns.clone()
    template = _empty()
    names = to_columns(template).shape[1]
    if columns.shape[1] != names:
        raise ValueError(f"expected {names} facts for each rollout; got {columns.shape[1]}")
    counted[:, _COUNTS] = counted[:, _COUNTS].nan_to_num(0.0)
    return template.gathered(lambda _: counted)


def num_columns() -> int:
    """Return the number of facts of a rollout, which is the number of columns of `to_columns`."""
    return to_columns(_empty()).shape[1]


# The places of the numbers of tokens and of items, which are whole numbers.
_COUNTS = slice(6, 8)


def _empty() -> RolloutFacts:
    """Return facts of zero rollouts: all tensors are empty."""
    none = torch.empty(0, dtype=torch.float64)
    whole = torch.empty(0, dtype=torch.long)
    scores = RolloutScores(
        inversion=none,
        correlation=none,
        by_unit=dict.fromkeys(UNITS, none),
        given_length=none,
        entropy=none,
        strength=none,
        self_certainty=none,
        num_tokens=whole,
        num_items=whole,
    )
    return RolloutFacts(scores, none, none, none, none, none)
