"""Intervals of a correlation over a million tokens: their time, and how far their ends are from exact resampling.

Entropy and strength are random numbers whose level differs from prompt to prompt. From 100,000 tokens on, antiphase
computes resamples from counts of tokens in bins. The time is that of one thread. The ends are compared at 50,000
tokens, with the same resamples: once from counts, and once by ranking all tokens again in every resample.

    python benchmarks/intervals.py [--tokens 1000000] [--prompts 200] [--resamples 1000] [--out benchmarks/results]

Writes OUT/intervals-cpu.json.
"""

import argparse
import functools
from pathlib import Path
from unittest import mock

import torch

from antiphase.statistics import correlation_matrices, pooled_correlation
from antiphase.statistics.partial_correlation import pooled_partial
from rows import peak_mib, rows_of, write

COMPARED = 50_000
KINDS = {
    "smooth": "all values differ, and every prompt has as many tokens",
    "uneven": "all values differ, and some prompts have many more tokens than others",
    "tied": "many values are equal",
}


def series(num_items: int, num_prompts: int = 200, kind: str = "smooth") -> tuple[torch.Tensor, ...]:
    """Return the entropy, the strength and the prompt of many tokens; the kinds are described in `KINDS`."""
    generator = torch.Generator().manual_seed(0)
    clusters = torch.arange(num_items) * num_prompts // num_items
    if kind == "uneven":
        clusters = (torch.rand(num_items, generator=generator) ** 3 * num_prompts).long()
    level = torch.randn(num_prompts, 2, generator=generator)[clusters]
    noise = torch.randn(2, num_items, generator=generator)
    entropy, strength = noise[0] + 0.7 * level[:, 0], -0.3 * noise[0] + noise[1] + 0.5 * level[:, 1]
    if kind == "tied":
        entropy, strength = entropy.clamp_min(0.5), strength.round()
    return entropy.exp().double(), strength.double(), clusters


def pooled(data: tuple[torch.Tensor, ...], num_resamples: int, *, counted: bool, method: str = "spearman"):
    """Return the pooled correlation with its interval, from counts of tokens or by exact resampling."""
    with mock.patch.object(pooled_correlation, "MANY_ITEMS", 1 if counted else len(data[0]) + 1):
        return pooled_correlation.pooled_correlation(*data, num_resamples=num_resamples, method=method)


def partial(data: tuple[torch.Tensor, ...], num_resamples: int, *, counted: bool):
    """Return the partial correlation that keeps the place of each token constant, with its interval."""
    place = torch.arange(len(data[0])).double() % 1000
    with mock.patch.object(correlation_matrices, "MANY_ITEMS", 1 if counted else len(data[0]) + 1):
        return pooled_partial(*data[:2], [place], data[2], num_resamples=num_resamples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, name = [], {"spearman": "ρ by token", "pearson": "Pearson's ρ by token"}
    for kind, about in KINDS.items():
        data = series(options.tokens, options.prompts, kind)
        small = series(COMPARED, options.prompts, kind)
        both = {name[m]: functools.partial(pooled, method=m) for m in ("spearman", "pearson")}
        both["partial ρ by token, of the place"] = partial
        works = {title: functools.partial(work, data, options.resamples, counted=True) for title, work in both.items()}
        shape = {"tokens": options.tokens, "prompts": options.prompts, "resamples": options.resamples}
        timed = rows_of(kind, works, options.rounds, beside="ρ by token", shape=shape, about=about)
        for row in timed:
            work = both[row["work"]]
            counted, exact = (work(small, options.resamples, counted=flag) for flag in (True, False))
            row |= {
                "compared_tokens": COMPARED, "exact_low": exact.low, "exact_high": exact.high,
                "low_difference": counted.low - exact.low, "high_difference": counted.high - exact.high,
                "peak_mib": peak_mib(works[row["work"]]),
            }  # fmt: skip
            print({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
        rows += timed
    write(options.out / "intervals-cpu.json", rows)


if __name__ == "__main__":
    main()
