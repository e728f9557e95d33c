"""For the estimator `own`: run the first tokens that several rows have in common only once.

For `own`, no gradient enters the positions before the one that predicts a row's first target. These positions (the
row's prefix) need no backward pass and no autograd graph. Only their keys and values are needed, and rollouts of the
same prompt need them only once. The keys and values are recorded in the calls of the frozen attention. No `Cache` of
transformers is used, so the type of the cache, its window and `use_cache` do not matter, and one chunk can contain
prefixes of different lengths.

A row is run in one part, or in two parts: first its prefix, then the rest. It is run in two parts if all of these
conditions hold:

* Running the prefix only once saves at least a quarter of the work for the rows that share it. The work is counted in
  passes over tokens: 2 for a token with graph, 1 for a token without graph.
* All rows that meet the first condition together save at least `_LEAST_SAVED` passes. With few tokens, two parts cost
  more than one.
* The row is not longer than the length at which the model's rotary frequencies change. The caller checks this.
* The backbone takes `position_ids`, and these have one axis (unlike `mrope`).
* `continues` is true: on short rows of this model, two parts give the same hidden states as one part.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import backbone, rope_switch
from antiphase.models.placement import input_device
from antiphase.signals.capture import Observed, observe
from antiphase.signals.chunk import Chunk, Prefix, Row, chunk_of
from antiphase.signals.frozen_attention import AttentionTrace, Past, tracing

_LEAST_SHARE = 0.25
_LEAST_SAVED = 64
_TEST_TOKENS = 12

# For each model, the result of `continues`.
_CONTINUES: MutableMapping[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Family:
    """Rows that share a prefix: the tokens before the position that predicts the first target (generated token).

    Args:
        length: the number of tokens of the prefix.
        rows: the rows.
    """

    length: int
    rows: tuple[Row, ...]

    @property
    def columns(self) -> int:
        """The number of positions after the prefix that must be run with an autograd graph, in the longest row.

        The last of them predicts the row's last target.
        """
        return max(int(row.targets[-1]) for row in self.rows) - self.length

    @property
    def saved(self) -> tuple[int, int]:
        """Return (the work that is saved if the prefix is run once for all rows, the whole work without saving).

        Work is counted in passes over tokens: 2 for a token with an autograd graph, 1 for a token without it.
        """
        whole = sum(2 * len(row.token_ids) for row in self.rows)
        return self.length * (2 * len(self.rows) - 1), whole


def families_of(rows: Sequence[Row]) -> list[Family]:
    """Group rows by their prefix: the tokens before the position that predicts the row's first generated token."""
    by_prefix: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        by_prefix.setdefault(tuple(row.token_ids[: int(row.targets[0]) - 1].tolist()), []).append(row)
    return [Family(len(prefix), tuple(members)) for prefix, members in by_prefix.items()]


def split(model: nn.Module, rows: Sequence[Row]) -> tuple[list[Family], list[Row]]:
    """Divide rows into those whose prefix is run first and only once, and those that are run in one part.

    The prefix of a row is the tokens before the position that predicts the row's first generated token.

    Returns:
        (the rows with a shared prefix, as groups with the same prefix; all other rows). The docstring of the module
        gives the conditions.
    """
    families = []
    for family in families_of(rows):
        saved, whole = family.saved
        if saved >= _LEAST_SHARE * whole and family.length:
            families.append(family)
    enough = sum(family.saved[0] for family in families) >= _LEAST_SAVED
    if not families or not enough or not continues(model):
        return [], list(rows)
    chosen = {row.index for family in families for row in family.rows}
    return families, [row for row in rows if row.index not in chosen]


def pack_families(families: Sequence[Family], token_budget: int, num_layers: int) -> Iterator[list[Family]]:
    """Yield groups of families (rows that share a prefix) that fit into the token budget, the longest rows first.

    A family that is too large is split. The budget limits the sum of three kinds of tokens, with their padding:

    * the tokens after the prefixes, which have an autograd graph;
    * the tokens of the prefixes, whose keys and values are kept;
    * the copies of the prefixes for every row, divided by `num_layers`, since they exist in one layer at a time.
    """

    def fits(group: Sequence[Family]) -> bool:
        num_rows, longest = sum(len(family.rows) for family in group), max(family.length for family in group)
        copies = math.ceil(num_rows * longest / num_layers)
        columns = max(family.columns for family in group)
        return num_rows * columns + len(group) * longest + copies <= token_budget

    def parts(family: Family) -> Iterator[Family]:
        rows: tuple[Row, ...] = ()
        for row in sorted(family.rows, key=lambda r: (-int(r.targets[-1]), r.index)):
            if rows and not fits([Family(family.length, (*rows, row))]):
                yield Family(family.length, rows)
                rows = ()
            rows = (*rows, row)
        yield Family(family.length, rows)

    group: list[Family] = []
    for family in sorted(families, key=lambda f: (-f.columns, -f.length, f.rows[0].index)):
        for part in parts(family):
            if group and not fits([*group, part]):
                yield group
                group = []
            group.append(part)
    if group:
        yield group


def chunk_of_families(families: Sequence[Family], device: torch.device) -> Chunk:
    """Make one chunk of the rows of some families (rows that share a prefix), in order.

    The rows of the chunk begin after their prefixes. The prefixes are in the chunk's field `prefix`.
    """
    prefixes = torch.zeros(len(families), max(f.length for f in families), dtype=torch.long, device=device)
    rows, owner, lengths = [], [], []
    for index, family in enumerate(families):
        prefixes[index, : family.length] = family.rows[0].token_ids[: family.length].to(device)
        for row in family.rows:
            here = row.token_ids[family.length : int(row.targets[-1]) + 1]
            rows.append(dataclasses.replace(row, token_ids=here, targets=row.targets - family.length))
            owner.append(index)
            lengths.append(family.length)
    before = Prefix(prefixes, torch.tensor(owner, device=device), torch.tensor(lengths, device=device))
    return dataclasses.replace(chunk_of(rows, device), prefix=before)


def run(seen: Observed, chunk: Chunk, *, grad: bool) -> tuple[Tensor, AttentionTrace]:
    """Run a chunk with the frozen attention, and return its final hidden states and the trace of the attention calls.

    If the chunk has prefixes, they are run first, without an autograd graph.

    Args:
        seen: the model with hooks, which runs the passes.
        chunk: the rows.
        grad: whether an autograd graph is built for the rows.

    Raises:
        UnsupportedModelError: the model did not make an attention mask that covers the prefixes.
    """
    if chunk.prefix is None:
        with tracing(entropies_of=[layer.module for layer in seen.layers]) as trace:
            return seen.hidden(chunk.inputs, grad=grad), trace
    hidden, trace = _continue(seen, chunk.inputs, chunk.lengths, chunk.prefix, grad=grad)
    check_continued(seen.model, trace)
    return hidden, trace


def check_continued(model: nn.Module, trace: AttentionTrace) -> None:
    """Raise UnsupportedModelError unless every attention call used the keys and values of earlier positions.

    A call does not use them if the model made an attention mask that does not cover these positions.
    """
    if not trace.continued:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not always build its attention masks in the same way, so its rows cannot be "
            "run in parts. Use the estimator 'full'."
        )


def _continue(
    seen: Observed, inputs: Tensor, lengths: Sequence[int], prefix: Prefix, *, grad: bool
) -> tuple[Tensor, AttentionTrace]:
    """Run the prefixes, then the rows that continue them, and return what `run` returns.

    Args:
        seen: the model with hooks.
        inputs: the token ids of the rows after their prefixes, `[row, token]`.
        lengths: the number of tokens of each row after its prefix.
        prefix: the prefixes.
        grad: whether an autograd graph is built for the rows.
    """
    with tracing(record=True) as first:
        seen.hidden(prefix.input_ids, grad=False)
    past = Past(tuple(first.recorded), prefix.owner, prefix.lengths)
    # Padding gets the position of its row's last token. A later position may have no embedding, or change the RoPE.
    last = torch.tensor(lengths, device=inputs.device)[:, None] - 1
    place = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs).minimum(last)
    with tracing(past=past, entropies_of=[layer.module for layer in seen.layers]) as trace:
        return seen.hidden(inputs, grad=grad, positions=place + prefix.lengths[:, None]), trace


def continues(model: nn.Module) -> bool:
    """Return whether a model can run a row in two parts, and then gives the same hidden states as in one part.

    The second part continues from the keys and values of the first part. This is tried once per model, on two short
    rows.
    """
    if model not in _CONTINUES:
        _CONTINUES[model] = _takes_positions(model) and _same_hidden(model)
    return _CONTINUES[model]


def _takes_positions(model: nn.Module) -> bool:
    """Return whether the backbone takes `position_ids` with one number for each token (`mrope` has several)."""
    rope = getattr(cast(Any, model).config.get_text_config(), "rope_parameters", None) or {}
    return "position_ids" in inspect.signature(backbone(model).forward).parameters and "mrope_section" not in str(rope)


@torch.no_grad()
def _same_hidden(model: nn.Module) -> bool:
    """Run two short rows in one part and in two parts, and return whether the hidden states are the same.

    One row is cut after two thirds of its tokens, the other after one third.
    """
    config = cast(Any, model).config.get_text_config()
    switch = rope_switch(config)
    limits = [switch[1] if switch else None, getattr(config, "max_position_embeddings", None)]
    num_tokens = min([_TEST_TOKENS, *(int(limit) for limit in limits if limit is not None)])
    lengths = [2 * num_tokens // 3, num_tokens // 3]
    if lengths[1] == 0:
        return False
    vocab, device = int(cast(Any, model).get_input_embeddings().weight.shape[0]), input_device(model)
    ids = torch.arange(2 * num_tokens, device=device).view(2, -1) * max(1, vocab // (2 * num_tokens)) % vocab
    num_columns = num_tokens - lengths[0]
    inputs = torch.stack([row[n : n + num_columns] for row, n in zip(ids, lengths, strict=True)])
    prefix = Prefix(ids[:, : lengths[0]], torch.arange(2, device=device), torch.tensor(lengths, device=device))
    with observe(model, (), freeze_attention=True) as seen:
        with tracing():
            one = seen.hidden(ids, grad=False)
        two, trace = _continue(seen, inputs, (num_columns, num_columns), prefix, grad=False)
    truth = torch.stack([row[n : n + num_columns] for row, n in zip(one, lengths, strict=True)])
    error = (two - truth).norm(dim=-1) / truth.norm(dim=-1)
    return trace.continued and bool((error <= _tolerance(one)).all())


def _tolerance(hidden: Tensor) -> float:
    """Return the greatest relative difference between hidden states for which rounding is accepted as the cause.

    Rounding differs if matrix products have other shapes. If the model lost a state or a position, the difference
    would be far greater.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return max(1e-2, math.sqrt(torch.finfo(dtype).eps))
