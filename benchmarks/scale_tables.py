"""The tables of docs/scaling.md about trainings, memory and plans (see `scale`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from antiphase.training import step_counts
from antiphase.training.device_speed import H100
from antiphase.training.model_shape import Machine, ModelShape
from antiphase.training.step_cost import GIB, StepCost, StepPlan, measuring_bytes, step_cost
from scale import GPU_PROMPT, REAL, table

# Name → shape. The shapes are those of Qwen2.5-1.5B, 7B and 32B, and of Llama-3.1-70B.
PLANNED = {
    "1.5B": ModelShape(28, 1536, 8960, 12, 2, 128, 151936, tied=True),
    "7B": REAL["Qwen2.5-7B"],
    "32B": ModelShape(64, 5120, 27648, 40, 8, 128, 152064),
    "70B": ModelShape(80, 8192, 28672, 64, 8, 128, 128256),
}
GPUS = (8, 32, 128, 512)
# A step: prompts, group, tokens of a prompt and of a completion.
STEP = (128, 8, 256, 2048)
_MACHINE = Machine(gpu=True, element=2)


def training(stored: Mapping[str, Any]) -> list[str]:
    """Return the table of the stored GRPO steps beside the model: 8 completions of 512 tokens, without generation."""
    shape, rows = REAL["Qwen3-0.6B"], []
    for run in stored["runs"]:
        for row in run["rows"]:
            if row.get("case") != "step" or row["status"] != "ok" or row["name"] not in _STEPS:
                continue
            measured = float(np.median(row["measuring_seconds"]))
            rest = float(np.median(np.subtract(row["step_seconds"], row["measuring_seconds"])))
            plan = StepPlan(1, row["group"], GPU_PROMPT, row["new_tokens"], **_STEPS[row["name"]])
            guess = step_cost(shape, plan, H100, 1)
            updating = H100.seconds(step_counts.update(shape, 8, GPU_PROMPT, row["new_tokens"], _MACHINE, again=False))
            generating = 0.0
            if row["generates"]:
                phases = step_counts.decode(shape, 8, GPU_PROMPT, row["new_tokens"], _MACHINE, graphs=False)
                generating = H100.seconds(phases)
            adam = 28.0 * shape.parameters / H100.bandwidth
            rows.append(
                [
                    row["name"],
                    *(
                        _pair(one, two)
                        for one, two in ((measured, guess.measuring), (rest, generating + updating + adam))
                    ),
                ]
            )
    return table(["step", "measuring: measured, by the cost model", "the rest: measured, by the cost model"], rows)


_STEPS: dict[str, dict[str, Any]] = {
    "own": {},
    "host alone": {"estimator": "none"},
    "own, joint steps": {"unit": "step"},
    "full, joint steps": {"estimator": "full", "unit": "step"},
    "full, 4 tokens": {"estimator": "full"},
    "own, generating": {},
}


def _pair(measured: float, guess: float) -> str:
    if not measured:
        return "–"
    return f"{measured:.2f} s, {guess:.2f} s ({100 * (guess / measured - 1):+.0f} %)"


_ESTIMATORS = ("own", "last", "full")


def memory(stored: Mapping[str, Any]) -> list[str]:
    """Return the table of the stored peaks beside the model's: a line for each batch, a column for each estimator."""
    cells: dict[str, dict[str, str]] = {}
    for run in stored["runs"]:
        for row in run["rows"]:
            if row.get("case") != "speed" or row["status"] != "ok" or row["operation"] not in _ESTIMATORS:
                continue
            shape, length = REAL[row["model"]], row["tokens"]
            plan = StepPlan(
                1, row["batch"], GPU_PROMPT, length - GPU_PROMPT, row["operation"], token_budget=row["budget"]
            )
            guess = (2 * shape.parameters + measuring_bytes(shape, plan)) / GIB
            error = f"{100 * (guess / row['peak_gib'] - 1):+.0f} %"
            here = cells.setdefault(f"{row['model']}, {row['batch']} × {length:,}", {})
            here[row["operation"]] = f"{row['peak_gib']:.1f}, {guess:.1f} ({error})"
    rows = [[name, *(here.get(estimator, "–") for estimator in _ESTIMATORS)] for name, here in cells.items()]
    return table(["model, rollouts × tokens", *(f"`{estimator}`, GiB" for estimator in _ESTIMATORS)], rows)


def plans() -> list[str]:
    """Return the tables of estimates: models by GPUs, then by estimator, by length and by group."""
    return [*_by_model(), "", *_by_estimator(), "", *_by_length(), "", *_by_group()]


def _by_model() -> list[str]:
    rows = []
    for name, shape in PLANNED.items():
        for gpus in GPUS:
            plain = step_cost(shape, StepPlan(*STEP, "none"), H100, gpus)
            found = step_cost(shape, StepPlan(*STEP), H100, gpus)
            full = step_cost(shape, StepPlan(*STEP, "full", "step"), H100, gpus)
            parts = [f"{value:.1f}" for value in (found.generating, found.updating, found.measuring + found.gathering)]
            share = f"{100 * (found.measuring + found.gathering) / found.total:.0f} %"
            rows.append(
                [
                    name,
                    str(gpus),
                    *parts,
                    share,
                    f"{full.total / plain.total:.0f}×",
                    f"{plain.updating_bytes / 1e9:.0f}",
                    f"{found.measuring_bytes / 1e9:.0f}",
                    _fits(found),
                ]
            )
    header = [
        "model", "GPUs", "sampling, s", "update, s", "`own`, s", "share of `own` in the step",
        "step with `full` by sentence ÷ step of GRPO", "update, GB", "`own`, GB", "fits in 80 GB",
    ]  # fmt: skip
    prompts, group, prompt, completion = STEP
    title = (
        f"**Models and GPUs.** All tables here are estimates, not measurements. A step has {prompts} prompts × "
        f"{group} rollouts. The prompts have {prompt} tokens and the completions {completion:,}. Gradient "
        "checkpointing is on. A column in GB has the peak memory of one GPU. The last "
        "column says which part of a step does not fit."
    )
    return [title, "", *table(header, rows)]


def _fits(cost: StepCost) -> str:
    return "yes" if cost.fits else "no: " + " and ".join(sorted({limit.split()[0] for limit in cost.limits}))


def _by_estimator() -> list[str]:
    rows = []
    for estimator, unit, what in (
        ("own", "token", "all tokens"),
        ("own", "step", "all tokens, and sentences of 25 tokens jointly"),
        ("last", "token", "4 tokens of each rollout"),
        ("full", "token", "4 tokens of each rollout"),
        ("full", "step", "sentences of 25 tokens jointly"),
    ):
        cells = []
        for name in ("1.5B", "7B"):
            cost = step_cost(PLANNED[name], StepPlan(*STEP, estimator, unit), H100, 64)
            cells += [f"{cost.measuring:.1f}", f"{100 * cost.measuring / cost.total:.0f} %"]
        rows.append([f"`{estimator}`", what, *cells])
    header = ["estimator", "measures", "1.5B, s", "share of the step", "7B, s", "share of the step"]
    title = "**Estimators and units.** The time to measure on 64 GPUs, in the same step as above."
    return [title, "", *table(header, rows)]


def _by_length() -> list[str]:
    rows = []
    for tokens in (512, 2048, 8192, 32768):
        cost = step_cost(PLANNED["7B"], StepPlan(*STEP[:3], tokens), H100, 64)
        cells = [f"{value:.1f}" for value in (cost.generating, cost.updating, cost.measuring)]
        share = f"{100 * cost.measuring / cost.total:.0f} %"
        rows.append([f"{tokens:,}", *cells, share, f"{cost.measuring_bytes / 1e9:.0f}", _fits(cost)])
    header = [
        "tokens of a completion", "sampling, s", "update, s", "`own`, s", "share of `own` in the step", "`own`, GB",
        "fits in 80 GB",
    ]  # fmt: skip
    return ["**Length.** 7B on 64 GPUs. `own` measures all tokens, and no sentences.", "", *table(header, rows)]


def _by_group() -> list[str]:
    rows = []
    for group in (4, 8, 16, 64):
        cells = []
        for prompt in (256, 4096):
            cost = step_cost(PLANNED["7B"], StepPlan(1024 // group, group, prompt, 512), H100, 16)
            cells += [f"{cost.measuring:.2f}", f"{cost.updating:.1f}"]
        rows.append([f"{group}", *cells])
    header = [
        "rollouts in a group",
        *(f"{what}, prompts of {n:,} tokens" for n in (256, 4096) for what in ("`own`, s", "update, s")),
    ]
    return [
        "**Group.** 7B on 16 GPUs. A step has 1,024 rollouts of 512 tokens, in groups of 4 to 64. `own` runs the "
        "prompt once for a group, and the update runs the prompt for every rollout.",
        "",
        *table(header, rows),
    ]
