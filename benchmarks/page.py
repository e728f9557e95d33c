"""Write the tables of docs/performance.md from the rows in benchmarks/results.

    python benchmarks/page.py

Every stored result has a place in the page, between two marks, where its heading, its text and its tables stand. The
place of a result that is not stored is empty. The text outside the marks is written by hand.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from long_rows import KEYS_AND_VALUES
from page_tables import WORKS, Row, cells_of, in_turns, sizes_of, small, table, time_of, times_of

ROOT = Path(__file__).resolve().parents[1]


def estimators(stored: Row) -> list[str]:
    """Return the cost of every estimator by length, its limits, its memory, and its speed against the oracle."""
    speeds = [row for row in stored["rows"] if row["case"] == "speed"]
    body = [
        [f"`{row['work']}`" if "@" not in row["work"] else "`oracle`, last layer alone",
         time_of(row["seconds_per_target_p50"]), times_of(row["speedup_p50"]), f"{row['peak_mib']:,.0f} MiB"]
        for row in speeds
    ]  # fmt: skip
    return [
        "## What each estimator costs",
        "",
        *costs([row for row in stored["rows"] if row["case"] in ("machine", "cost")]),
        "**Against the oracle.** The rollout has 152 tokens, of which 96 are the completion. `own` and `last` "
        "measured all 96. The others measured only some of them: `full` 16, `oracle` 2, and `oracle` for the last "
        "layer 4. For each measured token, the oracle computes the gradient of the token's logit at the weights, and "
        "the singular values of this gradient.",
        "",
        *table(["estimator", "time for one token", "speed against the oracle", "peak memory"], body),
    ]


def costs(rows: Sequence[Row]) -> list[str]:
    """Return time, limit and memory by length; nothing if these were not measured."""
    works = [row for row in rows if row["case"] == "cost"]
    if not works:
        return []
    (machine,) = [row for row in rows if row["case"] == "machine"]
    header = ["tokens", *WORKS.values()]
    rate, copied = machine["gemm_operations_per_second"] / 1e9, machine["copied_bytes_per_second"] / 1e9

    def time(row: Row, per: int) -> str:
        return f"{time_of(row['seconds_p50'] / per)} ({times_of(row['ratio_p50'] / per)})"

    def limit(row: Row, per: int) -> str:
        return f"{time_of(row['limit_seconds'] / per)} ({times_of(row['seconds_p50'] / row['limit_seconds'])})"

    return [
        "`own` and `last` measured all tokens of one rollout. `full` measured 4 tokens, drawn at random. For "
        "`full`, the times are those of one token: the whole time divided by 4. The estimators also run the head, "
        "which a plain pass does not. "
        f"All times are medians over {works[0]['rounds']} rounds (`make bench`, "
        "[numbers](../benchmarks/results/estimators-cpu.json)).",
        "",
        "**CPU time.** The number in brackets is the ratio to the plain pass of the same length:",
        "",
        *table(header, cells_of(works, time)),
        "",
        "**The physical limit.** One thread of this machine multiplies float32 matrices of the model's shape at "
        f"{rate:.0f} GFLOP/s. The limit is the time that the matrix products alone would take at this rate. The "
        "number in brackets is the measured time, divided by the limit. The limit counts the products of the layers, "
        "of the causal half of the attention, and of the head. For `last`, it also counts the products of the "
        "gradients at K. For `full`, it does not count the work for the norms.",
        "",
        *table(header, cells_of(works, limit)),
        "",
        f"Reading the weights does not limit the speed. The machine moves {copied:.0f} GB a second, so the 0.54 GB of "
        f"the model are read in {time_of(0.54e9 / (copied * 1e9))}.",
        "",
        "**Peak memory** above the loaded model. `full` measured 4 tokens:",
        "",
        *table(header, cells_of(works, lambda row, _: f"{row['peak_mib']:,.0f} MiB")),
        "",
        "![Speed against the oracle; growth of time and memory](../benchmarks/results/estimators-cpu.png)",
        "",
        "*Left: speed for one token relative to the oracle, and peak memory. Middle and right: time and peak memory "
        "against the length of the rollout.*",
        "",
    ]


def attention(stored: Row) -> list[str]:
    """Return the time of the frozen attention beside the ordinary attention of PyTorch."""
    names = list(dict.fromkeys(row["work"] for row in stored["rows"]))
    lengths = list(dict.fromkeys(row["tokens"] for row in stored["rows"]))
    found = {(row["tokens"], row["work"]): row for row in stored["rows"]}
    body = [
        [f"{length:,}", *(f"{time_of(row['seconds_p50'])} ({times_of(row['ratio_p50'])})"
                          for row in (found[length, name] for name in names))]
        for length in lengths
    ]  # fmt: skip
    return [
        "### The attention of `own`",
        "",
        "There are several ways to compute the attention. The table compares four of them. A cell has the time of "
        "a forward and a backward pass through the attention of one layer. The number in brackets is the ratio to "
        "`sdpa` (`python benchmarks/attention.py`, [numbers](../benchmarks/results/attention-cpu.json)).",
        "",
        "* `blocks` takes one block of queries after another. `own` uses this way. `blocks` also computes the "
        "entropy of the attention weights.",
        "* `blocks without entropy` does the same without this entropy.",
        "* `sdpa` is PyTorch's `scaled_dot_product_attention` with its ordinary gradients.",
        "* `fused` computes the forward pass and the gradient of the queries with `scaled_dot_product_attention`. "
        "Only the log-sum-exp of the scores is computed in blocks.",
        "",
        *table(["tokens", *(f"`{name}`" for name in names)], body),
    ]


def long_rows(stored: Row) -> list[str]:
    """Return time and memory of long rollouts by the budget of a pass."""
    body = [
        [f"{row['tokens']:,}", "one pass" if row["budget"] > row["tokens"] else f"{row['budget']:,}",
         time_of(row["seconds"]), f"{row['peak_mib'] / 1024:.2f} GiB"]
        for row in stored["rows"]
    ]  # fmt: skip
    passes = [(row["tokens"], row["peak_mib"]) for row in stored["rows"] if row["budget"] < row["tokens"]]
    slope = float(np.polyfit(*zip(*passes, strict=True), 1)[0]) * 2**20
    return [
        "### Long rollouts",
        "",
        "A long rollout is measured in several passes. A pass runs at most `--token-budget` tokens, and uses the keys "
        "and values of the earlier passes. In the table, `own` measured all tokens of one rollout. The time is clock "
        "time, and other programs ran at the same time (`python benchmarks/long_rows.py`, "
        "[numbers](../benchmarks/results/long-rows-cpu.json)).",
        "",
        f"The memory grows in a straight line, by {slope / 1000:.0f} kB for each token. The keys and values take "
        f"{KEYS_AND_VALUES / 1000:.0f} kB of this. We do not know what takes the rest.",
        "",
        *table(["tokens", "`--token-budget`", "time", "peak memory above the model"], body),
        "",
        "![Memory by the length of the rollout](../benchmarks/results/long-rows-cpu.png)",
    ]


def head(stored: Row) -> list[str]:
    """Return the time, the memory and the error of the head beside other implementations."""
    lines = [
        "## The head",
        "",
        "The head computes entropies and log-probabilities from the hidden states and the weights of the output "
        "layer. The tables compare the head of antiphase with other implementations (`python benchmarks/head.py`, "
        "[numbers](../benchmarks/results/head-cpu.json)).",
        "",
        "| row | what it computes |",
        "| --- | --- |",
        "| antiphase | all signals of the head. `naive`, TRL and torch compute only entropies and log-probabilities. "
        "The vocabulary is divided into tiles, which are computed one after another. "
        f"The logits of a tile take {stored['tile_mib']:.0f} MiB |",
        "| antiphase, whole vocabulary | the same signals without tiles |",
        "| naive | `log_softmax` of all logits |",
        "| TRL, all logits | TRL's `selective_log_softmax_and_entropy` of all logits |",
        "| TRL, fused head | the function of TRL's fused head, which also works in tiles |",
        "| torch linear_cross_entropy | PyTorch's function, for 512 tokens at a time. The entropy is computed from "
        "its result and gradient |",
        "| antiphase, seeds and alternatives | the same as antiphase, and two things more. A seed is the gradient of "
        "the token's logit at the hidden state, where the backward pass begins. The alternatives are the five most "
        "probable tokens |",
        "",
        'The column "greatest error" has the greatest error of an entropy. The reference is the entropy of the same '
        'logits in float64. The column "exact enough" says whether every entropy and every log-probability x has an '
        "error below 1e-6 · (1 + |x|). So a larger x may have a larger error. The "
        'column "memory of tensors" has the greatest memory that PyTorch allocated.',
    ]
    for case in dict.fromkeys(row["case"] for row in stored["rows"]):
        some = [row for row in stored["rows"] if row["case"] == case]
        body = [
            [row["work"], time_of(row["seconds_p50"]), times_of(row["ratio_p50"]), f"{row['tensors_mib']:,.0f} MiB",
             f"{row['entropy_error_of_same_logits']:.1e}",
             "yes" if row["entropy_same"] and row["logprob_same"] else "no"]
            for row in some
        ]  # fmt: skip
        sizes = sizes_of({key: some[0][key] for key in ("tokens", "hidden", "vocabulary")})
        header = [
            "",
            "CPU time",
            f"÷ {some[0]['beside']}",
            "memory of tensors",
            "greatest error, nats",
            "exact enough",
        ]
        lines += ["", f"**{case}** ({sizes}):", "", *table(header, body)]
    return lines


def training(stored: Row) -> list[str]:
    """Return the share of measuring in a training step, and the memory."""
    settings = {"sums": "recipe `smollm2-sums`", "long": "small Llama, 512 tokens"}
    body = [
        [settings[row.get("setting", "sums")], row["case"], f"{row['completion_tokens']:.0f}",
         time_of(row["step_seconds_p50"]), f"{row.get('measuring_share', row.get('measuring_share_p50')):.1%}",
         times_of(row["peak_over_grpo"])]
        for row in stored["rows"]
    ]  # fmt: skip
    return [
        "The table compares plain GRPO (`grpo`) with CorR-PO. For CorR-PO, the second column names the estimator "
        "(`make bench-train`, [numbers](../benchmarks/results/training-cpu.json)).",
        "",
        *table(
            ["training", "method", "tokens of a completion", "time of a step", "measuring, share of the step",
             "peak memory ÷ that of `grpo`"],
            body,
        ),
    ]  # fmt: skip


def full(stored: Row) -> list[str]:
    """Return the speed of the estimators beside the oracle, and the time of parts of `full`."""
    beside = [row for row in stored["rows"] if row["case"] in ("oracle", "sample")]
    found = {(row["case"], row["tokens"], row["work"]): times_of(row["speedup_p50"]) for row in beside}
    measured = {"oracle": "96", "sample": "all; only 8 by `full`"}
    body = [
        [f"{tokens:,}", measured[case], *(found[case, tokens, work] for work in ("full", "own", "last"))]
        for case, tokens in dict.fromkeys((row["case"], row["tokens"]) for row in beside)
    ]
    return [
        "## `full` and the oracle",
        "",
        "The table compares the estimators with the oracle. A cell has the oracle's time for one token, divided by "
        "the estimator's time for one token (`python benchmarks/full.py`, "
        "[numbers](../benchmarks/results/full-cpu.json)).",
        "",
        *table(["tokens of the rollout", "measured tokens", "`full`", "`own`", "`last`"], body),
        "",
        "The next two tables time two parts of `full`. The first part is the **backward passes** of 4 tokens of one "
        "rollout. They were made one after another (`loop`), in one pass under `vmap` (`is_grads_batched`), or in one "
        "pass over 4 copies of the rollout (`copies of the row`). The number in brackets is the ratio to `loop`:",
        "",
        *by_length([row for row in stored["rows"] if row["case"] == "targets"]),
        "",
        "The second part is the **nuclear norms** of all gradients of one token. This token is the last or the "
        "middle token of the rollout. The number in brackets is the ratio to the last token:",
        "",
        *by_length([row for row in stored["rows"] if row["case"] == "norms"]),
    ]


def by_length(rows: Sequence[Row]) -> list[str]:
    """Return a table of times with a line for each length and a column for each work."""
    names = list(dict.fromkeys(row["work"] for row in rows))
    found = {(row["tokens"], row["work"]): row for row in rows}
    body = [
        [f"{tokens:,}", *(f"{time_of(row['seconds_p50'])} ({times_of(row['ratio_p50'])})"
                          for row in (found[tokens, name] for name in names))]
        for tokens in dict.fromkeys(row["tokens"] for row in rows)
    ]  # fmt: skip
    return table(["tokens of the rollout", *names], body)


def peers(stored: Row) -> list[str]:
    return [
        "## Other ways to compute the same",
        "",
        "Each table compares antiphase with other ways to compute the same numbers (`python benchmarks/peers.py`, "
        "[numbers](../benchmarks/results/peers-cpu.json)).",
        "",
        '* **The column "greatest difference".** In the tables of strengths, it is the largest relative difference of '
        "a norm from the oracle in float64. In the other tables, it is the largest absolute difference from scipy or "
        "from exact resampling.",
        "* **`own`** measures another quantity than the oracle. So it is also compared with its own definition in "
        "float64.",
        "* **`own` and `last`** measured all tokens of the rollout, and the other ways only some. The time is always "
        "that of one token. `last` measures only the last layer.",
        '* **The table "strength, small"** is for a small Llama with random weights.',
        *in_turns(stored["rows"]),
    ]  # fmt: skip


def intervals(stored: Row) -> list[str]:
    rows = stored["rows"]
    data = {"smooth": "all values differ", "uneven": "unequal prompts", "tied": "equal values"}
    body = [
        [data[row["case"]], row["work"], time_of(row["seconds_p50"]),
         f"{row['peak_mib']:,.0f} MiB", small(max(abs(row["low_difference"]), abs(row["high_difference"]))),
         f"[{row['exact_low']:+.3f}, {row['exact_high']:+.3f}]".replace("-", "−")]
        for row in rows
    ]  # fmt: skip
    first = rows[0]
    return [
        "## Intervals over many tokens",
        "",
        "The table says what the interval of a correlation costs. The data are "
        f"{first['tokens']:,} tokens of {first['prompts']:,} prompts. antiphase computes "
        f"{first['resamples']:,} resamples from counts of tokens (`python benchmarks/intervals.py`, "
        "[numbers](../benchmarks/results/intervals-cpu.json)).",
        "",
        'There are three data sets. In "unequal prompts", some prompts have many more tokens than others. In "equal '
        'values", many tokens have the same value. The last two columns are from a second run with '
        f"{first['compared_tokens']:,} tokens. In this run, the ends of the interval are compared with the ends "
        "by exact resampling. Both ways used the same random draws.",
        "",
        *table(["data", "correlation", "CPU time", "peak memory", "greatest difference", "exact interval"], body),
    ]  # fmt: skip


def profiles(stored: Row) -> list[str]:
    """Return the parts of the time of the newest version; the file also has an earlier one."""
    rows = [row for row in stored["rows"] if row["label"] == "now"]
    kinds = list(rows[0]["parts"])
    body = [
        [row["work"] if row["work"] == "plain" else f"`{row['work']}`", time_of(row["seconds"]),
         *(f"{row['parts'][kind]:.2g} s ({row['parts'][kind] / row['seconds']:.0%})" for kind in kinds)]
        for row in sorted(rows, key=lambda row: list(WORKS).index(row["work"]))
    ]  # fmt: skip
    targets = next(row["targets"] for row in rows if row["work"] == "full")
    return [
        "## Where the time goes",
        "",
        f"The table is a profile of one rollout of {rows[0]['tokens']:,} tokens, by PyTorch's profiler. `full` "
        f"measured {targets} of the tokens. A percentage is the share of the time in the second column. The profiler "
        "makes small operations slower, so their shares are somewhat too large (`python benchmarks/profiles.py`, "
        "[numbers](../benchmarks/results/profiles-cpu.json)).",
        "",
        *table(["work", "time", *kinds], body),
    ]


PARTS: dict[str, Callable[[Row], list[str]]] = {
    "estimators-cpu": estimators, "attention-cpu": attention, "long-rows-cpu": long_rows, "head-cpu": head,
    "full-cpu": full, "peers-cpu": peers, "intervals-cpu": intervals, "training-cpu": training,
    "profiles-cpu": profiles,
}  # fmt: skip


def written(text: str, results: Path) -> str:
    """Return the page with every result between its marks.

    Raises:
        ValueError: the page has no place for a result.
    """
    for name, lines in PARTS.items():
        first, last = f"<!-- {name}: made by benchmarks/page.py -->", f"<!-- end of {name} -->"
        if first not in text or last not in text:
            raise ValueError(f"the page has no place for {name}.json: it needs the lines {first} and {last}.")
        before, rest = text.split(first, 1)
        path = results / f"{name}.json"
        content = "\n".join(lines(json.loads(path.read_text(encoding="utf-8")))) + "\n" if path.exists() else ""
        text = f"{before}{first}\n{content}{last}{rest.split(last, 1)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    options.page.write_text(written(options.page.read_text(encoding="utf-8"), options.results), encoding="utf-8")


if __name__ == "__main__":
    main()
