"""Check that nothing has become slower: ratios of times against those that are stored, with a tenth of room.

A measure is a piece of work and a reference that does comparable work. Both run in every round, one after the other,
and the ratio is taken within the round, in CPU time. So it depends little on the speed of the machine and on other
programs. The ratio of a measure is the median over its rounds. A work that takes less than half a second and moves
much memory is disturbed more by other programs than its reference is. For such a measure, the ratio is that of the
least times of many rounds. If a ratio exceeds the stored one by more than a tenth, the measure is run again with more
rounds, and all rounds together decide. Memory is measured in processes of its own, once.

    python benchmarks/check.py [--only own,head] [--store]

Ends with 1 if a ratio has risen by more than a tenth. `--store` writes benchmarks/results/baseline.json instead. A
baseline holds for one kind of machine; on another one, store your own before you change the code.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from antiphase import SignalSpec, coefficients
from antiphase.signals.entropy import head_signals
from cases import SHALLOW, llama, measuring, passing, random_ids
from intervals import pooled, series
from long_rows import SHAPE
from rows import Work, in_turns, peak_apart, spread, write

BASELINE = Path(__file__).parent / "results" / "baseline.json"
ROOM = 0.1
# The rounds of a measure, those of a short one, and how many times as many rounds the second try has.
ROUNDS, ROUNDS_OF_SHORT, AGAIN = 3, 15, 3
TARGETS = 4
# The seconds of a work and of its reference, by round.
Times = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Measure:
    """A work and a reference.

    Args:
        about: what is divided by what.
        works: returns the work and the reference.
        scale: the ratio of the two times is multiplied by this number, for example to get times for one token.
        short: whether the ratio is that of the least times of many rounds.
    """

    about: str
    works: Callable[[], tuple[Work, Work]]
    scale: float = 1.0
    short: bool = False

    @property
    def rounds(self) -> int:
        """How often both run."""
        return ROUNDS_OF_SHORT if self.short else ROUNDS


@functools.cache
def _model() -> torch.nn.Module:
    return llama(SHALLOW)


def _estimator(name: str, tokens: int, targets: int | None = None) -> tuple[Work, Work]:
    """Return the work of an estimator on one rollout, and a plain pass through the same tokens."""
    ids = random_ids(tokens, SHALLOW["vocab_size"])
    return measuring(_model(), ids, name, targets), passing(_model(), ids)


def _against_oracle() -> tuple[Work, Work]:
    """Return `own` for the 96 tokens after a prompt of 56, and the oracle for one of them."""
    ids = random_ids(152, SHALLOW["vocab_size"])
    return measuring(_model(), ids, "own", None, 56), measuring(_model(), ids, "oracle", 1, 56)


def _head() -> tuple[Work, Work]:
    """Return the signals of the head for 512 tokens, and log-probabilities and entropy from all logits at once."""
    model = llama(SHAPE | {"num_hidden_layers": 1})
    hidden = torch.randn(512, SHAPE["hidden_size"])
    ids = torch.tensor(random_ids(512, SHAPE["vocab_size"]))

    def naive() -> None:
        log_p = model.lm_head(hidden).log_softmax(-1)
        log_p.gather(-1, ids[:, None]), (log_p.exp() * log_p).sum(-1)

    return functools.partial(head_signals, model, hidden, ids, SignalSpec(), want_seed=False), naive


def _spearman() -> tuple[Work, Work]:
    """Return Spearman's correlation of 256 rollouts of 2,048 tokens, and a loop over scipy's."""
    x, y = torch.randn(2, 256, 2048, dtype=torch.float64)
    return functools.partial(coefficients, x, y), lambda: [spearmanr(a, b) for a, b in zip(x, y, strict=True)]


def _bootstrap() -> tuple[Work, Work]:
    """Return the interval of a pooled correlation from counts of tokens, and by exact resampling."""
    data = series(20_000, num_prompts=50)
    counted, exact = (functools.partial(pooled, data, 200, counted=flag) for flag in (True, False))
    return counted, exact


MEASURES = {
    "own, 256 tokens": Measure("`own` ÷ plain pass", lambda: _estimator("own", 256)),
    "own, 1,024 tokens": Measure("`own` ÷ plain pass", lambda: _estimator("own", 1024)),
    "last, 512 tokens": Measure("`last` ÷ plain pass", lambda: _estimator("last", 512)),
    "full, 256 tokens": Measure(
        "`full` for one token ÷ plain pass", lambda: _estimator("full", 256, TARGETS), 1 / TARGETS
    ),
    "own, oracle": Measure("`own` ÷ oracle, each for one token of 152", _against_oracle, 1 / 96),
    "head": Measure("the head's signals ÷ log_softmax of all logits, 512 tokens", _head, short=True),
    "spearman": Measure("our ρ of 256 rollouts of 2,048 tokens ÷ a loop over scipy's", _spearman, short=True),
    "bootstrap": Measure("interval from counts ÷ exact resampling, 20,000 tokens", _bootstrap, short=True),
}
MEMORY = "memory of own, 1,024 tokens"


def _memory_work(kind: str) -> Work:
    """Return a work whose peak memory is measured in a fresh process."""
    own, plain = _estimator("own", 1024)
    _estimator("own", 64)[0](), _estimator("own", 64)[1]()
    return own if kind == "own" else plain


def memory_row() -> dict[str, Any]:
    """Return the row of the peak memory of `own` above the model, divided by that of a plain pass."""
    ratio = peak_apart(_memory_work, "own") / peak_apart(_memory_work, "plain")
    return {"name": MEMORY, "about": "peak of `own` ÷ peak of a plain pass", "rounds": 1} | spread([ratio], "ratio")


def time_row(name: str, measure: Measure, rounds: int, before: Times = ()) -> dict[str, Any]:
    """Run a measure, and return its row. `before` are the times of earlier rounds, which count too."""
    work, reference = measure.works()
    now = in_turns({"work": work, "reference": reference}, rounds)
    times = [*before, *zip(now["work"], now["reference"], strict=True)]
    ratios = [measure.scale * one / other for one, other in times]
    if measure.short:
        ratios = [measure.scale * min(one for one, _ in times) / min(other for _, other in times)]
    row = {"name": name, "about": measure.about, "rounds": len(times), "seconds": times}
    return row | spread(ratios, "ratio")


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the seconds of its rounds."""
    return {key: value for key, value in row.items() if key != "seconds"}


def rise(row: Mapping[str, Any], stored: Mapping[str, float]) -> float:
    """Return by how much of itself a ratio has risen above the stored one; negative if it has fallen."""
    return row["ratio_p50"] / stored[row["name"]] - 1


def failures(rows: Sequence[Mapping[str, Any]], stored: Mapping[str, float], room: float = ROOM) -> list[str]:
    """Return what is wrong, one line for each measure: a ratio that has risen too much, or that nothing is stored for.

    Args:
        rows: rows with the name of a measure and its ratio, `ratio_p50`.
        stored: the stored ratios by name.
        room: how much a ratio may rise, as a share of the stored one.
    """
    found = []
    for row in rows:
        name = row["name"]
        if name not in stored:
            found.append(f"{name}: no ratio is stored. Store the ratios of an unchanged tree with --store.")
        elif not np.isfinite(row["ratio_p50"]) or rise(row, stored) > room:
            found.append(
                f"{name}: {row['about']} is {row['ratio_p50']:.4g}, and the stored ratio is {stored[name]:.4g}. It "
                f"has risen by {rise(row, stored):.0%}; {room:.0%} are allowed."
            )
    return found


def run(names: Sequence[str], stored: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Run the measures with these names. Against stored ratios, a measure that seems slower gets more rounds."""
    rows = []
    for name in names:
        begin = time.process_time()
        if name == MEMORY:
            row = memory_row()
        else:
            measure = MEASURES[name]
            row = time_row(name, measure, measure.rounds * (1 if stored else AGAIN))
            if stored and name in stored and failures([row], stored):
                row = time_row(name, measure, measure.rounds * AGAIN, row["seconds"])
        change = (
            f"{rise(row, stored):+.1%} against the stored ratio" if stored and name in stored else "not stored yet"
        )
        print(f"{name}: {row['ratio_p50']:.4g}, {change} ({row['rounds']} rounds, "
              f"{time.process_time() - begin:.0f} s)", flush=True)  # fmt: skip
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the beginnings of names of measures, with commas")
    parser.add_argument("--store", action="store_true", help="store the ratios of this tree")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = tuple(options.only.split(","))
    names = [name for name in (*MEASURES, MEMORY) if name.startswith(wanted)]
    known = json.loads(options.baseline.read_text())["rows"] if options.baseline.exists() else []
    if options.store:
        rows = run(names, None)
        stored = {row["name"]: row for row in known} | {row["name"]: without_times(row) for row in rows}
        ordered = [stored[name] for name in (*MEASURES, MEMORY) if name in stored]
        write(options.baseline, ordered, cpu=torch.backends.cpu.get_cpu_capability(), room=ROOM)
        return
    stored = {row["name"]: row["ratio_p50"] for row in known}
    failed = failures(run(names, stored), stored)
    print(*failed, sep="\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
