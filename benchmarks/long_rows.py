"""Time and peak memory of `own` on one long rollout, by its length and by the token budget.

The model is a Llama of the shape of SmolLM2-135M with random weights and a longer context. Every case runs in a
process of its own. Peak memory is what the process takes above the loaded model. The last lines print the slope of the
memory against the length, beside the size of the keys and values of a token.

    python benchmarks/long_rows.py [--lengths 1024,2048,4096] [--budgets 512,1000000] [--out benchmarks/results]

Writes OUT/long-rows-cpu.json after every case, and a picture beside it. A case that is in the file is not run again.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.runs.versions import commit, versions

# The shape of HuggingFaceTB/SmolLM2-135M.
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
KEYS_AND_VALUES = 4 * 2 * SHAPE["num_hidden_layers"] * SHAPE["num_key_value_heads"] * 64
"""Bytes of the float32 keys and values of a token: 30 layers, 3 groups of 64 numbers each."""


def measure(length: int, budget: int) -> None:
    """Measure one case in this process, and print its row."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=max(length, 2048))).eval()
    ids = torch.randint(3, SHAPE["vocab_size"], (length,)).tolist()
    token_signals(model, TokenBatch.from_ids([ids[:1]], [ids[1:65]]), SignalSpec(token_budget=64))
    process, done, peak = psutil.Process(), threading.Event(), [0]
    base = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    signals = token_signals(model, TokenBatch.from_ids([ids[:1]], [ids[1:]]), SignalSpec(token_budget=budget))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    assert bool(signals.strength[0, 1:].isfinite().all())
    row = {"tokens": length, "budget": budget, "seconds": seconds, "peak_mib": (peak[0] - base) / 2**20}
    print(json.dumps(row))


def draw(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for budget in sorted({row["budget"] for row in rows}):
        line = sorted((row["tokens"], row["peak_mib"] / 1024) for row in rows if row["budget"] == budget)
        whole = budget > max(tokens for tokens, _ in line)
        axes.plot(*zip(*line, strict=True), "o-", label="one pass" if whole else f"passes of {budget:,} tokens")
    lengths = sorted({row["tokens"] for row in rows})
    alone = [n * KEYS_AND_VALUES / 2**30 for n in lengths]
    axes.plot(lengths, alone, ":", color="grey", label="keys and values alone")
    axes.set_xlabel("tokens in the rollout")
    axes.set_ylabel("GiB above the model")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1024,2048,4096")
    parser.add_argument("--budgets", default="512,1000000")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        measure(*map(int, options.case.split(",")))
        return
    lengths, budgets = ([int(part) for part in text.split(",")] for text in (options.lengths, options.budgets))
    path = options.out / "long-rows-cpu.json"
    options.out.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {(row["tokens"], row["budget"]) for row in rows}
    for case in tqdm([(n, budget) for n in lengths for budget in budgets if (n, budget) not in known], unit="case"):
        command = [sys.executable, __file__, "--case", f"{case[0]},{case[1]}"]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(output.strip().splitlines()[-1]))
        report = {
            "machine": platform.machine(), "cores": os.cpu_count(), "threads": 1, "dtype": "float32",
            "versions": versions(), "commit": commit(), "rows": rows,
        }  # fmt: skip
        path.write_text(json.dumps(report, indent=1) + "\n")
        draw(rows, path.with_suffix(".png"))
    for budget in budgets:
        some = sorted((row["tokens"], row["peak_mib"]) for row in rows if row["budget"] == budget)
        if len(some) > 1:
            slope = float(np.polyfit(*zip(*some, strict=True), 1)[0]) * 2**20
            print(f"budget {budget:,}: {slope:,.0f} bytes a token; keys and values alone {KEYS_AND_VALUES:,}.")


if __name__ == "__main__":
    main()
