"""Time and memory of the strength estimators on a real model, in one process, alternating.

**Against the oracle** (case `speed`): every round runs each estimator once on the same rollout of 152 tokens. The
oracle costs the same for every token, so it is timed on a few. Ratios are those of times for one token.

**Against a plain pass** (case `cost`): forward and backward through the body, without the head and without gradients
at weights, by the length of the rollout. `own` and `last` measure all tokens, head included; `full` measures some that
are drawn at random. `limit_seconds` is the time of the matrix products alone, at the rate that this machine reaches.

Times are CPU times, ratios are taken within a round, and peak memory is that of a process of its own, above the model.

    python benchmarks/estimators.py [--model demo] [--rounds 3] [--lengths 256,512,1024,2048] [--out FOLDER]

Writes estimators-DEVICE.json, one row per work, and a picture beside it, into benchmarks/results or FOLDER.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from antiphase import TokenBatch, load_model
from antiphase.data.prompts import load_prompts
from cases import measuring, passing
from limits import Products, copy_rate, gemm_rate
from rows import Work, peak_apart, rows_of, seconds, write

# How many of the 96 tokens are timed. `oracle@last` is the oracle on the last layer alone, what `last` computes.
ESTIMATORS = {"oracle": 2, "oracle@last": 4, "full": 16, "last": 96, "own": 96}
WORKS = ("plain", "own", "last", "full")
NUM_PROMPT, NUM_TOKENS = 56, 152
TARGETS = 4
# How many tokens are run before the timing, so that every kernel is warm.
WARM = 64


def token_ids(loaded, length: int) -> list[int]:
    """Return the ids of the first tokens of GSM8K's problems."""
    text = " ".join(str(prompt.content) for prompt in load_prompts("gsm8k", 60))
    return loaded.tokenizer(text).input_ids[:length]


def rollout(loaded, num_prompt: int, num_completion: int) -> TokenBatch:
    """Return one rollout of real text."""
    ids = token_ids(loaded, num_prompt + num_completion)
    return TokenBatch.from_ids([ids[:num_prompt]], [ids[num_prompt:]])


def run(loaded, batch: TokenBatch, estimator: str, targets: int | None) -> float:
    """Return the seconds for each token that an estimator measures in the only row of a batch."""
    ids, num_prompt = batch.input_ids[0].tolist(), int((~batch.completion_mask[0]).sum())
    work = measuring(loaded.model, ids, estimator, targets, num_prompt)
    return seconds(work) / min(targets or len(ids), len(ids) - num_prompt)


def work_of(loaded, name: str, length: int) -> Work:
    """Return one of the works that are compared with a plain pass."""
    ids = token_ids(loaded, length)
    if name == "plain":
        return passing(loaded.model, ids)
    return measuring(loaded.model, ids, name, TARGETS if name == "full" else None)


def warmed(loaded) -> None:
    """Run every work on a short rollout."""
    for name in WORKS:
        work_of(loaded, name, WARM)()


def _speed_work(model: str, name: str, targets: int) -> Work:
    loaded = load_model(model)
    warmed(loaded)
    return measuring(loaded.model, token_ids(loaded, NUM_TOKENS), name, targets, NUM_PROMPT)


def _cost_work(model: str, name: str, length: int) -> Work:
    loaded = load_model(model)
    warmed(loaded)
    return work_of(loaded, name, length)


def for_one(row: dict[str, Any], targets: int, other: int) -> dict[str, Any]:
    """Return a row with the seconds for one target, and with `speedup`, the ratio of times for one target.

    Args:
        row: a row whose ratio is the time of a work divided by that of the work it is compared with.
        targets: the number of targets of this work.
        other: the number of targets of the work it is compared with.
    """
    per_target = {f"seconds_per_target_p{q}": row[f"seconds_p{q}"] / targets for q in (20, 50, 80)}
    speedup = {f"speedup_p{100 - q}": targets / other / row[f"ratio_p{q}"] for q in (80, 50, 20)}
    return row | {"targets": targets} | per_target | speedup


def speed(loaded, model: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the estimators against the oracle."""
    ids = token_ids(loaded, NUM_TOKENS)
    works = {name: measuring(loaded.model, ids, name, count, NUM_PROMPT) for name, count in ESTIMATORS.items()}
    rows = rows_of("speed", works, rounds, beside="oracle", shape={"tokens": NUM_TOKENS}, warm=True)
    return [
        for_one(row, ESTIMATORS[name], ESTIMATORS["oracle"])
        | {"peak_mib": peak_apart(_speed_work, model, name, ESTIMATORS[name])}
        for row in rows
        if (name := row["work"])
    ]


def costs(loaded, model: str, length: int, rounds: int, rate: float) -> list[dict[str, Any]]:
    """Return the rows of the estimators against a plain pass, for one length."""
    works = {name: work_of(loaded, name, length) for name in WORKS}
    rows = rows_of("cost", works, rounds, beside="plain", shape={"tokens": length}, warm=True)
    signals: Any = works["full"]()
    positions = signals.measured[0].nonzero()[:, 0].tolist()
    for row in rows:
        name = row["work"]
        limit = Products(loaded.model.config).of(name, length, positions) / rate
        row |= {
            "targets": {"plain": 0, "full": TARGETS}.get(name, length - 1), "limit_seconds": limit,
            "peak_mib": peak_apart(_cost_work, model, name, length),
        }  # fmt: skip
        if name == "full":
            row["positions"] = positions
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the speed against the oracle, the growth of the time, and the growth of the memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    fast = [row for row in rows if row["case"] == "speed" and not row["work"].startswith("oracle")]
    left.barh([row["work"] for row in fast], [row["speedup_p50"] for row in fast], color="#4477aa", height=0.55)
    for place, row in enumerate(fast):
        label = f"{row['speedup_p50']:.0f}×  ·  {row['peak_mib']:.0f} MiB"
        left.text(row["speedup_p50"] * 1.08, place, label, va="center")
    left.set_xscale("log")
    left.set_xlim(1, max(row["speedup_p50"] for row in fast) * 12)
    left.set_xlabel("speed per token against the oracle (its 120 matrices; last: 4), peak memory", fontsize=8)
    left.set_title(f"{NUM_TOKENS} tokens, {NUM_TOKENS - NUM_PROMPT} targets", loc="left", fontsize=10)
    lengths = sorted({row["tokens"] for row in rows if row["case"] == "cost"})
    for name, colour in zip(WORKS, ("#888888", "#4477aa", "#228833", "#cc6677"), strict=True):
        grown = [row for row in rows if row["case"] == "cost" and row["work"] == name]
        per = TARGETS if name == "full" else 1
        label = {"plain": "plain pass", "full": "full, one target"}.get(name, name)
        middle.loglog(lengths, [row["seconds_p50"] / per for row in grown], "o-", color=colour, label=label)
        if name in ("plain", "own"):
            middle.loglog(lengths, [row["limit_seconds"] / per for row in grown], ":", color=colour)
        right.plot(lengths, [row["peak_mib"] for row in grown], "o-", color=colour, label=label)
    for axes, label, title in ((middle, "seconds", "time (dotted: matrix products alone)"), (right, "MiB", "memory")):
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
        axes.minorticks_off()
        axes.set_xlabel("tokens in the rollout", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.set_title(title, loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def report(loaded, options: argparse.Namespace, print_row: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Measure everything, and return the rows."""
    warmed(loaded)
    rate, copied = gemm_rate(), copy_rate()
    rows: list[dict[str, Any]] = [
        {"case": "machine", "gemm_operations_per_second": rate, "copied_bytes_per_second": copied}
    ]
    rows += speed(loaded, options.model, options.rounds)
    for length in map(int, options.lengths.split(",")):
        rows += costs(loaded, options.model, length, options.rounds, rate)
        for row in rows[-len(WORKS) :]:
            print_row(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", default="256,512,1024,2048")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model)
    loaded.model.requires_grad_(False)

    def print_row(row: dict[str, Any]) -> None:
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))

    rows = report(loaded, options, print_row)
    name = torch.cuda.get_device_name() if loaded.device.type == "cuda" else "cpu"
    path = options.out / f"estimators-{name.lower().replace(' ', '-')}.json"
    write(path, rows, model=options.model, device=name, dtype=loaded.dtype)
    draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
