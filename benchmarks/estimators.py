"""Time and memory of the strength estimators on a real model, in one process, alternating.

Every round runs each estimator once on the same rollout, so that a busy machine slows all of them alike; ratios are
taken within a round. The oracle and `oracle-own` cost the same for every token, so they are timed on a few. Peak
memory is measured in a process of its own for each estimator, above what the loaded model takes. Growth with the
length T is timed for `own` (all tokens) and `full` (a few).

    python benchmarks/estimators.py [--model demo] [--rounds 5] [--out benchmarks/results]

Writes OUT/estimators-DEVICE.json (one row per case) and a picture beside it.
"""

import argparse
import itertools
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

from antiphase import SignalSpec, TokenBatch, load_model, token_signals
from antiphase.data.prompts import load_prompts
from antiphase.runs.versions import commit, versions

# How many of the 96 tokens are timed. `oracle@last` is the oracle on the last layer alone, what `last` computes.
ESTIMATORS = {"oracle": 2, "oracle@last": 4, "full": 96, "last": 96, "own": 96}
LENGTHS = (64, 128, 256, 512, 1024)


def rollout(loaded, num_prompt: int, num_completion: int) -> TokenBatch:
    text = " ".join(str(prompt.content) for prompt in load_prompts("gsm8k", 60))
    ids = loaded.tokenizer(text).input_ids
    return TokenBatch.from_ids([ids[:num_prompt]], [ids[num_prompt : num_prompt + num_completion]])


def run(loaded, batch: TokenBatch, estimator: str, targets: int | None) -> float:
    """Seconds per measured token."""
    name, _, layers = estimator.partition("@")
    spec = SignalSpec(estimator=name, layers=layers or "all", targets_per_rollout=targets, token_budget=4096)
    start = time.perf_counter()
    signals = token_signals(loaded.model, batch, spec)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / int(signals.measured.sum())


def peak_memory(model: str, estimator: str, targets: int) -> float:
    """MiB above the loaded model at the highest point, in a fresh process."""
    command = [sys.executable, __file__, "--model", model, "--peak-of", estimator, "--targets", str(targets)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def print_peak(model: str, estimator: str, targets: int) -> None:
    loaded = load_model(model)
    batch = rollout(loaded, 56, 96)
    if loaded.device.type == "cuda":
        base = torch.cuda.memory_allocated()
        run(loaded, batch, estimator, targets)
        print((torch.cuda.max_memory_allocated() - base) / 2**20)
        return
    process, done, peak = psutil.Process(), threading.Event(), [0]
    base = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(loaded, batch, estimator, targets)
    done.set()
    watcher.join()
    print((peak[0] - base) / 2**20)


def row(case: str, estimator: str, tokens: int, targets: int, seconds: list[float], **more) -> dict:
    low, middle, high = np.percentile(seconds, [20, 50, 80]).tolist()
    return {
        "case": case, "estimator": estimator, "tokens": tokens, "targets": targets, "rounds": len(seconds),
        "seconds_per_target_p20": low, "seconds_per_target_p50": middle, "seconds_per_target_p80": high, **more,
    }  # fmt: skip


def speed(loaded, model: str, rounds: int, bar) -> list[dict]:
    batch = rollout(loaded, 56, 96)
    seconds: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for estimator in ESTIMATORS:  # warm-up
        run(loaded, batch, estimator, 1)
    for _, (estimator, targets) in itertools.product(range(rounds), ESTIMATORS.items()):
        seconds[estimator].append(run(loaded, batch, estimator, targets))
        bar.update()
    rows = []
    for estimator, targets in ESTIMATORS.items():
        ratios = np.array(seconds["oracle"]) / np.array(seconds[estimator])
        rows.append(
            row(
                "speed",
                estimator,
                152,
                targets,
                seconds[estimator],
                speedup_p20=float(np.percentile(ratios, 20)),
                speedup_p50=float(np.median(ratios)),
                speedup_p80=float(np.percentile(ratios, 80)),
                peak_mib=peak_memory(model, estimator, targets),
            )
        )
        bar.update()
    return rows


def growth(loaded, rounds: int, bar) -> list[dict]:
    rows = []
    for length in LENGTHS:
        batch = rollout(loaded, 16, length - 16)
        seconds: dict[str, list[float]] = {"own": [], "full": []}
        for _ in range(rounds):
            seconds["own"].append(run(loaded, batch, "own", None))
            seconds["full"].append(run(loaded, batch, "full", 8))
            bar.update()
        rows.append(row("growth", "own", length, length - 16, seconds["own"]))
        rows.append(row("growth", "full", length, 8, seconds["full"]))
    return rows


def draw(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    fast = [r for r in rows if r["case"] == "speed" and not r["estimator"].startswith("oracle")]
    names = [r["estimator"] for r in fast]
    left.barh(names, [r["speedup_p50"] for r in fast], color="#4477aa", height=0.55)
    for place, r in enumerate(fast):
        left.text(r["speedup_p50"] * 1.08, place, f"{r['speedup_p50']:.0f}×  ·  {r['peak_mib']:.0f} MiB", va="center")
    left.set_xscale("log")
    left.set_xlim(1, max(r["speedup_p50"] for r in fast) * 12)
    left.set_xlabel("speed per token against the oracle (its 120 matrices; last: 4), peak memory", fontsize=8)
    left.set_title("152 tokens, 96 targets", loc="left", fontsize=10)
    for name, colour in (("own", "#4477aa"), ("full", "#cc6677")):
        grown = [r for r in rows if r["case"] == "growth" and r["estimator"] == name]
        right.loglog(
            [r["tokens"] for r in grown], [r["seconds_per_target_p50"] * 1e3 for r in grown], "o-", color=colour
        )
        right.annotate(f" {name}", (grown[-1]["tokens"], grown[-1]["seconds_per_target_p50"] * 1e3), color=colour)
    right.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    right.minorticks_off()
    right.set_xlim(right=LENGTHS[-1] * 1.7)
    right.set_xlabel("tokens in the rollout", fontsize=8)
    right.set_ylabel("ms per measured token", fontsize=8)
    right.set_title("growth with the length", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--peak-of", choices=ESTIMATORS, help=argparse.SUPPRESS)
    parser.add_argument("--targets", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print_peak(options.model, options.peak_of, options.targets)
        return
    loaded = load_model(options.model)
    with tqdm(total=options.rounds * (len(ESTIMATORS) + len(LENGTHS)) + len(ESTIMATORS), unit="run") as bar:
        rows = speed(loaded, options.model, options.rounds, bar) + growth(loaded, options.rounds, bar)
    name = torch.cuda.get_device_name() if loaded.device.type == "cuda" else "cpu"
    report = {
        "model": options.model, "device": name, "machine": platform.machine(), "cores": os.cpu_count(),
        "threads": options.threads, "dtype": loaded.dtype, "versions": versions(), "commit": commit(), "rows": rows,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"estimators-{name.lower().replace(' ', '-')}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    draw(rows, stem.with_suffix(".png"))
    for r in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()})


if __name__ == "__main__":
    main()
