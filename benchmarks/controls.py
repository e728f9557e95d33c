"""What the attention entropy and the effective rank add to the time of the estimator `own`.

Both are read from numbers that `own` computes anyway. Every round measures the same rollout with and without them, one
after the other, in CPU time. Ratios are taken within a round. The token ids are random, because the time does not
depend on what they say.

    python benchmarks/controls.py [--model demo] [--rounds 5] [--out benchmarks/results]

Writes OUT/controls-cpu.json, two rows per case.
"""

import argparse
import contextlib
import functools
import json
from pathlib import Path
from unittest import mock

import torch

from antiphase import SignalSpec, load_model, token_signals
from antiphase.signals import joint, own, prefix
from antiphase.signals.norms import factored_norm
from cases import random_ids, rollout
from rows import Work, rows_of, write

LENGTHS = (152, 1024)
NUM_PROMPT, STEP = 56, 24


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(args.model)
    rows = []
    for length in LENGTHS:
        batch = rollout(random_ids(length, 40_000), NUM_PROMPT)
        steps = torch.full((1, length), -1)
        steps[0, NUM_PROMPT:] = torch.arange(length - NUM_PROMPT) // STEP
        for strength in ("mean", "joint"):
            spec = SignalSpec(step_strength=strength)
            whole = functools.partial(token_signals, loaded.model, batch, spec, steps=steps)

            def part(whole: Work = whole) -> None:
                with without():
                    whole()

            works = {"with the controls": whole, "without": part}
            rows += rows_of(f"own, {strength}", works, args.rounds, beside="without", shape={"tokens": length})
            print(json.dumps(rows[-2]), flush=True)
    write(args.out / "controls-cpu.json", rows, model=args.model, dtype=loaded.dtype)


if __name__ == "__main__":
    main()
