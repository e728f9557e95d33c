"""What the benchmarks share: timing in turns, peak memory, and one form of the rows that they store.

Times are CPU times of the process (`time.process_time`) on a CPU, because other programs on the machine change them
less than the time on the clock. On a GPU they are times on the clock, and the device is waited for.
"""

import json
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from antiphase.runs.versions import commit, versions

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Return the time that a piece of work takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(works: Mapping[str, Work], rounds: int, *, warm: bool = False) -> dict[str, list[float]]:
    """Run all works once in each round, after one round of warming up. Return the times of each work by its name.

    With `warm`, the caller has warmed up the works, on shorter input for example, and the first round counts too.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + (not warm)):
        for name, work in works.items():
            spent = seconds(work)
            if number or warm:
                times[name].append(spent)
    return times


def spread(values: Sequence[float], name: str) -> dict[str, float]:
    """Return the quantiles 0.2, 0.5 and 0.8 of some values, as NAME_p20, NAME_p50 and NAME_p80."""
    return {f"{name}_p{q}": float(np.quantile(values, q / 100)) for q in (20, 50, 80)}


def rows_of(
    case: str,
    works: Mapping[str, Work],
    rounds: int,
    *,
    beside: str,
    shape: Mapping[str, int],
    warm: bool = False,
    **more: Any,
) -> list[dict[str, Any]]:
    """Time works in turns, and return one row for each.

    Args:
        case: the name of the case. All works do the same task.
        works: the works by name.
        rounds: how often each work is timed.
        beside: the work that all works are compared with. `ratio` is the time of a work divided by the time of this
            one, taken within each round.
        shape: the sizes that tell how much work it is, by name.
        warm: whether the works are warm already; otherwise a round before the first is not counted.
        more: other columns of every row, for example `dtype`.
    """
    times = in_turns(works, rounds, warm=warm)
    return [
        {"case": case, "work": name, **shape, "device": device_name(), "rounds": rounds, **more}
        | spread(found, "seconds")
        | spread([one / other for one, other in zip(found, times[beside], strict=True)], "ratio")
        | {"beside": beside}
        for name, found in times.items()
    ]


def peak_mib(work: Work) -> float:
    """Return how much memory a piece of work takes at most, in MiB above what the process or its GPU held before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return (peak[0] - before) / 2**20


def peak_apart(make: Callable[..., Work], *arguments: Any) -> float:
    """Return `peak_mib` of the work `make(*arguments)` in a fresh process, which holds no memory that was freed.

    What `make` itself allocates, such as a model, is not counted. `make` must be a function of a module.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_of, make, arguments, torch.get_num_threads()).result()


def _peak_of(make: Callable[..., Work], arguments: tuple[Any, ...], threads: int) -> float:
    """Return the peak of a work that is made here."""
    torch.set_num_threads(threads)
    return peak_mib(make(*arguments))


def device_name() -> str:
    """Return the name of the GPU, or the kind of the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def write(path: Path, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write the rows with the machine, the number of threads, the versions and the commit."""
    report = {
        "machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "versions": versions(), "commit": commit(), **more, "rows": list(rows),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
