"""Make the rows of alternatives.parquet: the most probable next tokens at the position of every generated token."""

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from antiphase.models.loading import LoadedModel
from antiphase.runs.items import Item
from antiphase.types import Alternatives, TokenBatch

ALTERNATIVE_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("rollout_id", pa.string()),
        ("position", pa.int32()),
        ("rank", pa.int32()),
        ("token_id", pa.int64()),
        ("token", pa.string()),
        ("logprob", pa.float32()),
    ]
)


def alternative_rows(
    loaded: LoadedModel, items: Sequence[Item], batch: TokenBatch, alternatives: Alternatives
) -> pa.Table:
    """Return one row for each generated token and rank. The most probable token has rank 0.

    Args:
        loaded: the model. Its tokenizer decodes each token on its own.
        items: the rollouts of the batch. Their ids are written to the rows.
        batch: the token ids that were measured.
        alternatives: the ids and log-probabilities of the most probable tokens, of shape `[batch, token, rank]`.
    """
    rows, columns = torch.nonzero(batch.completion_mask, as_tuple=True)
    starts = torch.tensor([len(item.prompt_ids) for item in items])
    ids, ranks = alternatives.token_ids[rows, columns], torch.arange(alternatives.token_ids.shape[-1])
    unique, place = ids.flatten().unique(return_inverse=True)

    def named(values: Sequence[str], index: Tensor) -> pa.Array:
        # Each string is made once, and every row looks it up.
        return pa.array(values, pa.string()).take(pa.array(index.numpy()))

    def per_rank(values: Tensor) -> Tensor:
        return values.repeat_interleave(len(ranks))

    return pa.table(
        [
            pa.repeat(loaded.name, ids.numel()),
            named([item.rollout_id for item in items], per_rank(rows)),
            pa.array(per_rank(columns - starts[rows]).to(torch.int32).numpy()),
            pa.array(ranks.repeat(len(ids)).to(torch.int32).numpy()),
            pa.array(ids.flatten().numpy()),
            named([str(loaded.tokenizer.decode([token])) for token in unique.tolist()], place),
            pa.array(alternatives.logprobs[rows, columns].flatten().float().numpy()),
        ],
        schema=ALTERNATIVE_SCHEMA,
    )
