"""What a quarter of an hour of GPU is worth: is antiphase right there, how fast is it, does it train, does it learn.

    python benchmarks/gpu/run.py --out DIR [--only right,fast=90] [--minutes 8] [--dry]

Each part runs in a process of its own with its own time limit. Rows are appended to DIR/rows.jsonl as they come, and
whatever the processes print to DIR/log.txt. A part that fails, hangs or is killed costs itself alone: its row `end`
says how it ended, with its last words. The exit status is 1 where any row is not well. See README.md for the two
commands.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
WHEELS = HERE / "wheels"
# Part → seconds: what it may take, and in a dry run. A part stops itself; this is for one that hangs.
PARTS = {
    "right": (70, 60),
    "agree": (90, 120),
    "fast": (200, 40),
    "train": (170, 90),
    "learn": (200, 120),
    "real": (240, 120),
}
_GRACE = 20.0  # seconds for the cell in hand and for starting


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line; here again, since importing `kit` would import torch."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=str) + "\n")


def environment(target: Path) -> dict[str, str]:
    """Of the parts: the sources, and the packages that were carried where TRL is not installed."""
    paths = [str(SOURCE), str(HERE)]
    if importlib.util.find_spec("trl") is None and any(WHEELS.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        command += ["--disable-pip-version-check", "--target", str(target), *map(str, sorted(WHEELS.glob("*.whl")))]
        if subprocess.run(command, check=False).returncode == 0:
            paths.append(str(target))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Needed by cuBLAS before it starts, for deterministic algorithms.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


def run_part(name: str, seconds: float, *, rows: Path, log: Path, env: dict[str, str], dry: bool) -> str:
    """Run one part to its end or its limit; how it ended."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--rows", str(rows), "--seconds", f"{seconds:.0f}"]
    start, before = time.monotonic(), log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            command + ["--dry"] * dry, stdout=output, stderr=output, env=env, start_new_session=True
        )
        try:
            code: int | None = process.wait(seconds + _GRACE)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # The part and whatever it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    status = "ok" if code == 0 else "hung" if code is None else f"killed by signal {-code}" if code < 0 else "failed"
    end: dict[str, Any] = {
        "part": name,
        "case": "end",
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
    }
    if status != "ok":
        with log.open("rb") as said:
            said.seek(before)
            end["last_words"] = said.read().decode(errors="replace")[-4000:]
    write_row(rows, end)
    return status


def summary(rows: Path, start: int) -> tuple[str, bool]:
    """How many rows of each part, from the byte `start` on, ended how; what is not well; and whether all is."""
    with rows.open("rb") as file:
        file.seek(start)
        found = [json.loads(line) for line in file.read().splitlines()]
    lines = []
    for part in PARTS:
        own = [row for row in found if row["part"] == part]
        if own:
            counts = Counter(row.get("status", "ok").split(":")[0] for row in own)
            lines.append(f"{part}: " + ", ".join(f"{count} {status}" for status, count in counts.most_common()))
    unwell = [row for row in found if row.get("status", "ok") != "ok" and not row["status"].startswith("skipped")]
    for row in unwell:
        short = {key: value for key, value in row.items() if key not in ("traceback", "last_words")}
        lines.append("! " + json.dumps(short)[:400])
    return "\n".join(lines), not unwell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PARTS), help="parts with commas between, each with =SECONDS")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--dry", action="store_true", help="toy sizes, on the CPU")
    options = parser.parse_args()
    asked = [part.partition("=") for part in options.only.split(",")]
    names = {name: float(limit or PARTS[name][options.dry]) for name, _, limit in asked if name in PARTS}
    if unknown := {name for name, _, _ in asked} - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    rows, log = options.out / "rows.jsonl", options.out / "log.txt"
    earlier = rows.stat().st_size if rows.exists() else 0
    stop = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as target:
        env = environment(Path(target))
        if options.dry:
            env |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1")}
        about = "import json, kit; print(json.dumps(kit.environment()))"
        said = subprocess.run([sys.executable, "-c", about], env=env, capture_output=True, text=True, check=False)
        facts = json.loads(said.stdout) if said.returncode == 0 else {"error": said.stderr[-2000:]}
        write_row(rows, {"part": "environment", "case": "environment", "dry": options.dry, **facts})
        print(facts, flush=True)
        for name, limit in names.items():
            seconds = min(limit, stop - time.monotonic() - _GRACE)
            if seconds < 10:
                write_row(rows, {"part": name, "case": "end", "status": "skipped: no time"})
                continue
            status = run_part(name, seconds, rows=rows, log=log, env=env, dry=options.dry)
            print(f"{name}: {status}", flush=True)
    text, well = summary(rows, earlier)
    print(text)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
