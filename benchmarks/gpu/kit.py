"""What the parts share: rows that are on the disk as soon as they are known, faults that cost one row, and the clock.

A part is a script that `run.py` starts with `--rows FILE --seconds N [--dry]`. It appends JSON lines to FILE. Nothing
here measures anything of antiphase.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "src", Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import torch  # noqa: E402  (the folders come first)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TooSlowError(Exception):
    """A cell took longer than it may."""


class Part:
    """One part of the kit: its rows, and how much of its time is left.

    Args:
        name: of the part.
        rows: the file that rows are appended to.
        seconds: after which no new cell is begun.
        dry: toy sizes.
    """

    def __init__(self, name: str, rows: Path, seconds: float, dry: bool) -> None:
        self.name, self.rows, self.dry = name, rows, dry
        self._stop = time.monotonic() + seconds

    @classmethod
    def from_command_line(cls, name: str) -> "Part":
        """The part that the arguments of `run.py` describe."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--rows", type=Path, required=True)
        parser.add_argument("--seconds", type=float, default=120.0)
        parser.add_argument("--dry", action="store_true")
        options = parser.parse_args()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "4")))
        return cls(name, options.rows, options.seconds, options.dry)

    @property
    def left(self) -> float:
        """Seconds until no new cell is begun."""
        return self._stop - time.monotonic()

    def row(self, case: str, **values: Any) -> None:
        """Append one row; it is on the disk when this returns."""
        write_row(self.rows, {"part": self.name, "case": case, **values})

    @contextlib.contextmanager
    def cell(self, case: str, limit: float | None = None, **values: Any) -> Iterator[dict[str, Any]]:
        """Fill the row of one cell; an error, or more seconds than `limit`, becomes its status instead of the end.

        The row is written when the block ends. A cell that begins after the part's time is up is written as skipped,
        and its block ends at once.
        """
        row: dict[str, Any] = {"status": "ok", **values}
        start = time.monotonic()
        try:
            with alarm(limit):
                yield row
        except KeyboardInterrupt:
            raise
        except TooSlowError:
            row |= {"status": "too slow", "limit": limit}
        except Exception as error:  # noqa: BLE001  (whatever it is, the other cells go on)
            row |= {"status": status_of(error), "error": f"{type(error).__name__}: {error}"[:2000]}
            if row["status"] == "failed":
                row["traceback"] = traceback.format_exc()[-3000:]
        if row["status"] != "ok":
            free()
        self.row(case, **row, cell_seconds=round(time.monotonic() - start, 3))


def status_of(error: BaseException) -> str:
    """`out of memory`, or `failed`."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return "out of memory"
        seen = seen.__cause__
    return "failed"


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line and flush it to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def alarm(seconds: float | None) -> Iterator[None]:
    """Raise TooSlowError inside the block after so many seconds (between two calls into C)."""
    if seconds is None:
        yield
        return

    def ring(*_: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def free() -> None:
    """Give memory back that nothing holds."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def timed(work: Callable[[], Any]) -> tuple[float, float | None]:
    """Seconds of the work, and the most GiB that the device held meanwhile, what stood there before included."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None
    return seconds, peak


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p20, p50 and p80."""
    values = torch.tensor(seconds, dtype=torch.float64)
    return {f"seconds_p{q}": float(values.quantile(q / 100)) for q in (20, 50, 80)}


def environment() -> dict[str, Any]:
    """Device, versions, and the sources by commit and by content: what every number depends on."""
    from importlib import metadata

    from antiphase.runs.versions import commit

    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "source_sha256": digest.hexdigest(),
        "device": "cpu",
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
    }
    if DEVICE.type == "cuda":
        facts = torch.cuda.get_device_properties(0)
        found |= {
            "device": facts.name,
            "memory_gib": round(facts.total_memory / 2**30, 1),
            "capability": f"{facts.major}.{facts.minor}",
            "multiprocessors": facts.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    for package in ("torch", "transformers", "trl", "peft", "accelerate", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    import antiphase

    return {**found, "antiphase": antiphase.__version__, "commit": commit()}
