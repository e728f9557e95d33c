"""Estimate the seconds and the memory of a CorR-PO training step on many GPUs, from formulas alone.

`step_counts` counts the work of a step, and a `Device` (in `device_speed`) says how fast a machine does this work.
docs/scaling.md has the assumptions, the comparison with measured times, and tables for models from 1.5B to 70B. A
result is an estimate, not a measurement. To time a step of your own training, use `antiphase train --dry-run`.

>>> from antiphase.training.device_speed import H100
>>> from antiphase.training.model_shape import ModelShape
>>> seven = ModelShape(28, 3584, 18944, 28, 4, 128, 152064)
>>> cost = step_cost(seven, StepPlan(prompts=64, group=8, prompt_tokens=256, completion_tokens=2048), H100, gpus=8)
>>> cost.fits, round(cost.measuring / cost.total, 1)
(True, 0.3)
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from antiphase.errors import InvalidInputError
from antiphase.training import step_counts
from antiphase.training.device_speed import Device
from antiphase.training.model_shape import Machine, ModelShape
from antiphase.training.step_counts import Phases

GIB = float(1 << 30)
# What a measuring pass holds besides activations: a tile of logits and a block of attention weights. For `full`, the
# matrices whose norms are computed together.
_FIXED = {"own": 1.1, "last": 2.0, "full": 1.7}
# The share of the memory that may be used. The rest is lost to fragments and to the communication library.
_USABLE = 0.9


@dataclass(frozen=True)
class StepPlan:
    """The sizes and options of an optimizer step, from which its cost is estimated.

    All completions are assumed to have the same length.

    Args:
        prompts: number of prompts of the step, on all GPUs together.
        group: number of rollouts of each prompt.
        prompt_tokens: number of tokens of a prompt.
        completion_tokens: number of tokens of a completion.
        estimator: `own`, `last`, `full`, or `none`, which measures nothing.
        unit: `token` measures the strength of tokens; `step` measures the joint strength of each sentence.
        measured: number of tokens of each rollout whose strength `last` and `full` measure, if the unit is `token`.
        step_tokens: number of tokens of a sentence.
        token_budget: the greatest number of tokens in one measuring pass.
        micro_tokens: the greatest number of tokens in one pass of the update. A pass has at least one rollout, however
            long.
        checkpointing: whether the update uses gradient checkpointing.
        element: bytes of a weight while measuring: 2 for bfloat16, 4 for float32.
    """

    prompts: int
    group: int
    prompt_tokens: int
    completion_tokens: int
    estimator: str = "own"
    unit: str = "token"
    measured: int = 4
    step_tokens: int = 25
    token_budget: int = 4096
    micro_tokens: int = 8192
    checkpointing: bool = True
    element: int = 2

    def __post_init__(self) -> None:
        if self.estimator not in ("own", "last", "full", "none") or self.unit not in ("token", "step"):
            raise InvalidInputError(
                f"estimator must be own, last, full or none, and unit token or step; got {self.estimator!r} and "
                f"{self.unit!r}."
            )
        if min(self.prompts, self.group, self.prompt_tokens, self.completion_tokens, self.token_budget) < 1:
            raise InvalidInputError("every number of a plan must be at least 1.")

    @property
    def rollouts(self) -> int:
        """The number of rollouts of the optimizer step."""
        return self.prompts * self.group

    @property
    def length(self) -> int:
        """The number of tokens of a prompt and its completion together."""
        return self.prompt_tokens + self.completion_tokens

    def reaches(self) -> list[float]:
        """Return how many positions, the prompt included, each measured token or sentence of a rollout sees.

        The estimator `full` needs these numbers.
        """
        if self.unit == "step":
            number, shift = max(1, self.completion_tokens // self.step_tokens), 1.0
        else:
            number, shift = min(self.measured, self.completion_tokens), 0.5
        return [self.prompt_tokens + self.completion_tokens * (i + shift) / number for i in range(number)]


@dataclass(frozen=True)
class StepCost:
    """The estimated cost of an optimizer step.

    Args:
        generating: seconds of sampling by an inference engine on the same GPUs.
        measuring: seconds of measuring inversion, without `gathering`.
        gathering: seconds in which every GPU receives all weights before it measures.
        updating: seconds of the update. The GPUs exchange weights and gradients while they compute. So the longer of
            the two times is taken, the exchange or the computation. The time of Adam is added.
        engine_gpus: number of GPUs that share a copy of the model while sampling.
        state: bytes of weights, gradients and the state of Adam on each GPU.
        measuring_bytes: bytes in use on each GPU while measuring, with a copy of all weights.
        updating_bytes: bytes in use on each GPU while updating.
        limits: a sentence for each thing that does not fit into the memory.
    """

    generating: float
    measuring: float
    gathering: float
    updating: float
    engine_gpus: int
    state: float
    measuring_bytes: float
    updating_bytes: float
    limits: tuple[str, ...]

    @property
    def total(self) -> float:
        """The seconds of the whole step."""
        return self.generating + self.measuring + self.gathering + self.updating

    @property
    def fits(self) -> bool:
        """Whether everything that a step needs fits into the memory of the GPUs."""
        return not self.limits


def step_cost(shape: ModelShape, plan: StepPlan, device: Device, gpus: int) -> StepCost:
    """Return the estimated time and memory of an optimizer step on several GPUs.

    Weights, gradients and the state of Adam are assumed to be sharded over all GPUs (FSDP 2 or ZeRO-3). While
    antiphase measures, every GPU holds all weights (`training/policy.py`).

    Args:
        shape: the sizes of the model.
        plan: the sizes and options of the step.
        device: the speed and the memory of each GPU.
        gpus: number of GPUs.
    """
    if gpus < 1:
        raise InvalidInputError(f"gpus must be at least 1; got {gpus}.")
    machine, here = Machine(device.gpu, plan.element), math.ceil(plan.rollouts / gpus)
    link = device.links[0] if gpus <= 8 else device.links[1]
    weights = plan.element * shape.parameters
    measuring = sum(device.seconds(phases) for phases in _measuring(shape, plan, here, machine))
    rows = max(1, min(here, plan.micro_tokens // plan.length))
    passes = math.ceil(here / rows)
    update = step_counts.update(
        shape, rows, plan.prompt_tokens, plan.completion_tokens, machine, again=plan.checkpointing
    )
    # Weights are gathered forward and backward, and gradients are summed, in every pass.
    exchange = 0.0 if gpus == 1 else 3 * weights / link
    # Adam reads and writes weights, gradients and both moments.
    adam = 28.0 * shape.parameters / gpus / device.bandwidth
    updating = passes * max(device.seconds(update), exchange) + adam
    engine, generating = _generating(shape, plan, device, gpus, machine)
    state = 16.0 * shape.parameters / gpus
    at_work = measuring_bytes(shape, plan)
    whole = (weights if gpus > 1 else 0.0) + state
    while_measuring = 0.0 if plan.estimator == "none" else whole + at_work
    while_updating = state + updating_bytes(shape, plan, rows)
    found = {"measuring": while_measuring, "updating": while_updating}
    limits = [
        f"{name} needs {needed / 1e9:.0f} GB of the {device.memory / 1e9:.0f} GB of a GPU"
        for name, needed in found.items()
        if needed > _USABLE * device.memory
    ]
    if engine > gpus:
        limits.append(f"sampling needs {engine} GPUs for a copy of the model")
    gathering = weights / link if gpus > 1 and plan.estimator != "none" else 0.0
    return StepCost(
        generating, measuring, gathering, updating, engine, state, while_measuring, while_updating, tuple(limits)
    )


def measuring_bytes(shape: ModelShape, plan: StepPlan) -> float:
    """Return the bytes that a measuring pass needs, without those of the weights.

    The factors of the formula are fitted to memory peaks that were measured on an H100; see docs/scaling.md.
    """
    tokens = min(plan.token_budget, plan.rollouts * plan.length)
    if plan.estimator != "own":
        tokens = max(tokens, plan.length)  # A row is not divided.
    if plan.estimator == "none":
        return 0.0
    widths = shape.queries + 2 * shape.keys
    if plan.estimator == "last":
        layers, kept = 1, 30.0 * shape.hidden
    elif plan.estimator == "own":
        layers, kept = shape.layers, 7.5 * shape.hidden + 2.6 * shape.intermediate + 4.2 * widths
    else:
        layers, kept = shape.layers, 5.5 * shape.hidden + 2.6 * shape.intermediate + 3.0 * widths
    total = plan.element * layers * tokens * kept + _FIXED[plan.estimator] * GIB
    if plan.estimator == "full":
        rank = min(plan.length, shape.hidden) + min(plan.length, shape.queries)
        total += 8.0 * tokens * rank * shape.layers
    if plan.estimator == "own" and plan.length > plan.token_budget:
        # The keys and values of earlier passes.
        total += 2.0 * plan.element * shape.keys * shape.layers * plan.length
    return total


def updating_bytes(shape: ModelShape, plan: StepPlan, rows: int) -> float:
    """Return the bytes that a pass of the update needs, without weights, gradients and the state of Adam.

    They are the bytes of the kept activations, of the logits and their gradient, and of the gathered weights of a
    layer.

    Args:
        shape: the sizes of the model.
        plan: the sizes and options of the step.
        rows: number of rollouts in the pass.
    """
    tokens, widths = rows * plan.length, shape.queries + 2 * shape.keys
    whole = 5.5 * shape.hidden + 2.6 * shape.intermediate + 3.0 * widths
    kept = shape.layers * shape.hidden + whole if plan.checkpointing else shape.layers * whole
    # Logits and their gradient in the dtype of the weights, and one copy in float32.
    logits = rows * plan.completion_tokens * shape.vocabulary * (2 * plan.element + 4.0)
    return plan.element * tokens * kept + logits + 2 * plan.element * shape.layer_weights


def _measuring(shape: ModelShape, plan: StepPlan, rollouts: int, machine: Machine) -> Iterator[Phases]:
    """Yield the work of measuring the rollouts of one GPU, in chunks of rollouts: the phases of each chunk."""
    if plan.estimator == "none":
        return
    most = plan.group if plan.estimator == "own" else max(1, min(rollouts, plan.token_budget // plan.length))

    # Most chunks have equally many rows, and equal work.
    @functools.cache
    def counted(rows: int) -> Phases:
        if plan.estimator == "own":
            joint = plan.step_tokens if plan.unit == "step" else 0
            passes = math.ceil(rows * plan.completion_tokens / plan.token_budget)
            return step_counts.own(
                shape, rows, plan.prompt_tokens, plan.completion_tokens, machine, passes=passes, step=joint
            )
        if plan.estimator == "full":
            return step_counts.full(shape, rows, plan.length, plan.completion_tokens, plan.reaches(), machine)
        # Joint strengths by `last` are rare, and cost less than those by `full` in one layer.
        number = plan.completion_tokens if plan.unit == "step" else min(plan.measured, plan.completion_tokens)
        return step_counts.last(shape, rows, plan.length, plan.completion_tokens, number, machine)

    for start in range(0, rollouts, most):
        yield counted(min(most, rollouts - start))


def _generating(shape: ModelShape, plan: StepPlan, device: Device, gpus: int, machine: Machine) -> tuple[int, float]:
    """Return how many GPUs share a copy of the model while sampling, and the seconds of sampling.

    An inference engine such as vLLM is assumed. At most half of the memory holds weights, and the rest holds keys and
    values. If the keys and values of all rollouts do not fit, the rollouts are sampled in several waves.
    """
    weights = plan.element * shape.parameters
    engine = 1
    while weights / engine > 0.5 * device.memory:
        engine *= 2
    rollouts = math.ceil(plan.rollouts * engine / gpus)
    room = _USABLE * device.memory * engine - weights
    of_one = 2.0 * plan.element * shape.keys * shape.layers * plan.length
    waves = max(1, math.ceil(rollouts * of_one / room))
    rows = math.ceil(rollouts / waves)
    phases = step_counts.decode(shape, rows, plan.prompt_tokens, plan.completion_tokens, machine, graphs=True)
    seconds = device.seconds(tuple(part * (1 / engine) for part in phases))
    # Two sums over the GPUs of a copy in every layer, of about 10 µs each.
    sums = 2 * shape.layers * 1e-5 * plan.completion_tokens if engine > 1 else 0.0
    return engine, waves * max(seconds + sums, device.token_floor * plan.completion_tokens)
