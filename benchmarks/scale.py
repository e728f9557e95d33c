"""Check the model of the cost of a training step (`antiphase.training.step_cost`) against measured times.

**Here.** Three Llamas with random weights, rollouts of 128 to 2,048 tokens, and seven works: a forward pass, a plain
pass (forward, and backward to the activations), the estimators `own`, `last` (64 tokens) and `full` (4 tokens), an
update with gradients at all weights, and sampling. All works of a length run in turns; times are CPU times of one
thread.

**On GPUs.** The stored rows of benchmarks/gpu, on three shapes of real models.

A machine is described by a few rates: products, float64 products, solvers, bytes, and the time to start a kernel. They
are fitted to all rows but those of one shape, and predict the times of this shape. So no row is predicted by a fit
that has seen its shape.

    python benchmarks/scale.py [--rounds 3] [--measure] [--out benchmarks/results]

With `--measure`, it times the works here and writes OUT/scale-cpu.json (about 4 minutes on one free core). It always
writes the tables of docs/scaling.md from the stored rows.
"""

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

from antiphase import SignalSpec, token_signals
from antiphase.signals.chunk import generator_of
from antiphase.training import step_counts
from antiphase.training.device_speed import Device
from antiphase.training.model_shape import Counts, Machine, ModelShape
from cases import llama, passing, random_ids, rollout
from rows import Work, rows_of, write

# The works of this module, by the names of the stored rows.
PROMPT, FEW, MANY, SAMPLED, ROWS = 32, 4, 64, 16, 8
LENGTHS = (128, 512, 2048)
_SHARED = {"num_key_value_heads": 2, "tie_word_embeddings": True}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SHAPES: dict[str, dict[str, Any]] = {
    name: _SHARED | dict(zip(_SIZES, sizes, strict=True))
    for name, sizes in {
        "1M": (4096, 128, 384, 4, 4),
        "8M": (8192, 256, 768, 8, 4),
        "29M": (16384, 512, 1536, 6, 8),
    }.items()
}
_QWEN3 = {"groups": 8, "head_dim": 128, "vocabulary": 151936, "tied": True}
REAL = {
    "Qwen3-0.6B": ModelShape(28, 1024, 3072, 16, **_QWEN3),
    "Qwen3-1.7B": ModelShape(28, 2048, 6144, 16, **_QWEN3),
    "Qwen2.5-7B": ModelShape(28, 3584, 18944, 28, 4, 128, 152064),
}
# The rates that are fitted, with what they begin at.
CPU_RATES = {"products": 5e10, "solver": 2e9, "bandwidth": 2e10, "launch": 1e-5}
GPU_RATES = {"products": 4e14, "wide": 4e13, "bandwidth": 2e12, "launch": 2e-5}
# The stored rows `norm` tell what a QR decomposition takes for one column, so this rate is not fitted.
COLUMN = 6e-6
GPUS = {"gpu-nvidia-h100-80gb-hbm3": "H100", "gpu-nvidia-h200": "H200"}
# The prompt of the stored rows, and the length of their steps.
GPU_PROMPT, GPU_STEP = 64, 32
Row = tuple[str, str, int, int, float, tuple[Counts, ...]]  # shape, work, rows, length, seconds, phases


def works_of(model: torch.nn.Module, length: int) -> dict[str, Work]:
    """Return the works of one length by name."""
    vocab = int(model.config.vocab_size)
    ids = random_ids(length, vocab)
    batch = rollout(ids, PROMPT)

    def forward() -> None:
        with torch.no_grad():
            model.model(torch.tensor([ids]), use_cache=False)

    def update() -> None:
        model.requires_grad_(True)
        model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)

    def sample() -> None:
        prompts = torch.tensor([ids[: length - SAMPLED]] * ROWS)
        mask = torch.ones_like(prompts)
        model.generate(prompts, attention_mask=mask, do_sample=True, max_new_tokens=SAMPLED, min_new_tokens=SAMPLED)

    def measuring(**options: Any) -> Work:
        return functools.partial(token_signals, model, batch, SignalSpec(**options))

    return {
        "forward": forward,
        "plain": passing(model, ids),
        "own": measuring(estimator="own"),
        "last": measuring(estimator="last", layers="last", targets_per_rollout=MANY),
        "full:4": measuring(estimator="full", targets_per_rollout=FEW),
        "update": update,
        "sample": sample,
    }


def measured_rows(rounds: int) -> list[dict[str, Any]]:
    """Time all works of all shapes and lengths here."""
    rows = []
    for name, changes in SHAPES.items():
        model = llama(changes)
        for length in LENGTHS:
            works = works_of(model, length)
            rows += rows_of("scale", works, rounds, beside="plain", shape={"tokens": length}, model=name)
            print(name, length, {row["work"]: round(row["seconds_p50"], 3) for row in rows[-len(works) :]}, flush=True)
    return rows


def reaches(length: int, number: int, prompt: int, ids: torch.Tensor) -> list[float]:
    """Return how many positions the targets see that `full` draws, for each backward pass the most of all rows."""
    drawn = []
    for row in ids:
        order = torch.randperm(length - prompt, generator=generator_of(row, 0))[:number]
        drawn.append(sorted((order + prompt).tolist()))
    return [float(max(places)) for places in zip(*drawn, strict=True)]


def cpu_rows(stored: Mapping[str, Any]) -> list[Row]:
    """Return the stored rows of the CPU with the counted work."""
    found = []
    for row in stored["rows"]:
        shape = ModelShape.of(llama_config(SHAPES[row["model"]]))
        phases = cpu_phases(shape, row["work"], row["tokens"], Machine(gpu=False, element=4))
        found.append((row["model"], row["work"], 1, row["tokens"], float(row["seconds_p50"]), phases))
    return found


def cpu_phases(shape: ModelShape, work: str, length: int, machine: Machine) -> tuple[Counts, ...]:
    """Return the counted work of a work of `works_of`."""
    new = length - PROMPT
    if work in ("forward", "plain"):
        once = step_counts.forward(shape, 1, length, machine)
        return (once,) if work == "forward" else (once, step_counts.backward(shape, 1, length, machine))
    if work == "own":
        return step_counts.own(shape, 1, PROMPT, new, machine)
    if work == "last":
        return step_counts.last(shape, 1, length, new, MANY, machine)
    if work == "update":
        return step_counts.update(shape, 1, 1, length - 1, machine, again=False)
    if work == "sample":
        return step_counts.decode(shape, ROWS, length - SAMPLED, SAMPLED, machine, graphs=False)
    ids = torch.tensor([random_ids(length, shape.vocabulary)])
    return step_counts.full(shape, 1, length, new, reaches(length, FEW, PROMPT, ids), machine)


def llama_config(changes: Mapping[str, Any]) -> Any:
    """Return the configuration of a Llama."""
    from transformers import LlamaConfig

    return LlamaConfig(**changes)


def gpu_rows(stored: Mapping[str, Any]) -> list[Row]:
    """Return the stored rows `speed` of a GPU with the counted work. Runs with float64 solvers are left out."""
    machine, found = Machine(gpu=True, element=2), []
    for run in stored["runs"]:
        if "solvers" in run["note"] and "in place of" not in run["note"]:
            continue
        for row in run["rows"]:
            if row.get("case") != "speed" or row["status"] != "ok" or row["operation"] == "oracle":
                continue
            shape, rows, length = REAL[row["model"]], row["batch"], row["tokens"]
            phases = gpu_phases(shape, rows, length, row["operation"], row["measured"], machine)
            found.append((row["model"], row["operation"], rows, length, float(row["seconds_p50"]), phases))
    return found


def gpu_phases(
    shape: ModelShape, rows: int, length: int, operation: str, measured: int, machine: Machine
) -> tuple[Counts, ...]:
    """Return the counted work of an operation of benchmarks/gpu/fast.py."""
    new, each = length - GPU_PROMPT, measured // rows
    if operation.startswith("forward"):
        once = step_counts.forward(shape, rows, length, machine)
        return (once + step_counts.backward(shape, rows, length, machine),) if "+" in operation else (once,)
    if operation == "head":
        return (step_counts.head(shape, measured, machine),)
    if operation.startswith("own"):
        step = GPU_STEP if "steps" in operation else 0
        return step_counts.own(shape, rows, GPU_PROMPT, new, machine, step=step)
    if operation == "last":
        return step_counts.last(shape, rows, length, new, each, machine)
    if operation == "full":
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(3, shape.vocabulary, (rows, length), generator=generator)
        places = reaches(length, each, GPU_PROMPT, ids)
    else:
        places = [GPU_PROMPT + new * (i + 1) / each for i in range(each)]
    return step_counts.full(shape, rows, length, new, places, machine)


def device_of(logs: Sequence[float], rates: Mapping[str, float], *, gpu: bool) -> Device:
    """Return the machine whose rates have these logarithms."""
    values = {"solver": float("inf"), "column": COLUMN}
    values |= dict(zip(rates, map(float, np.exp(logs)), strict=True))
    # A register of a CPU holds half as many float64 numbers. The rows have too few such products to fit their rate.
    values.setdefault("wide", values["products"] / 2)
    return Device("fitted", gpu=gpu, **values)


def fitted(rows: Sequence[Row], *, gpu: bool) -> Device:
    """Return the machine whose rates fit the rows best: least relative errors, where great ones count less."""
    rates = GPU_RATES if gpu else CPU_RATES

    def errors(logs: Sequence[float]) -> list[float]:
        device = device_of(logs, rates, gpu=gpu)
        return [np.log(device.seconds(phases) / seconds) for *_, seconds, phases in rows]

    found = least_squares(errors, np.log(list(rates.values())), loss="soft_l1", f_scale=0.2)
    return device_of(found.x, rates, gpu=gpu)


def predicted(rows: Sequence[Row], *, gpu: bool) -> list[float]:
    """Return the seconds of each row, predicted by a fit to the rows of the other shapes."""
    devices = {
        name: fitted([row for row in rows if row[0] != name], gpu=gpu)
        for name in dict.fromkeys(row[0] for row in rows)
    }
    return [devices[row[0]].seconds(row[-1]) for row in rows]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def errors_table(rows: Sequence[Row], guesses: Sequence[float]) -> list[str]:
    """Return a table of the errors by work and shape: the median of the absolute errors, and all errors of the row."""
    names = list(dict.fromkeys(row[0] for row in rows))
    lines = []
    for work in dict.fromkeys(row[1] for row in rows):
        cells, all_errors = [], []
        for name in names:
            here = [guess / row[4] - 1 for row, guess in zip(rows, guesses, strict=True) if row[:2] == (name, work)]
            all_errors += here
            cells.append(", ".join(f"{100 * error:+.0f}" for error in here) or "–")
        lines.append([f"`{work}`", *cells, f"{100 * np.median(np.abs(all_errors)):.0f} %"])
    return table(["work", *(f"{name}, %" for name in names), "median of the absolute errors"], lines)


def summary(rows: Sequence[Row], guesses: Sequence[float]) -> str:
    """Return one sentence about the errors of all rows."""
    errors = np.abs([guess / row[4] - 1 for row, guess in zip(rows, guesses, strict=True)])
    return (
        f"Over {len(rows)} rows, half of the absolute errors are below {100 * np.median(errors):.0f} %, and nine of "
        f"ten are below {100 * np.quantile(errors, 0.9):.0f} %. The greatest is {100 * errors.max():.0f} %."
    )


def rates_text(device: Device) -> str:
    """Return the rates of a machine as one sentence."""
    parts = [f"{device.products:.2g} operations a second in products"]
    if device.gpu:
        parts.append(f"{device.wide:.2g} in float64 products")
        parts.append(f"{1e6 * device.column:.0f} µs for one column of a QR decomposition (not fitted)")
    else:
        parts.append(f"half of this in float64 products (not fitted); {device.solver:.2g} in float64 solvers")
    parts += [f"{device.bandwidth:.2g} bytes a second", f"{1e6 * device.launch:.0f} µs to start a kernel"]
    return f"The rates that fit all rows best: {'; '.join(parts)}."


def parts(results: Path) -> dict[str, list[str]]:
    """Return the lines of each part of docs/scaling.md that is made from stored rows."""
    from scale_tables import memory, plans, training

    found = {}
    for name, gpu in [("scale-cpu", False), *((name, True) for name in GPUS)]:
        stored = json.loads((results / f"{name}.json").read_text())
        rows = gpu_rows(stored) if gpu else cpu_rows(stored)
        guesses = predicted(rows, gpu=gpu)
        lines = [summary(rows, guesses), "", rates_text(fitted(rows, gpu=gpu)), "", *errors_table(rows, guesses)]
        found[name] = lines
    stored = json.loads((results / "gpu-nvidia-h100-80gb-hbm3.json").read_text())
    return found | {"training": training(stored), "memory": memory(stored), "plans": plans()}


def written(text: str, results: Path) -> str:
    """Return the text of docs/scaling.md with its parts made anew."""
    for name, lines in parts(results).items():
        begin, end = f"<!-- {name}: made by benchmarks/scale.py -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"docs/scaling.md has no place for {name}: {begin}")
        head, _, rest = text.partition(begin)
        text = "\n".join([head + begin, *lines, end]) + rest.partition(end)[2]
    return text


def main() -> None:
    """Time the works if asked, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        write(options.out / "scale-cpu.json", measured_rows(options.rounds))
    page = Path(__file__).parents[1] / "docs" / "scaling.md"
    page.write_text(written(page.read_text(encoding="utf-8"), options.out), encoding="utf-8")


if __name__ == "__main__":
    main()
