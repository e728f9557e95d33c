"""Fast: time and memory of every estimator on random weights in the shapes of real models, bfloat16 on the device.

Each cell is one model, length T and batch. Within a cell all operations run once as a warm-up and then alternate, so
that a busy machine slows all alike; p20, p50 and p80 are over the rounds. An operation that takes longer than its
limit, or does not fit, is a row that says so. Peak memory counts everything on the device, weights included.

Operations: `forward` (the whole model once, no graph), `forward+backward` (to activations only), `head` (entropy of
every token from hidden states at hand), `own`, `last`, `full:4` (four tokens of each rollout), `joint own` and
`joint full` (eight steps of each rollout), and `oracle:1` (autograd to the weights and svdvals, one token).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from kit import DEVICE, Part, TooSlowError, alarm, free, percentiles, status_of, timed
from shapes import REAL, real_config, real_model
from torch import Tensor, nn

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.models.architecture import backbone
from antiphase.signals.entropy import head_signals

NUM_PROMPT, NUM_STEPS, ROUNDS = 64, 8, 5
OP_LIMIT, CELL_LIMIT, NORMS_LIMIT = 10.0, 10.0, 30.0
DTYPE = torch.bfloat16
# The most valuable first. Model → cells of (T, batch).
CELLS = (
    ("Qwen3-0.6B", ((2048, 1), (512, 8), (8192, 1))),
    ("Qwen2.5-7B", ((2048, 1), (8192, 1))),
    ("Qwen3-4B", ((2048, 1), (512, 8))),
    ("Qwen3-0.6B", ((2048, 8), (32768, 1))),
    ("Qwen3-1.7B", ((2048, 1), (2048, 8), (8192, 1))),
    ("Qwen2.5-7B", ((512, 8), (2048, 8), (32768, 1))),
    ("Qwen3-4B", ((2048, 8), (8192, 1), (32768, 1))),
)
DRY_CELLS = (("Qwen3-0.6B", ((80, 1), (80, 2))), ("Qwen2.5-7B", ((80, 1),)))
STEPS = "steps" in inspect.signature(token_signals).parameters


def batch_of(length: int, rows: int, vocab: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(3, vocab, (rows, length), generator=generator)
    completion = torch.arange(length).expand(rows, -1) >= NUM_PROMPT
    return TokenBatch(ids.to(DEVICE), torch.ones_like(completion).to(DEVICE), completion.to(DEVICE))


def operations(model: nn.Module, batch: TokenBatch, budget: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Name → (work, how many tokens or steps it measures)."""
    ids = batch.input_ids
    num_tokens = int(batch.completion_mask.sum())
    place = batch.completion_mask.long().cumsum(1) - 1
    steps = torch.where(batch.completion_mask, place * NUM_STEPS // (num_tokens // len(batch)), -1)
    hidden = int(model.config.hidden_size)
    states = torch.randn(num_tokens, hidden, device=DEVICE, dtype=DTYPE)

    def forward() -> None:
        with torch.no_grad():
            for rows in ids.split(max(1, budget // ids.shape[1])):
                model(input_ids=rows, use_cache=False, logits_to_keep=1)

    def both() -> None:
        for rows in ids.split(max(1, budget // ids.shape[1])):
            embedded = model.get_input_embeddings()(rows).detach().requires_grad_()
            output = backbone(model)(inputs_embeds=embedded, use_cache=False).last_hidden_state
            torch.autograd.grad(output, embedded, torch.ones_like(output))

    def head() -> None:
        head_signals(model, states, batch.input_ids[batch.completion_mask], SignalSpec(), want_seed=False)

    def signals(estimator: str, targets: int | None = None, layers: str = "all", **more: Any) -> Callable[[], None]:
        spec = SignalSpec(estimator, layers, targets_per_rollout=targets, token_budget=budget, **more)  # type: ignore[arg-type]
        joint = {"steps": steps} if spec.step_strength == "joint" else {}

        def work() -> None:
            token_signals(model, batch, spec, **joint)  # type: ignore[arg-type]

        return work

    found = {
        "forward": (forward, ids.numel()),
        "forward+backward": (both, ids.numel()),
        "own": (signals("own"), num_tokens),
        "last": (signals("last", layers="last"), num_tokens),
        "full:4": (signals("full", 4), 4 * len(batch)),
        "head": (head, num_tokens),
    }
    if STEPS:
        found["joint own"] = (signals("own", step_strength="joint"), NUM_STEPS * len(batch))
        found["joint full"] = (signals("full", 0, step_strength="joint"), NUM_STEPS * len(batch))
    return found


def measure(part: Part, facts: dict[str, Any], works: dict[str, tuple[Callable[[], Any], int]]) -> None:
    """Warm up each operation, then alternate; one row each."""
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float | None] = {}
    warm_up: dict[str, float] = {}
    for name, (work, count) in works.items():
        with part_of_cell(part, facts, name, count) as ran:
            warm_up[name], peaks[name] = timed(work)
        if ran.well:
            seconds[name] = []
    budget = min(CELL_LIMIT, part.left)
    for _ in range(ROUNDS):
        for name in seconds:
            if budget <= 0:
                break
            with part_of_cell(part, facts, name, works[name][1]) as ran:
                taken, peaks[name] = timed(works[name][0])
                seconds[name].append(taken)
                budget -= taken
    for name, values in seconds.items():
        # A long operation may have had its warm-up alone, which is then what there is.
        found = percentiles(values or [warm_up[name]])
        count = works[name][1]
        part.row(
            "speed", status="ok", **facts, operation=name, rounds=len(values), measured=count,
            warm_up_seconds=warm_up[name], **found, peak_gib=peaks[name], per_second=count / found["seconds_p50"],
        )  # fmt: skip


class part_of_cell:  # noqa: N801  (a context manager that reads as a block)
    """Run an operation of a cell; an error or too long a time is its row."""

    def __init__(self, part: Part, facts: dict[str, Any], name: str, count: int) -> None:
        self.part, self.row, self.well = part, {**facts, "operation": name, "measured": count}, True
        self.limit = max(1.0, min(OP_LIMIT, part.left))
        self.alarm = alarm(self.limit)

    def __enter__(self) -> "part_of_cell":
        self.alarm.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.alarm.__exit__(None, None, None)
        if error is None:
            return True
        if not isinstance(error, Exception):
            return False
        self.well = False
        status = "too slow" if isinstance(error, TooSlowError) else status_of(error)
        self.part.row(
            "speed", status=status, limit=self.limit, error=f"{type(error).__name__}: {error}"[:500], **self.row
        )
        error.__traceback__ = None
        free()
        return True


def norms(part: Part) -> None:
    """Nuclear norms of float32 matrices with a decaying spectrum: which way is fast enough on this device."""

    def eigvalsh(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda m: torch.linalg.eigvalsh(m.to(dtype) @ m.to(dtype).mT).clamp_min(0).sqrt().sum(-1)

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "eigvalsh64": eigvalsh(torch.float64),
        "eigvalsh32": eigvalsh(torch.float32),
        "svdvals32": lambda m: torch.linalg.svdvals(m).sum(-1),
        "svdvals64": lambda m: torch.linalg.svdvals(m.double()).sum(-1),
        "polar64": lambda m: polar_norm(m.double(), 24),
        "polar32": lambda m: polar_norm(m, 16),
        "qr64 (the factor alone, no norm)": lambda m: (
            torch.linalg.qr(m.double().mT, mode="r").R.diagonal(dim1=-2, dim2=-1).abs().sum(-1)
        ),
    }
    if DEVICE.type == "cuda":
        ways["eigvalsh64 on the CPU"] = lambda m: eigvalsh(torch.float64)(m.cpu())
    sizes = ((16, 32, 1),) if part.dry else ((128, 512, 32), (512, 1024, 8), (1024, 2048, 4), (2048, 2048, 1))
    stop = part.left - NORMS_LIMIT
    for rows, columns, batch in sizes:
        generator = torch.Generator(DEVICE).manual_seed(0)
        matrix = torch.randn(batch, rows, columns, generator=generator, device=DEVICE)
        matrix = matrix * torch.arange(1, rows + 1, device=DEVICE)[:, None] ** -1.0
        # By a library of its own, so that the device is not compared with itself.
        truth = torch.linalg.svdvals(matrix[:1].cpu().double()).sum(-1)
        for name, way in ways.items():
            if part.left < stop:
                part.row("norm", status="skipped: no time", way=name, rows=rows, columns=columns, batch=batch)
                continue
            with part.cell("norm", 4, way=name, rows=rows, columns=columns, batch=batch) as row:
                row["warm_up_seconds"] = timed(lambda: way(matrix))[0]  # noqa: B023
                row["error"] = float((way(matrix[:1]).cpu().double() / truth - 1).abs().max())
                row |= percentiles([timed(lambda: way(matrix))[0] / batch for _ in range(3)])  # noqa: B023


def polar_norm(matrix: Tensor, num_steps: int) -> Tensor:
    """‖M‖_* = ⟨M, polar factor of M⟩ by Newton–Schulz, matrix products alone."""
    x = matrix / torch.linalg.matrix_norm(matrix)[..., None, None]
    for _ in range(num_steps):
        gram = x @ x.mT
        # Quintic with slope 15/8·… at 0 as Björck and Bowie's; converges for all singular values in (0, 1].
        x = 1.875 * x + (-1.25 * gram + 0.375 * gram @ gram) @ x
    return (matrix * x).sum((-2, -1))


def oracle(part: Part, model: nn.Module, name: str, vocab: int) -> None:
    """The definition on one token of one rollout: autograd to the weights, and svdvals."""
    batch = batch_of(NUM_PROMPT + 16 if part.dry else 512, 1, vocab)
    for layers in ("all", "last-2"):
        facts = {"model": name, "operation": "oracle:1", "tokens": batch.input_ids.shape[1], "layers": layers}
        spec = SignalSpec("oracle", layers, targets_per_rollout=1)
        with part.cell("speed", min(20.0, max(part.left, 1)), batch=1, measured=1, **facts) as row:
            seconds, row["peak_gib"] = timed(lambda: token_signals(model, batch, spec))  # noqa: B023
            row |= {"rounds": 1, **percentiles([seconds]), "per_second": 1 / seconds}
            break


def budgets(part: Part, model: nn.Module, name: str, vocab: int) -> None:
    """How much `own` gains from larger passes: what the default of token_budget should be on such a device."""
    batch = batch_of(NUM_PROMPT + 16 if part.dry else 512, 2 if part.dry else 32, vocab)
    works = {}
    for budget in (2048, 8192, 16384):
        spec = SignalSpec("own", token_budget=budget)
        works[f"own, budget {budget}"] = (
            lambda spec=spec: token_signals(model, batch, spec),
            int(batch.completion_mask.sum()),
        )
    measure(part, {"model": name, "tokens": batch.input_ids.shape[1], "batch": len(batch)}, works)


def main() -> None:
    part = Part.from_command_line("fast")
    norms(part)
    for place, (name, cells) in enumerate(DRY_CELLS if part.dry else CELLS):
        model = None
        if part.left < 5:
            part.row("model", status="skipped: no time", model=name)
            continue
        with part.cell("model", 60, model=name) as row:
            free()
            model = real_model(name, DEVICE, DTYPE, dry=part.dry)
            row |= {"parameters": sum(p.numel() for p in model.parameters()), "published": name in REAL}
        if model is None:
            continue
        model.requires_grad_(False)
        vocab = int(real_config(name, dry=part.dry).vocab_size)
        for number, (length, rows) in enumerate(cells):
            facts = {"model": name, "tokens": length, "batch": rows}
            if part.left < 5:
                part.row("speed", status="skipped: no time", **facts)
                continue
            budget = max(length, min(length * rows, 16384 if "0.6B" in name or "1.7B" in name else 4096))
            with part.cell("works", None, **facts, budget=budget):
                free()
                measure(part, {**facts, "budget": budget}, operations(model, batch_of(length, rows, vocab), budget))
            if place == 0 and number == 1:
                oracle(part, model, name, vocab)
                budgets(part, model, name, vocab)
        del model
        free()


if __name__ == "__main__":
    main()
