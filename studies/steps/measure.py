"""ρ by steps of every model that the sweep kept, measured as `corr-po` measures: `full`, joint, on held-out problems.

    antiphase sweep studies/steps/steps.yaml --keep-models
    python studies/steps/measure.py --out studies/steps/results-steps

Writes OUT/measured.jsonl, a line a model; what is there is not measured again. The cells themselves are measured by
`own`. Joint strengths take one backward a sentence, so the strengths of single tokens are left out.
"""

import argparse
import json
import tempfile
from pathlib import Path

from antiphase.evaluation.evaluate import evaluate
from antiphase.study.definition import read_study
from antiphase.study.grid import BASE, Cell

STUDY = Path(__file__).with_name("steps.yaml")


def folder_of(cell: Cell, out: Path) -> Path:
    """Where the sweep left the cell's model."""
    assert cell.made is not None
    return out / "models" / (cell.made.name if cell.method == BASE else cell.name)


def measured(cell: Cell, out: Path, num_problems: int) -> dict[str, object]:
    """Accuracy and every correlation over steps."""
    options = {**cell.evaluation, "estimators": ["full"], "targets_per_rollout": 0, "num_problems": num_problems}
    with tempfile.TemporaryDirectory() as scratch:
        found = evaluate(
            str(folder_of(cell, out)), out=Path(scratch) / "eval", seed=cell.seed, figures=False, report=False,
            progress=False, **options,
        )  # fmt: skip
    result = found.summary["results"][0]
    sampled = found.rollouts[~found.rollouts.greedy]
    return {
        "cell": cell.name,
        "method": cell.method,
        "seed": cell.seed,
        "accuracy": float(sampled.correct.mean()),
        "num_tokens": float(sampled.num_tokens.mean()),
        "num_steps": float(sampled.num_steps.mean()),
        "entropy": result["signals"]["entropy_mean"],
        "step": result["signals"]["units"]["step"],
    }


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STUDY.with_name("results-steps"))
    parser.add_argument("--num-problems", type=int, default=24)
    options = parser.parse_args()
    path = options.out / "measured.jsonl"
    done = {json.loads(line)["cell"] for line in path.read_text().splitlines()} if path.is_file() else set()
    for cell in read_study(STUDY).cells:
        if cell.name not in done and (folder_of(cell, options.out) / "config.json").is_file():
            row = measured(cell, options.out, options.num_problems)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row["cell"], row["accuracy"], row["step"]["within"], flush=True)  # type: ignore[index]


if __name__ == "__main__":
    main()
