"""Time of `full` beside the oracle, and what sharing one backward pass between targets saves.

The model is a Llama of the shape of SmolLM2-135M with random weights, in float32, on one thread. Cases:

* `oracle`: time for a token (a target) of the oracle, `full`, `own` and `last`, on one rollout of 152 tokens of which
  96 are measured, head included. The oracle is timed on two tokens, since each costs the same. `last` is compared with
  the oracle on the last layer too. `speedup` is the oracle's time divided by the time of the work, within a round.
* `sample`: the same for 8 random tokens of longer rollouts (`full:8`).
* `targets`: one target's backward pass to the outputs of all projections, without norms, in three ways: a loop of
  single passes, one pass for 4 targets by `is_grads_batched` (vmap), and one pass over 4 copies of the row.
* `norms`: the nuclear norms of a target's gradients in all layers, from the factors.

    python benchmarks/full.py [--cases oracle,sample,targets,norms] [--rounds 2] [--out benchmarks/results]

Writes OUT/full-DEVICE.json after every case (about 9 minutes on a quiet core).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.models.architecture import find_attention, modules_of
from antiphase.signal_spec import PROJECTIONS
from antiphase.signals.capture import observe
from antiphase.signals.norms import factored_norm, leading, shared_factor
from long_rows import SHAPE
from rows import device_name, in_turns, rows_of, spread, write

COPIES = 4


def shown(rows: list[dict]) -> list[dict]:
    """Print rows, and return them."""
    for row in rows:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return rows


def batch_of(num_tokens: int, num_prompt: int) -> TokenBatch:
    ids = torch.randint(3, SHAPE["vocab_size"], (num_tokens,)).tolist()
    return TokenBatch.from_ids([ids[:num_prompt]], [ids[num_prompt:]])


def against_oracle(model, case: str, num_tokens: int, num_prompt: int, rounds: int, targets: int | None) -> list[dict]:
    """Time the estimators in turns on one rollout; all times are for one measured token."""
    batch = batch_of(num_tokens, num_prompt)
    counts = {"oracle": 2, "oracle, last layer": 2, "full": targets, "own": None, "last": None}

    def work(name: str) -> Callable[[], int]:
        kind, layers = ("oracle", "last") if "," in name else (name, "all")
        spec = SignalSpec(kind, layers, targets_per_rollout=counts[name], token_budget=num_tokens)
        return lambda: int(token_signals(model, batch, spec).measured.sum())

    works = {name: work(name) for name in counts}
    measured = {name: counts[name] or num_tokens - num_prompt for name in counts}
    times = in_turns(works, rounds)
    each = {name: [one / measured[name] for one in found] for name, found in times.items()}
    shape = {"tokens": num_tokens, "device": device_name(), "rounds": rounds, "dtype": "float32"}
    rows = []
    for name, found in each.items():
        ratios = [slow / fast for slow, fast in zip(each["oracle"], found, strict=True)]
        row = {"case": case, "work": name, "targets": measured[name], **shape, **spread(found, "seconds_per_target")}
        rows.append({**row, **spread(ratios, "speedup")})
        if name == "last":
            ratios = [slow / fast for slow, fast in zip(each["oracle, last layer"], found, strict=True)]
            rows[-1] |= spread(ratios, "speedup_in_the_last_layer")
    return shown(rows)


def backward_ways(model, num_tokens: int, rounds: int) -> list[dict]:
    """Time the backward pass of a target in three ways, on the graphs of one row and of copies of it."""
    layers = find_attention(model)
    ids = torch.randint(3, SHAPE["vocab_size"], (1, num_tokens))
    seeds = torch.zeros(COPIES, 1, num_tokens, SHAPE["hidden_size"])
    seeds[:, 0, -1] = torch.randn(COPIES, SHAPE["hidden_size"])

    def graph(rows: int):
        with observe(model, layers) as seen:
            hidden = seen.hidden(ids.expand(rows, -1), grad=True)
            return hidden, seen.capture.outputs_of(modules_of(layers, PROJECTIONS))

    (one, of_one), (many, of_many) = graph(1), graph(COPIES)

    def gradient(hidden, outputs, seed, *, batched: bool = False):
        return torch.autograd.grad(hidden, outputs, seed, retain_graph=True, is_grads_batched=batched)

    works = {
        "loop": lambda: [gradient(one, of_one, seed) for seed in seeds],
        "is_grads_batched": lambda: gradient(one, of_one, seeds, batched=True),
        "copies of the row": lambda: gradient(many, of_many, seeds[:, 0]),
    }
    shape = {"tokens": num_tokens, "targets": COPIES}
    return shown(rows_of("targets", works, rounds, beside="loop", shape=shape, dtype="float32"))


def norms(num_tokens: int, rounds: int) -> list[dict]:
    """Time the norms of a target that sees all tokens, and those of a target in the middle of them."""
    hidden, groups = SHAPE["hidden_size"], SHAPE["hidden_size"] // SHAPE["num_attention_heads"] * 3
    factor = shared_factor(torch.randn(1, num_tokens, hidden), "nuclear")
    deltas = [torch.randn(1, num_tokens, width) for width in (hidden, groups, groups, hidden)]

    def work(reach: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(SHAPE["num_hidden_layers"]):
                for delta in deltas:
                    factored_norm(delta[:, :reach], leading(factor, reach, "nuclear"), "nuclear")

        return run

    works = {"of the last token": work(num_tokens), "of the middle token": work(num_tokens // 2)}
    shape = {"tokens": num_tokens, "targets": 1}
    return shown(rows_of("norms", works, rounds, beside="of the last token", shape=shape, dtype="float32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="oracle,sample,targets,norms")
    parser.add_argument("--lengths", default="128,256,512,1024")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=8192)).eval().requires_grad_(False)
    lengths, cases = list(map(int, options.lengths.split(","))), options.cases.split(",")
    works: list[Callable[[], list[dict]]] = []
    if "oracle" in cases:
        works.append(lambda: against_oracle(model, "oracle", 152, 56, options.rounds, None))
    for length in lengths:
        if "sample" in cases:
            works.append(lambda length=length: against_oracle(model, "sample", length, 1, 1, 8))
        if "targets" in cases and length <= 512:
            works.append(lambda length=length: backward_ways(model, length, 1))
        if "norms" in cases:
            works.append(lambda length=length: norms(length, options.rounds))
    rows: list[dict] = []
    for work in works:
        rows += work()
        write(options.out / f"full-{device_name().lower().replace(' ', '-')}.json", rows)


if __name__ == "__main__":
    main()
