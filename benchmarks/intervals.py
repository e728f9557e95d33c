"""Intervals of a correlation over a million tokens: their time, and how far their ends are from exact resampling.

Entropy and strength are random numbers whose level differs from prompt to prompt. From 100,000 tokens on, antiphase
computes resamples from counts of tokens in bins. The time is that of one thread. The ends are compared at 50,000
tokens, with the same resamples: once from counts, and once by ranking all tokens again in every resample.

    python benchmarks/intervals.py [--tokens 1000000] [--prompts 200] [--resamples 1000] [--out benchmarks/results]

Writes OUT/intervals-cpu.json.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from antiphase.statistics import correlation_matrices, pooled_correlation
from antiphase.statistics.partial_correlation import pooled_partial
from antiphase.types import Correlation
from rows import Work, peak_apart, rows_of, write

COMPARED = 50_000
KINDS = {
    "smooth": "all values differ, and all prompts have the same number of tokens",
    "uneven": "all values differ, and some prompts have many more tokens than others",
    "tied": "many values are equal",
}


def series(num_items: int, kind: str = "smooth", num_prompts: int = 200) -> tuple[torch.Tensor, ...]:
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


def pooled(
    data: tuple[torch.Tensor, ...], num_resamples: int, *, counted: bool, method: str = "spearman"
) -> Correlation:
    """Return the pooled correlation with its interval, from counts of tokens or by exact resampling."""
    with mock.patch.object(pooled_correlation, "MANY_ITEMS", 1 if counted else len(data[0]) + 1):
        return pooled_correlation.pooled_correlation(*data, num_resamples=num_resamples, method=method)


def partial(data: tuple[torch.Tensor, ...], num_resamples: int, *, counted: bool) -> Correlation:
    """Return the partial correlation that keeps the place of each token constant, with its interval."""
    place = torch.arange(len(data[0])).double() % 1000
    with mock.patch.object(correlation_matrices, "MANY_ITEMS", 1 if counted else len(data[0]) + 1):
        return pooled_partial(*data[:2], [place], data[2], num_resamples=num_resamples)


TITLES = {
    "ρ by token": pooled,
    "Pearson's ρ by token": functools.partial(pooled, method="pearson"),
    "partial ρ by token, position held fixed": partial,
}


def work_of(title: str, kind: str, num_items: int, num_prompts: int, num_resamples: int, counted: bool = True) -> Work:
    """Return the work of one correlation with its interval."""
    return functools.partial(TITLES[title], series(num_items, kind, num_prompts), num_resamples, counted=counted)


def rows_of_kind(kind: str, num_items: int, num_prompts: int, num_resamples: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of one kind of data: times and memory, and how far the ends of the intervals are from exact."""
    sizes = (num_items, num_prompts, num_resamples)
    works = {title: work_of(title, kind, *sizes) for title in TITLES}
    shape = dict(zip(("tokens", "prompts", "resamples"), sizes, strict=True))
    rows = []
    for row in rows_of(kind, works, rounds, beside="ρ by token", shape=shape, about=KINDS[kind]):
        title = row["work"]
        both = [work_of(title, kind, COMPARED, num_prompts, num_resamples, flag)() for flag in (True, False)]
        (low, high), (exact_low, exact_high) = [(found.low, found.high) for found in both]
        more = {
            "compared_tokens": COMPARED, "exact_low": exact_low, "exact_high": exact_high,
            "low_difference": low - exact_low, "high_difference": high - exact_high,
            "peak_mib": peak_apart(work_of, title, kind, *sizes),
        }  # fmt: skip
        rows.append(row | more)
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (options.tokens, options.prompts, options.resamples)
    rows = [row for kind in KINDS for row in rows_of_kind(kind, *sizes, options.rounds)]
    write(options.out / "intervals-cpu.json", rows)


if __name__ == "__main__":
    main()
