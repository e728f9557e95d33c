"""What the strength of steps costs, how its readings agree, and how it goes with the length of a step.

The model writes rollouts itself, of about 150 and 600 tokens. Every round runs each case once on the same rollouts, so
that a busy machine slows all of them alike; ratios are taken within a round. On a CPU, times are CPU times. `full`
token by token is timed on a few tokens and scaled up, since each takes one backward. Agreement and lengths are taken
on the shorter rollouts, where `full` can measure every token.

    python benchmarks/steps.py [--model demo] [--rounds 3] [--out benchmarks/results]

Writes OUT/steps-DEVICE.json, one row per case.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from antiphase import SignalSpec, TokenBatch, load_model, token_signals
from antiphase.data.prompt_rendering import PromptFormat
from antiphase.data.prompts import STEP_BY_STEP, load_prompts
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.signals.joint import GROWTH
from antiphase.steps import Splitter
from antiphase.steps.assigning import batch_steps
from rows import seconds, spread, write

# Case → what is measured; `share` is how many of the tokens are timed, the rest is scaled up.
CASES = {
    "own, mean": SignalSpec(),
    "own, joint": SignalSpec(step_strength="joint"),
    "last, mean": SignalSpec(estimator="last"),
    "last, joint": SignalSpec(estimator="last", step_strength="joint", targets_per_rollout=0),
    "full, joint": SignalSpec(estimator="full", step_strength="joint", targets_per_rollout=0),
    "full, mean": SignalSpec(estimator="full", targets_per_rollout=6),
}
LENGTHS = (150, 600)
WINDOWS = {"own": (2, 4, 8, 16, 32, 64), "full": (8, 16, 32, 64)}
PARTS = ("agreement", "growth", "cost")


def rollouts(loaded, length: int, number: int) -> TokenBatch:
    """The first rollouts of the model that reach the length."""
    form = PromptFormat(STEP_BY_STEP)
    kept = []
    for start in itertools.count(step=number):
        contents = [prompt.content for prompt in load_prompts("gsm8k", start + number)[start:]]
        prompts = [form.encode(loaded.tokenizer, content, "prompt") for content in contents]
        drawn = generate(loaded, prompts, Sampling(max_new_tokens=length), rollout_seeds(0, prompts))
        kept += [(p, list(c)) for p, (c, _) in zip(prompts, drawn, strict=True) if len(c) == length]
        if len(kept) >= number:
            break
    chosen = kept[:number]
    return TokenBatch.from_ids([p for p, _ in chosen], [c for _, c in chosen])


def whole_seconds(loaded, batch: TokenBatch, steps: torch.Tensor, spec: SignalSpec) -> float:
    """Return the seconds of measuring all rollouts; the time of a part of the tokens is scaled to all of them."""
    took = seconds(lambda: token_signals(loaded.model, batch, spec, steps=steps))
    if spec.targets_per_rollout:
        took *= int(batch.completion_mask.sum()) / (spec.targets_per_rollout * len(batch.input_ids))
    return took


def costs(loaded, rounds: int, number: int, batches: dict[int, TokenBatch]) -> list[dict]:
    rows = []
    for length, batch in batches.items():
        steps = batch_steps(batch, loaded.tokenizer, Splitter())
        took = {case: [] for case in CASES}
        for _, (case, spec) in itertools.product(range(rounds), CASES.items()):
            took[case].append(whole_seconds(loaded, batch, steps, spec))
            print(f"{length} tokens, {case}: {took[case][-1]:.1f} s", flush=True)
        whole = np.array(took["full, mean"])
        own = np.array(took["own, mean"])
        for case, values in took.items():
            rows.append(
                {
                    "case": "cost", "name": case, "tokens": length, "rollouts": number,
                    "steps": float((steps.amax(1) + 1).double().mean()), **spread(values, "seconds"), "rounds": rounds,
                    "speedup_to_full_mean": float(np.median(whole / np.array(values))),
                    "times_own_mean": float(np.median(np.array(values) / own)),
                }
            )  # fmt: skip
    return rows


def agreement(loaded, batch: TokenBatch) -> list[dict]:
    """Rank correlations between the readings of a step's strength, and of each with the step's length."""
    steps = batch_steps(batch, loaded.tokenizer, Splitter())
    found = {
        "own, mean": SignalSpec(),
        "own, joint": SignalSpec(step_strength="joint"),
        "full, mean": SignalSpec(estimator="full"),
        "full, joint": SignalSpec(estimator="full", step_strength="joint", targets_per_rollout=0),
    }
    strengths, lengths, entropies = {}, None, None
    for name, spec in found.items():
        signals = token_signals(loaded.model, batch, spec, steps=steps).steps
        kept = signals.num_tokens > 0
        strengths[name] = signals.strength[kept].double().numpy()
        lengths, entropies = signals.num_tokens[kept].double().numpy(), signals.entropy[kept].double().numpy()
        print(f"agreement: {name} done", flush=True)
    rows: list[dict] = []
    for left, right in itertools.combinations(found, 2):
        rho = float(spearmanr(strengths[left], strengths[right])[0])
        rows.append({"case": "agreement", "left": left, "right": right, "rho": rho})
    for name, values in strengths.items():
        row = {"case": "length", "name": name, "steps": len(values)}
        row["rho_with_entropy"] = float(spearmanr(values, entropies)[0])
        if name.endswith("joint"):
            # ‖Σ‖ is the strength times n^GROWTH; what its growth with n is, and what other powers of n would leave.
            summed = values * lengths**GROWTH
            row["growth"] = float(np.polyfit(np.log(lengths), np.log(summed), 1)[0])
            for power in (0.0, 0.5, GROWTH, 1.0):
                scaled = summed / lengths**power
                row[f"rho_with_length_over_n^{power}"] = float(spearmanr(scaled, lengths)[0])
        else:
            row["rho_with_length"] = float(spearmanr(values, lengths)[0])
        rows.append(row)
    return rows


def growth(loaded, batch: TokenBatch) -> list[dict]:
    """How the norm of the summed gradient grows with the number of tokens, on windows of exactly so many."""
    rows = []
    place = batch.completion_mask.cumsum(1) - 1
    for estimator, sizes in WINDOWS.items():
        logs = []
        for size in sizes:
            steps = torch.where(batch.completion_mask, place // size, -1)
            spec = SignalSpec(
                estimator=estimator, step_strength="joint", targets_per_rollout=None if estimator == "own" else 0
            )
            signals = token_signals(loaded.model, batch, spec, steps=steps).steps
            whole = signals.num_tokens == size
            logs.append(float((signals.strength[whole] * size**GROWTH).log().mean()))
            print(f"growth: {estimator}, windows of {size} done", flush=True)
        exponent = float(np.polyfit(np.log(sizes), logs, 1)[0])
        rows.append({"case": "growth", "estimator": estimator, "windows": list(sizes), "mean_log_norm": logs,
                     "exponent": exponent})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--for-agreement", type=int, default=4, help="rollouts for agreement and lengths")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="parts; the others' rows stay")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model)
    rows = []
    if "agreement" in options.only:
        rows += agreement(loaded, rollouts(loaded, LENGTHS[0], options.for_agreement))
    if "growth" in options.only:
        rows += growth(loaded, rollouts(loaded, 256, 2))
    if "cost" in options.only:
        batches = {length: rollouts(loaded, length, options.rollouts) for length in LENGTHS}
        rows += costs(loaded, options.rounds, options.rollouts, batches)
    name = torch.cuda.get_device_name() if loaded.device.type == "cuda" else "cpu"
    path = options.out / f"steps-{name.lower().replace(' ', '-')}.json"
    cases = {"agreement": ("agreement", "length"), "growth": ("growth",), "cost": ("cost",)}
    redone = {case for part in options.only for case in cases[part]}
    if path.is_file():
        rows = [row for row in json.loads(path.read_text())["rows"] if row["case"] not in redone] + rows
    write(path, rows, model=options.model, device=name, dtype=loaded.dtype)
    for row in rows:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
