"""Where the time of a measurement goes: matrix products, attention, element-wise work, copies, singular values.

The model has the shape of SmolLM2-135M and random weights. Every work runs once to warm up, once to take its CPU time,
and once under the profiler of PyTorch, which gives each operation the time that it takes without the operations that
it calls. The seconds of a kind of operation are its share of the profile times the CPU time. The profiler adds to the
time of small operations, so their share is rather too great.

    python benchmarks/profiles.py --label NAME [--tokens 1024] [--out benchmarks/results]

Writes the rows with this label into OUT/profiles-cpu.json, and leaves those of other labels. To profile an older
version of antiphase, set PYTHONPATH to its sources, and name its commit by --commit.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from antiphase.runs.versions import commit
from cases import llama, measuring, passing, random_ids
from long_rows import SHAPE
from rows import Work, seconds, write

WORKS = ("plain", "own", "last", "full")
TARGETS = 2
# Kind of work → the beginnings of the names of its operations, without "aten::". The first kind that fits counts.
KINDS = {
    "matrix products of weights": ("mm", "addmm", "linear"),
    "attention": ("bmm", "baddbmm", "_scaled_dot_product", "_softmax", "_flash_attention"),
    "copies": ("copy_", "clone", "cat", "_to_copy", "contiguous", "index", "gather", "scatter", "slice_backward",
               "select_backward", "fill_", "zero_"),
    "decompositions": ("linalg", "_linalg", "geqrf", "orgqr", "cholesky"),
}  # fmt: skip
OTHER = "element-wise work and sums"


def kind_of(operation: str) -> str:
    """Return the kind of work that an operation is.

    >>> kind_of("aten::mm"), kind_of("aten::mul")
    ('matrix products of weights', 'element-wise work and sums')
    """
    name = operation.removeprefix("aten::")
    for kind, beginnings in KINDS.items():
        if any(name == start or (len(start) > 4 and name.startswith(start)) for start in beginnings):
            return kind
    return OTHER


def parts(work: Work) -> dict[str, float]:
    """Run a work three times, and return the CPU seconds of each kind of operation."""
    work()
    whole = seconds(work)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    profiled = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in found.key_averages():
        profiled[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: whole * value / sum(profiled.values()) for kind, value in profiled.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", required=True, help="the name of this version, for example 'before'")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--commit", default=None, help="the commit of the sources, if they are in no checkout")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, ids = llama(SHAPE), random_ids(options.tokens, SHAPE["vocab_size"])
    rows: list[dict[str, Any]] = []
    for name in WORKS:
        targets = TARGETS if name == "full" else None
        work = passing(model, ids) if name == "plain" else measuring(model, ids, name, targets)
        found = parts(work)
        rows.append(
            {
                "case": "profile", "label": options.label, "commit": options.commit or commit(), "work": name,
                "tokens": options.tokens, "targets": targets, "seconds": sum(found.values()), "parts": found,
            }
        )  # fmt: skip
        print(name, {kind: f"{value / sum(found.values()):.0%}" for kind, value in found.items()}, flush=True)
    path = options.out / "profiles-cpu.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    write(path, [*(row for row in known if row["label"] != options.label), *rows])


if __name__ == "__main__":
    main()
