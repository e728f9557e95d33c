"""How long a wrong word takes until it is refused, from the start of the process.

Every round runs each case once for each source tree, so that a busy machine slows all of them alike.

    python benchmarks/refusals.py [--rounds 3] [SRC …]

SRC are `src` folders of checkouts, by default this one's. Prints a row a case: the median seconds for each tree.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Case → words, and what the refusal says. HERE is a folder that exists and holds something else.
CASES: dict[str, tuple[list[str], str]] = {
    "probe: a number": (["probe", "demo", "--num-prompts", "0"], "num_prompts must be at least 1"),
    "probe: a splitter": (["probe", "demo", "--splitter", "sentances"], "Did you mean 'sentence'?"),
    "probe: an estimator": (["probe", "demo", "--estimator", "magic"], "estimator must be one of"),
    "probe: a missing file": (["probe", "demo", "--prompts", "nowhere.jsonl"], "does not exist"),
    "probe: --out exists": (["probe", "demo", "--out", str(HERE)], "not an empty folder"),
    "eval: a task": (["eval", "demo", "--tasks", "gsm8"], "Did you mean 'gsm8k'?"),
    "eval: an engine": (["eval", "demo", "--tasks", "sums", "--engine", "vlm"], "engine must be one of"),
    "compare: no run": (["compare", "nowhere", "elsewhere"], "no folder of an evaluation"),
    "sweep: a missing study": (["sweep", "nowhere.yaml"], "cannot be read"),
    "report: no run": (["report", "nowhere"], "does not exist"),
    "view: a port": (["view", str(HERE), "--port", "99999"], "cannot listen on port 99999"),
    "train: a preset": (["train", "--preset", "dapoo"], "Did you mean 'dapo'?"),
}


def seconds(words: list[str], message: str, source: str) -> float:
    """Of one refusal, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-m", "antiphase", *words], env=environment, capture_output=True, text=True, check=False
    )
    spent = time.perf_counter() - began
    if found.returncode != 2 or message not in found.stderr:
        raise SystemExit(f"{' '.join(words)}: expected a refusal with {message!r}; got {found.stderr or found.stdout}")
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=[str(HERE.parent / "src")], metavar="SRC")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for case, (words, message) in CASES.items():
            for source in arguments.sources:
                taken.setdefault((case, source), []).append(seconds(words, message, source))
    print(f"{'median seconds':24}", *arguments.sources, sep="  ")
    for case in CASES:
        shown = (f"{statistics.median(taken[case, source]):.2f}".rjust(len(source)) for source in arguments.sources)
        print(f"{case:24}", *shown, sep="  ", flush=True)


if __name__ == "__main__":
    main()
