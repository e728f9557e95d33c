"""What the attention entropy and the effective rank add to the time of the estimator `own`.

Both are read from numbers that `own` computes anyway. Every round measures the same rollout with and without them, one
after the other, in the time of the process on the CPU (so that other programs on the machine do not count). Ratios are
taken within a round. The token ids are random, because the time does not depend on what they say.

    python benchmarks/controls.py [--model demo] [--rounds 5] [--out benchmarks/results]

Writes OUT/controls-cpu.json, one row per case.
"""

import argparse
import contextlib
import json
import platform
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from antiphase import SignalSpec, TokenBatch, load_model, token_signals
from antiphase.runs.versions import commit, versions
from antiphase.signals import joint, own, prefix
from antiphase.signals.norms import factored_norm

LENGTHS = (152, 1024)
STEP = 24


@contextlib.contextmanager
def without():
    """Measure without attention entropy and effective rank inside the block."""
    plain = prefix.tracing

    def tracing(**options):
        return plain(**{**options, "entropies_of": ()})

    def norm_alone(delta, factor, norm):
        found = factored_norm(delta, factor, norm)
        return found, found

    # Zeros of any size take the place of the attention entropies.
    nothing = torch.zeros(1, 1).expand(1, max(LENGTHS) + 1)
    with (
        mock.patch.object(prefix, "tracing", tracing),
        mock.patch.object(own, "mean_over_layers", return_value=nothing),
        mock.patch.object(joint, "factored_norm_and_rank", norm_alone),
    ):
        yield


def seconds(model, batch, steps, spec) -> float:
    start = time.process_time()
    token_signals(model, batch, spec, steps=steps)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(args.model)
    generator, rows = torch.Generator().manual_seed(0), []
    for length in LENGTHS:
        ids = torch.randint(0, 40_000, (length,), generator=generator).tolist()
        batch = TokenBatch.from_ids([ids[:56]], [ids[56:]])
        steps = torch.full((1, length), -1)
        steps[0, 56:] = torch.arange(length - 56) // STEP
        for strength in ("mean", "joint"):
            spec = SignalSpec(step_strength=strength)
            token_signals(loaded.model, batch, spec, steps=steps)
            plain, whole = [], []
            for _ in range(args.rounds):
                with without():
                    plain.append(seconds(loaded.model, batch, steps, spec))
                whole.append(seconds(loaded.model, batch, steps, spec))
            ratios = np.array(whole) / np.array(plain)
            row = {
                "case": f"own, {strength}",
                "tokens": length,
                "seconds_without": float(np.median(plain)),
                "seconds_with": float(np.median(whole)),
                "ratio_p20": float(np.quantile(ratios, 0.2)),
                "ratio_p50": float(np.median(ratios)),
                "ratio_p80": float(np.quantile(ratios, 0.8)),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    machine = {
        "device": "cpu",
        "threads": 1,
        "machine": platform.machine(),
        "model": args.model,
        "dtype": loaded.dtype,
    }
    result = {**machine, "rounds": args.rounds, "versions": versions(), "commit": commit(), "rows": rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "controls-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
