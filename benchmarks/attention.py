"""CPU time of the frozen attention in blocks beside `scaled_dot_product_attention`, forward and backward.

Works on the shapes of one layer of SmolLM2-135M (9 query heads, 3 groups, 64 numbers each, float32, causal):

* `blocks`: what `own` uses, with the entropy of the attention weights as a by-product.
* `blocks without entropy`: the same without the by-product.
* `sdpa`: the ordinary attention of PyTorch and its ordinary gradients, as a plain training pass uses them.
* `fused`: the forward pass and the gradient of the queries by `scaled_dot_product_attention`. The own terms of
  keys and values need α_ii = exp(s_ii − lse_i). PyTorch has no public function that returns the log-sum-exp lse_i
  without compilation, so it is computed in blocks. Attention entropies are not computed.

`difference` is the greatest difference of a gradient from `blocks`, divided by its norm per token. It is None for
`sdpa`, whose gradients of keys and values are another quantity.

    python benchmarks/attention.py [--lengths 256,1024,2048] [--rounds 9] [--out benchmarks/results]

Writes OUT/attention-cpu.json.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from antiphase.signals.attention_blocks import FrozenAttention
from rows import rows_of, write

HEADS, GROUPS, DIM, BLOCK = 9, 3, 64, 64
SCALE = DIM**-0.5
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs_of(length: int) -> Inputs:
    """Return random queries, keys, values and gradients at the output."""
    heads = (HEADS, GROUPS, GROUPS, HEADS)
    query, key, value, d_out = (torch.randn(1, number, length, DIM) for number in heads)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), d_out


def blocks(inputs: Inputs, *, entropies: bool) -> tuple[Tensor, ...]:
    *parts, d_out = inputs
    kept: list[Tensor] | None = [] if entropies else None
    out = FrozenAttention.apply(*parts, None, SCALE, None, None, None, None, kept)
    return torch.autograd.grad(out, parts, d_out)


def sdpa(inputs: Inputs) -> tuple[Tensor, ...]:
    *parts, d_out = inputs
    out = scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
    return torch.autograd.grad(out, parts, d_out)


def fused(inputs: Inputs) -> tuple[Tensor, ...]:
    query, key, value, d_out = inputs
    out = scaled_dot_product_attention(query, key.detach(), value.detach(), is_causal=True, enable_gqa=True)
    (d_query,) = torch.autograd.grad(out, query, d_out)
    with torch.no_grad():
        length, groups = query.shape[2], (GROUPS, HEADS // GROUPS)
        q, o, d_o = (x.unflatten(1, groups) for x in (query, out, d_out))
        lse = torch.cat([_log_sum_exp(q, key, start) for start in range(0, length, BLOCK)], -1)
        weight = ((q * key.unsqueeze(2)).sum(-1) * SCALE - lse).exp().unsqueeze(-1)
        gain = weight * (d_o * (value.unsqueeze(2) - o)).sum(-1, keepdim=True) * SCALE
        return d_query, (gain * q).sum(2), (weight * d_o).sum(2)


def _log_sum_exp(query: Tensor, key: Tensor, start: int) -> Tensor:
    rows = query[..., start : start + BLOCK, :]
    stop = start + rows.shape[-2]
    scores = (rows * SCALE) @ key[:, :, None, :stop].mT
    hidden = torch.ones(stop - start, stop - start, dtype=torch.bool).triu_(1)
    scores[..., start:].masked_fill_(hidden, torch.finfo(scores.dtype).min)
    return scores.logsumexp(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="256,1024,2048")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for length in map(int, options.lengths.split(",")):
        inputs = inputs_of(length)
        works = {
            "blocks": partial(blocks, inputs, entropies=True),
            "blocks without entropy": partial(blocks, inputs, entropies=False),
            "sdpa": partial(sdpa, inputs),
            "fused": partial(fused, inputs),
        }
        reference = works["blocks"]()
        some = rows_of(
            "attention", works, options.rounds, beside="sdpa", shape={"tokens": length, "heads": HEADS, "dim": DIM},
            dtype="float32",
        )  # fmt: skip
        for row in some:
            found = works[row["work"]]()
            apart = [float((x - y).abs().max() / y.norm(dim=-1).mean()) for x, y in zip(found, reference, strict=True)]
            row["difference"] = None if row["work"] == "sdpa" else max(apart)
            print({key: row[key] for key in ("work", "tokens", "seconds_p50", "ratio_p50", "difference")}, flush=True)
        rows += some
    write(options.out / "attention-cpu.json", rows)


if __name__ == "__main__":
    main()
