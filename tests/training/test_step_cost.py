"""The model of a step's cost: its counts against PyTorch's own, its limits, and its shape against real models."""

import dataclasses
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase.errors import InvalidInputError
from antiphase.training import step_counts
from antiphase.training.device_speed import H100, Device
from antiphase.training.model_shape import Counts, Machine, ModelShape
from antiphase.training.step_cost import StepPlan, measuring_bytes, step_cost

SEVEN = ModelShape(28, 3584, 18944, 28, 4, 128, 152064)
CPU = Machine(gpu=False, element=4)
SMALL = LlamaConfig(
    vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    # Eager attention computes all pairs, also those that the causal mask hides.
    return LlamaForCausalLM._from_config(SMALL, attn_implementation="eager")


def test_parameters_are_those_of_the_model(small) -> None:
    shape = ModelShape.of(SMALL)
    norms = sum(weight.numel() for weight in small.parameters() if weight.ndim == 1)
    assert shape.parameters == sum(weight.numel() for weight in small.parameters()) - norms
    tied = ModelShape.of(LlamaConfig(**{**SMALL.to_dict(), "tie_word_embeddings": True}))
    assert tied.parameters == shape.parameters - 64 * 512


@pytest.mark.parametrize("length", [16, 100])
def test_products_are_those_that_pytorch_counts(small, length) -> None:
    shape = ModelShape.of(SMALL)
    ids = torch.zeros(2, length, dtype=torch.long)
    # The formula counts the pairs that a query sees; eager attention computes all.
    hidden = 2 * (length**2 - length * (length + 1) / 2)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        small.model(ids, use_cache=False)
    mine = step_counts.forward(shape, 2, length, CPU).products
    assert counted.get_total_flops() == mine + 4 * shape.layers * shape.queries * hidden
    with FlopCounterMode(display=False) as counted:
        small.model(ids, use_cache=False).last_hidden_state.sum().backward()
    # Eager attention keeps its weights, so it has four products backward, and not five.
    pairs = 2 * length * (length + 1) / 2
    found = step_counts.forward(shape, 2, length, CPU) + step_counts.backward(shape, 2, length, CPU, weights=True)
    more = (4 + 8) * hidden - 2 * pairs
    assert counted.get_total_flops() == found.products + shape.layers * shape.queries * more
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        small.lm_head(torch.zeros(7, 64))
    assert counted.get_total_flops() == step_counts.head(shape, 7, CPU).products


def test_own_runs_the_prompt_once() -> None:
    group, alone = (step_counts.own(SEVEN, rows, 1000, 100, CPU) for rows in (8, 1))
    assert group[0] == alone[0] == step_counts.forward(SEVEN, 1, 1000, CPU)
    body = 4 * SEVEN.body * 800
    assert body < group[1].products < 1.1 * body


def test_norms_of_full_grow_as_their_matrices() -> None:
    gpu = Machine(gpu=True, element=2)
    *_, norms = step_counts.full(SEVEN, 1, 2048, 1984, [2048.0], gpu)
    # Q and O: 2,048 positions are fewer than the widths. K and V: the keys are narrower.
    large, narrow = 2048, SEVEN.keys
    roots = (
        2 * (90 * large**3 + 2 * large**2 * 3584) + 2 * (90 * narrow**3 + 2 * narrow**2 * 2048) * (600 / narrow) ** 1.4
    )
    factored = 2 * 2048 * 2048 * (2 * 3584 + 2 * narrow)
    assert norms.wide == pytest.approx(28 * (roots + factored))


def test_a_phase_takes_the_slower_of_kernels_and_work() -> None:
    device = Device("test", True, 10.0, 5.0, 2.0, 3.0, 4.0, 0.5)
    parts = (Counts(products=20.0, wide=5.0, solver=2.0, bytes=8.0, calls=4.0), Counts(calls=10.0, columns=2.0))
    assert device.seconds(parts) == (2 + 1 + 1 + 2) + (5 + 6)
    assert dataclasses.replace(device, gpu=False).seconds(parts) == (2 + 2 + 1 + 1 + 2) + (5 + 6)
    assert (parts[0] + parts[1]) * 2 == Counts(40.0, 10.0, 4.0, 4.0, 16.0, 28.0)


def test_what_does_not_fit_is_named() -> None:
    plan = StepPlan(64, 8, 256, 2048)
    assert step_cost(SEVEN, plan, H100, 64).fits
    seventy = ModelShape(80, 8192, 28672, 64, 8, 128, 128256)
    limits = step_cost(seventy, plan, H100, 512).limits
    assert len(limits) == 1
    assert limits[0].startswith("measuring needs ")
    assert step_cost(seventy, dataclasses.replace(plan, estimator="none"), H100, 512).fits
    alone = step_cost(seventy, plan, H100, 1).limits
    assert any(limit.startswith("sampling needs 4 GPUs") for limit in alone)


def test_costs_grow_with_the_work_and_shrink_with_gpus() -> None:
    plan = StepPlan(64, 8, 256, 1024)
    base = step_cost(SEVEN, plan, H100, 16)
    more = step_cost(SEVEN, plan, H100, 32)
    assert base.measuring == pytest.approx(2 * more.measuring)
    assert base.updating > more.updating
    longer = step_cost(SEVEN, dataclasses.replace(plan, completion_tokens=2048), H100, 16)
    assert longer.measuring > 2 * base.measuring
    assert longer.total == longer.generating + longer.measuring + longer.gathering + longer.updating
    by = {
        (estimator, unit): step_cost(SEVEN, dataclasses.replace(plan, estimator=estimator, unit=unit), H100, 16)
        for estimator in ("none", "own", "last", "full")
        for unit in ("token", "step")
    }
    assert by["none", "token"].measuring == by["none", "token"].gathering == 0
    assert by["own", "token"].measuring < by["own", "step"].measuring < by["full", "token"].measuring
    assert by["full", "token"].measuring < by["full", "step"].measuring
    assert measuring_bytes(SEVEN, dataclasses.replace(plan, estimator="none")) == 0


def test_steps_are_measured_where_they_end() -> None:
    plan = StepPlan(1, 1, 100, 100, "full", "step", step_tokens=25)
    assert plan.reaches() == [125.0, 150.0, 175.0, 200.0]
    assert dataclasses.replace(plan, unit="token", measured=2).reaches() == [125.0, 175.0]
    assert math.isclose(StepPlan(3, 4, 5, 6).rollouts, 12)


@pytest.mark.parametrize("changes", [{"estimator": "fast"}, {"unit": "type"}, {"group": 0}])
def test_a_wrong_plan_is_refused(changes) -> None:
    with pytest.raises(InvalidInputError):
        dataclasses.replace(StepPlan(1, 1, 1, 1), **changes)
    with pytest.raises(InvalidInputError, match="gpus must be at least 1"):
        step_cost(SEVEN, StepPlan(1, 1, 1, 1), H100, 0)
