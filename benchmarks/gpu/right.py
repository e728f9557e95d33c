"""Right: every estimator on the device against the float64 oracle on the CPU, and nothing left behind.

Tiny random models of six architectures, float32 and bfloat16, sdpa and eager (flash where installed), padded left and
right. The oracle runs on the CPU in true float64 on the very weights that the device has (rounded to bfloat16 first
where the device's are). An error is ‖s − s*‖ / ‖s*‖ over the measured tokens, layers and projections.

A row passes within 1e-4 in float32. In bfloat16 rounding decides, so the measure is what the same estimator does in
bfloat16 on the CPU: a row passes within three times its error, or within 0.02.
"""

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from kit import DEVICE, Part
from shapes import ARCHITECTURES, EAGER_ONLY, byte_tokenizer, tiny_model
from torch import Tensor, nn

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.scores import ScoreSpec, rollout_scores
from antiphase.signals import frozen_attention

FLOAT32_LIMIT = 1e-4
BFLOAT16_LIMIT, BFLOAT16_TIMES = 0.02, 3.0
ORACLES = {"own": "oracle-own", "last": "oracle", "full": "oracle"}
PROMPTS = [[5, 6, 7, 8, 9], [8, 9], [11, 12, 13, 14, 15, 16, 17]]
SAMPLING = Sampling(max_new_tokens=24)
COMPLETIONS = [[10, 11, 12, 40, 41, 42, 99, 7, 13], [13, 14, 60, 61, 7, 8, 44], [31, 200, 5, 7, 100, 101]]
NARROW = (torch.float32, torch.bfloat16, torch.float16)


@contextlib.contextmanager
def pure_double() -> Iterator[None]:
    """Hugging Face's RMSNorm, RoPE and eager softmax drop float64 to float32; keep float64 throughout."""
    to, to_float, softmax = Tensor.to, Tensor.float, F.softmax

    def keep_to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        narrows = torch.float32 in args or kwargs.get("dtype") is torch.float32
        return self if self.dtype == torch.float64 and narrows else to(self, *args, **kwargs)

    def keep_softmax(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype == torch.float64:
            kwargs.pop("dtype", None)
        return softmax(x, *args, **kwargs)

    Tensor.to, F.softmax = keep_to, keep_softmax  # type: ignore[method-assign,assignment]
    # Positions are integers before RoPE makes them float.
    Tensor.float = lambda self: to_float(self) if self.dtype in NARROW else self.double()  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.to, Tensor.float, F.softmax = to, to_float, softmax  # type: ignore[method-assign]


def batch_of(side: str, device: torch.device | str) -> TokenBatch:
    return TokenBatch.from_ids(PROMPTS, COMPLETIONS, padding_side=side, device=device)


def steps_of(batch: TokenBatch) -> Tensor:
    """Steps of three tokens."""
    place = batch.completion_mask.long().cumsum(1) - 1
    return torch.where(batch.completion_mask, place // 3, -1)


def spec_of(estimator: str, joint: bool) -> SignalSpec:
    layers = "last" if estimator == "last" else "all"
    extra: dict[str, Any] = {"step_strength": "joint", "targets_per_rollout": 0} if joint else {}
    return SignalSpec(estimator=estimator, layers=layers, num_alternatives=3, **extra)  # type: ignore[arg-type]


def measured(model: nn.Module, batch: TokenBatch, spec: SignalSpec, joint: bool) -> dict[str, Tensor]:
    """What is compared: per rollout, so that neither the padding's side nor the device plays a part."""
    if joint:
        found = token_signals(model, batch, spec, steps=steps_of(batch))  # type: ignore[call-arg]
        assert found.steps is not None
        strength, entropy = found.steps.strength_by_projection, found.entropy
        keep = found.steps.num_tokens > 0
    else:
        found = token_signals(model, batch, spec)
        strength, entropy, keep = found.strength_by_projection, found.entropy, found.measured
    for tensor in (strength, entropy, found.logprob):
        assert tensor.device == batch.input_ids.device, f"a signal is on {tensor.device}"
    return {
        "strength": strength[keep].double().cpu(),
        "entropy": entropy[batch.completion_mask].double().cpu(),
        "logprob": found.logprob[batch.completion_mask].double().cpu(),
    }


def error_of(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of the model and of the random generators that a measurement could have changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "versions": {name: p._version for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "training": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: [len(getattr(m, kind)) for kind in hooks] for name, m in model.named_modules()},
        "forwards": {name: "forward" in vars(m) for name, m in model.named_modules()},
        "attention": {"": model.config._attn_implementation},
        "rng": {"cpu": torch.get_rng_state(), "device": torch.cuda.get_rng_state() if DEVICE.type == "cuda" else None},
        "state": {"grad": torch.is_grad_enabled(), "trace": frozen_attention._TRACE.get() is not None},
    }


def traces(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    left = []
    for kind, items in before.items():
        for name, item in items.items():
            other = after[kind].get(name)
            same = torch.equal(item, other) if isinstance(item, Tensor) else item == other
            left += [] if same and items.keys() == after[kind].keys() else [f"{kind} {name}"]
    return left


def truths(model: nn.Module, dtype: torch.dtype) -> dict[tuple[str, bool], dict[str, Tensor]]:
    """The oracle's numbers, float64 on the CPU, on the weights as the device has them."""
    exact = copy.deepcopy(model).to(dtype).double()
    exact.config = copy.deepcopy(model.config)
    exact.set_attn_implementation("eager")
    found = {}
    with pure_double():
        for joint in (False, True):
            for oracle in ("oracle", "oracle-own"):
                found[oracle, joint] = measured(exact, batch_of("right", "cpu"), spec_of(oracle, joint), joint)
    return found


def compare(part: Part, architecture: str, model: nn.Module, dtype: torch.dtype, attentions: list[str]) -> None:
    """All estimators of one model in one dtype."""
    truth = truths(model, dtype)
    on_cpu = copy.deepcopy(model).to(dtype)
    on_device = copy.deepcopy(model).to(DEVICE, dtype)
    kinds = [*itertools.product(ORACLES, [False]), *itertools.product(("own", "full"), [True])]
    for estimator, joint in kinds:
        oracle = ORACLES[estimator]
        spec = spec_of(estimator, joint)
        name = f"{estimator}{' joint' if joint else ''}"
        reference = None
        for attention, side in itertools.product(attentions, ("left", "right")):
            facts = {"architecture": architecture, "dtype": str(dtype).removeprefix("torch.")}
            facts |= {"attention": attention, "padding": side, "estimator": name}
            if part.left <= 0:
                part.row("estimator", status="skipped: no time", **facts)
                continue
            with part.cell("estimator", 30, **facts) as row:
                if reference is None:
                    reference = measured(on_cpu, batch_of(side, "cpu"), spec, joint)
                on_device.set_attn_implementation(attention)
                # Rows of the caller may lie on the device or on the CPU.
                batch = batch_of(side, DEVICE if side == "left" else "cpu")
                before = snapshot(on_device)
                found = measured(on_device, batch, spec, joint)
                row["traces"] = traces(before, snapshot(on_device))
                judge(row, found, truth[oracle, joint], reference, dtype, last=estimator == "last")


def judge(row: dict[str, Any], found: Any, truth: Any, reference: Any, dtype: torch.dtype, *, last: bool) -> None:
    """Errors, the limit, and whether the row passes."""
    for name, values in found.items():
        exact = truth[name][:, -1:] if last and name == "strength" else truth[name]
        row[f"{name}_error"] = error_of(values, exact)
        row[f"{name}_error_cpu"] = error_of(reference[name], exact)
        limit = FLOAT32_LIMIT
        if dtype == torch.bfloat16:
            limit = max(BFLOAT16_LIMIT, BFLOAT16_TIMES * row[f"{name}_error_cpu"])
        row[f"{name}_limit"] = limit
        if not row[f"{name}_error"] <= limit:
            row["status"] = "wrong"
    if row["traces"]:
        row["status"] = "left a trace"


def states(part: Part) -> None:
    """A model in other states than fresh: under autocast, in training with checkpointing, with LoRA, and repeated."""
    base = tiny_model("llama")
    truth = truths(base, torch.float32)

    def check(case: str, change: Any, limit: float = FLOAT32_LIMIT, context: Any = contextlib.nullcontext) -> None:
        for estimator in ORACLES:
            with part.cell("state", 30, state=case, estimator=estimator) as row:
                model = change(copy.deepcopy(base).to(DEVICE))
                before = snapshot(model)
                with context():
                    found = measured(model, batch_of("left", DEVICE), spec_of(estimator, False), False)
                    again = measured(model, batch_of("left", DEVICE), spec_of(estimator, False), False)
                row["traces"] = traces(before, snapshot(model))
                exact = truth[ORACLES[estimator], False]["strength"]
                row["strength_error"] = error_of(found["strength"], exact[:, -1:] if estimator == "last" else exact)
                row["strength_limit"] = limit
                row["repeats"] = all(torch.equal(found[key], again[key]) for key in found)
                if row["traces"] or not row["strength_error"] <= limit:
                    row["status"] = "left a trace" if row["traces"] else "wrong"

    def training(model: nn.Module) -> nn.Module:
        model.train()
        model.gradient_checkpointing_enable()
        return model

    def lora(model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))

    @contextlib.contextmanager
    def deterministic() -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    check("fresh", lambda model: model)
    check("deterministic algorithms", lambda model: model, context=deterministic)
    check("training with gradient checkpointing", training)
    check("LoRA", lora)
    check("inference mode", lambda model: model, context=torch.inference_mode)
    check("no grad", lambda model: model, context=torch.no_grad)
    # A model in float32 under bfloat16 autocast is a bfloat16 model with float32 sums.
    check("autocast", lambda model: model, 0.2, lambda: torch.autocast(DEVICE.type, torch.bfloat16))


def scores(part: Part) -> None:
    """Correlation and reward from signals on the device are those from the same signals on the CPU."""
    with part.cell("scores") as row:
        model = tiny_model("llama").to(DEVICE)
        batch = batch_of("left", DEVICE)
        signals = token_signals(model, batch)
        moved = {
            field.name: getattr(signals, field.name).cpu()
            for field in dataclasses.fields(signals)
            if isinstance(getattr(signals, field.name), Tensor)
        }
        there = rollout_scores(signals, batch, ScoreSpec(min_tokens=4))
        here = rollout_scores(dataclasses.replace(signals, **moved), batch_of("left", "cpu"), ScoreSpec(min_tokens=4))
        row["scores"] = there.inversion.tolist()
        if not torch.equal(there.inversion.cpu(), here.inversion):
            row["status"] = "wrong"
        from antiphase import correlate

        row["correlation"] = [str(one) for one in correlate(signals, min_tokens=4)]


def generation(part: Part) -> None:
    """Two generations with one seed are equal, and the caller's generators are untouched."""
    for dtype in (torch.float32, torch.bfloat16):
        with part.cell("generation", 30, dtype=str(dtype).removeprefix("torch.")) as row:
            model = tiny_model("qwen3").to(DEVICE, dtype)
            loaded = LoadedModel("tiny", model, byte_tokenizer(300), None)
            before = snapshot(model)
            first, second = (generate(loaded, PROMPTS, SAMPLING, rollout_seeds(3, PROMPTS)) for _ in range(2))
            other = generate(loaded, PROMPTS, SAMPLING, rollout_seeds(4, PROMPTS))
            row["traces"] = traces(before, snapshot(model))
            row |= {"equal": first == second, "seed_matters": first != other}
            if row["traces"] or first != second or first == other:
                row["status"] = "wrong"


def main() -> None:
    part = Part.from_command_line("right")
    from wide import wide

    wide(part)
    generation(part)
    scores(part)
    with part.cell("states"):
        states(part)
    from transformers.utils import is_flash_attn_2_available

    flash = DEVICE.type == "cuda" and is_flash_attn_2_available()
    names = list(ARCHITECTURES)[:1] if part.dry else list(ARCHITECTURES)
    for architecture, dtype in itertools.product(names, (torch.float32, torch.bfloat16)):
        attentions = ["eager"] if architecture in EAGER_ONLY else ["sdpa", "eager"]
        if flash and dtype == torch.bfloat16 and architecture not in EAGER_ONLY:
            attentions.append("flash_attention_2")
        if part.left <= 0:
            part.row("estimator", status="skipped: no time", architecture=architecture, dtype=str(dtype))
            continue
        with part.cell("model", None, architecture=architecture, dtype=str(dtype).removeprefix("torch.")):
            compare(part, architecture, tiny_model(architecture, attentions[0]), dtype, attentions)


if __name__ == "__main__":
    main()
