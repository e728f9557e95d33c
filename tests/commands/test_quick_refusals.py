"""What can be refused without a model is refused before anything is imported that computes one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "trl", "datasets", "reasoning_gym")
# Said to the last line of stderr, so that it comes after whatever the command says.
_LOADED = f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr, sep=',')"


def _benchmark():
    spec = importlib.util.spec_from_file_location("refusals", ROOT / "benchmarks" / "refusals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFUSALS = _benchmark()
CASES = {
    **REFUSALS.CASES,
    "probe: a dtype": (["probe", "demo", "--dtype", "int4"], "dtype must be one of"),
    "probe: no checkpoints": (["probe", "--checkpoints", "nowhere"], "there is no folder"),
    "probe: given rollouts": (["probe", "demo", "--rollouts", "nowhere.jsonl"], "does not exist"),
    "eval: a suite": (["eval", "demo", "--suite", "smok"], "Did you mean 'smoke'?"),
    "eval: samples of a task": (["eval", "demo", "--tasks", "sums:samples=2,k=4"], "needs at least 4 samples"),
    "eval: a split": (["eval", "demo", "--tasks", "sums", "--split", "dev"], "split must be one of"),
    "compare: an option": (["compare", "a", "b", "--smallest", "2"], "between 0 and 1"),
    "compare: of a model": (["compare", "demo", "x", "--tasks", "sums", "--k", "9"], "needs at least 9 samples"),
    "sweep: a cell": (["sweep", str(ROOT / "studies" / "first" / "tiny.yaml"), "--cell", "x"], "has no cell 'x'"),
    "report: a share": (["report", "nowhere", "--forking-share", "2"], "forking_share must lie between 0 and 1"),
    "train: a task": (["train", "--model", "demo", "--out", "x", "--tasks", "gsm8"], "Did you mean 'gsm8k'?"),
    "train: a reward": (
        ["train", "--model", "demo", "--out", "x", "--tasks", "sums", "--reward_funcs", "acuracy"],
        "Did you mean 'accuracy'?",
    ),
    "train: --out exists": (["train", "--model", "x", "--tasks", "sums", "--out", str(ROOT)], "not an empty folder"),
    "train: a missing recipe": (["train", "--config", "nowhere.yaml"], "cannot be read"),
    "train: an option of the reward": (
        ["train", "--model", "demo", "--out", "x", "--tasks", "sums", "--inversion_combine", "centred"],
        "inversion_combine must be one of",
    ),
    "train: a λ": (["train", "--preset", "dapo+corr-po", "--inversion-weight", "-1"], "must be 0 or positive"),
    "train: a number": (["train", "--eval_samples", "0"], "eval_samples must be at least 1"),
}  # fmt: skip


def _run(code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("case", CASES)
def test_refused_without_torch(case: str) -> None:
    words, message = CASES[case]
    found = _run(f"import sys; from antiphase.cli import main; status = main(); {_LOADED}; sys.exit(status)", *words)
    *said, loaded = found.stderr.splitlines()
    assert found.returncode == 2, found.stderr
    assert len(said) == 1, found.stderr
    assert said[0].startswith("antiphase: error: ")
    assert message in said[0]
    assert loaded == ""


def test_what_commands_check_with_imports_no_torch() -> None:
    names = (
        "signal_spec",
        "statistics.minimums",
        "steps.splitter",
        "rollouts.sampling_spec",
        "rollouts.engine_names",
        "probing.probe_config",
        "evaluation.evaluation_config",
        "evaluation.entries",
        "report.entries",
        "study.definition",
        "tasks.registry",
        "tasks.suites",
        "training.presets",
        "training.own_checks",
    )
    imports = "; ".join(f"import antiphase.{name}" for name in names)
    found = _run(f"import sys; {imports}; {_LOADED}")
    assert found.stderr.strip() == ""


@pytest.mark.slow
def test_refusals_take_a_second_and_a_half() -> None:
    """On a quiet machine; see benchmarks/refusals.py for the medians."""
    for case, (words, message) in REFUSALS.CASES.items():
        assert min(REFUSALS.seconds(words, message, str(ROOT / "src")) for _ in range(3)) < 1.5, case
