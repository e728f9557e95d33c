"""Fast: time and memory of every estimator on random weights in the shapes of real models, bfloat16 on the device.

Each cell is one model, length T and batch. Within a cell all operations run once as a warm-up and then alternate, so
that a busy machine slows all alike; p20, p50 and p80 are over the rounds. An operation that takes longer than its
limit, or does not fit, is a row that says so. Peak memory counts everything on the device, weights included.

Operations: `forward` (the whole model once, no graph), `forward+backward` (to activations only), `head` (entropy of
every token from hidden states at hand), `own` (every token), `last` (128 tokens of each rollout), `full` (four tokens,
or one of each rollout), `own, steps` (joint, steps of 32 tokens), `full, steps` (joint, four steps, or one of each
rollout), and `oracle` (autograd to the weights and svdvals, one token). Every row says how many tokens or steps it
measured.

`norm` rows compare ways to a nuclear norm, and to the factor that projections share.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from kit import DEVICE, Part, TooSlowError, alarm, free, percentiles, status_of, timed
from shapes import REAL, real_config, real_model
from torch import Tensor, nn

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.models.architecture import backbone
from antiphase.signals.entropy import head_signals
from antiphase.signals.gram_root import trace_of_root
from antiphase.signals.norms import _cholesky_factor

NUM_PROMPT, STEP_TOKENS, FEW, ROUNDS = 64, 32, 4, 5
OP_LIMIT, CELL_LIMIT, NORMS_LIMIT = 10.0, 8.0, 15.0
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
    each, few = num_tokens // len(batch), max(1, FEW // len(batch))
    steps = torch.where(batch.completion_mask, place // STEP_TOKENS, -1)
    long_steps = torch.where(batch.completion_mask, place * few // each, -1)
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

    def signals(spec: SignalSpec, steps: Tensor | None = None) -> Callable[[], None]:
        def work() -> None:
            token_signals(model, batch, spec, steps=steps)

        return work

    own = SignalSpec("own", token_budget=budget)
    last = SignalSpec("last", "last", targets_per_rollout=min(128, each), token_budget=budget)
    full = SignalSpec("full", targets_per_rollout=few, token_budget=budget)
    no_tokens = replace(full, targets_per_rollout=0, step_strength="joint")
    found = {
        "forward": (forward, ids.numel()),
        "forward+backward": (both, ids.numel()),
        "own": (signals(own), num_tokens),
        "last": (signals(last), min(128, each) * len(batch)),
        "full": (signals(full), few * len(batch)),
        "head": (head, num_tokens),
        "own, steps": (signals(replace(own, step_strength="joint"), steps), (int(steps.max()) + 1) * len(batch)),
        "full, steps": (signals(no_tokens, long_steps), few * len(batch)),
    }
    return found


def measure(part: Part, facts: dict[str, Any], works: dict[str, tuple[Callable[[], Any], int]]) -> None:
    """Warm up each operation, then alternate; one row each."""
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float | None] = {}
    warm_up: dict[str, float] = {}
    for name, (work, count) in works.items():
        if part.left <= 1:
            part.row("speed", status="skipped: no time", **facts, operation=name, measured=count)
            continue
        with part_of_cell(part, facts, name, count) as ran:
            warm_up[name], peaks[name] = timed(work)
        if ran.well:
            seconds[name] = []
    budget = min(CELL_LIMIT, part.left)
    for _ in range(ROUNDS):
        for name, values in seconds.items():
            # A round must not be cut: its operation was well in the warm-up, and would be said to be too slow.
            if budget <= 0 or part.left < 2 * warm_up[name] + 1:
                continue
            with part_of_cell(part, facts, name, works[name][1]) as ran:
                taken, peaks[name] = timed(works[name][0])
                values.append(taken)
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
    """Nuclear norms of matrices with singular values 1/k, and factors of the same: which way is fast here."""

    def products(matrix: Tensor) -> Tensor:
        return trace_of_root(matrix @ matrix.mT)

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "eigenvalues": lambda m: torch.linalg.eigvalsh(m @ m.mT).clamp_min(0).sqrt().sum(-1),
        "products": products,
        "QR, then products": lambda m: products(torch.linalg.qr(m.mT, mode="r").R),
        "Cholesky, then products": lambda m: products(_cholesky_factor(m).mT),
        "singular values, float32": lambda m: torch.linalg.svdvals(m.float()).sum(-1),
    }
    sizes = ((32, 1024, 256), (256, 1024, 8), (1024, 1024, 1), (1024, 2048, 8), (2048, 3584, 1), (3584, 3584, 1))
    stop = part.left - NORMS_LIMIT
    for rows, columns, batch in ((16, 32, 1),) if part.dry else sizes:
        matrix, truth = known(rows, columns)
        matrix = matrix.repeat(batch, 1, 1)
        for name, way in ways.items():
            if part.left < stop:
                part.row("norm", status="skipped: no time", way=name, rows=rows, columns=columns, batch=batch)
                continue
            with part.cell("norm", 4, way=name, rows=rows, columns=columns, batch=batch) as row:
                row["warm_up_seconds"] = timed(lambda: way(matrix))[0]  # noqa: B023
                row["error"] = abs(float(way(matrix[:1])) / truth - 1)
                row.update(percentiles([timed(lambda: way(matrix))[0] / batch for _ in range(3)]))  # noqa: B023


def known(rows: int, columns: int) -> tuple[Tensor, float]:
    """A float64 matrix with the singular values 1, 1/2, 1/3, …, and their sum."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    bases = [
        torch.linalg.qr(torch.randn(n, rows, generator=generator, device=DEVICE, dtype=torch.float64)).Q
        for n in (rows, columns)
    ]
    values = torch.arange(1, rows + 1, device=DEVICE, dtype=torch.float64) ** -1.0
    return (bases[0] * values) @ bases[1].mT, float(values.sum())


def oracle(part: Part, model: nn.Module, name: str, vocab: int) -> None:
    """The definition on one token of one rollout: autograd to the weights, and svdvals."""
    batch = batch_of(NUM_PROMPT + 16 if part.dry else 512, 1, vocab)
    spec = SignalSpec("oracle", targets_per_rollout=1)
    facts = {"model": name, "operation": "oracle", "tokens": batch.input_ids.shape[1], "batch": 1, "measured": 1}
    with part.cell("speed", min(20.0, max(part.left, 1)), **facts) as row:
        seconds, row["peak_gib"] = timed(lambda: token_signals(model, batch, spec))
        row.update(rounds=1, per_second=1 / seconds, **percentiles([seconds]))


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
        del model
        free()


if __name__ == "__main__":
    main()
