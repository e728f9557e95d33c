"""Agree: are the numbers of a real model those of the CPU? A probe on the device, and the same rollouts on both.

`probe` measures GSM8K with the options of `make demo`. `agree` measures rollouts of that probe on the CPU and on the
device. Where the embedded model is not installed, and in a dry run, a random model of two layers stands for it.
"""

import json
import tempfile
from pathlib import Path

from kit import DEVICE, Part

from commands import command, model_of, run

PROBE = ["--num-prompts", "16", "--samples", "2", "--max-new-tokens", "64", "--estimator", "own,last,full:3"]
# The greatest difference of a token, relative to the mean; rounding of float32 is far below it.
AGREE_ROLLOUTS, AGREE_LIMIT = 8, 1e-3
# A dry run only shows that every command goes through.
DRY_PROBE = ["--prompts", "gsm8k", "--num-prompts", "2", "--max-new-tokens", "24", "--estimator", "own", "--device"]
DRY_PROBE += ["cpu", "--no-figures", "--no-report"]


def probe(part: Part, model: str, out: Path) -> None:
    """The options of `make demo`; the pooled ρ of every estimator and unit."""
    with part.cell("probe", model=Path(model).name) as row:
        run(part, command("probe", model, *(DRY_PROBE if part.dry else PROBE), "--out", out), row)
        found = json.loads((out / "summary.json").read_text())["results"]
        row["device"], row["dtype"] = found[0]["device"], found[0]["dtype"]
        row["correlation"] = {
            one["estimator"]: {
                name: [unit[key] for key in ("value", "low", "high", "num_items")]
                for name, unit in one["units"].items()
            }
            for one in found
        }


def agree(part: Part, model: str, rollouts: Path, folder: Path) -> None:
    """Measure the same rollouts on the device and on the CPU: all values must be equal but for rounding."""
    import pandas as pd

    with part.cell("agree", model=Path(model).name) as row:
        if DEVICE.type == "cpu" and not part.dry:
            row["status"] = "skipped: no GPU"
            return
        given = pd.read_parquet(rollouts)
        given = given[given.estimator == given.estimator.iloc[0]].head(AGREE_ROLLOUTS)
        given[["prompt_id", "rollout_id", "prompt_ids", "completion_ids"]].to_parquet(folder / "given.parquet")
        words = [model, "--rollouts", folder / "given.parquet", "--estimator", "own,last,full:3", "--dtype", "float32"]
        words += ["--allow-short", "--no-figures", "--no-report", "--quiet", "--num-resamples", "10"]
        tables = {}
        for device in ("cpu", str(DEVICE)):
            out = folder / f"agree-{len(tables)}"
            run(part, command("probe", *words, "--device", device, "--out", out), row)
            tables[out] = pd.read_parquet(out / "tokens.parquet")
        here, there = tables.values()
        for name in ("rollout_id", "token_id"):
            if not here[name].equals(there[name]):
                raise ValueError(f"the two tables differ in {name}, so their rows are not those of the same tokens")
        for estimator, same in here.groupby("estimator"):
            for name in ("strength", "entropy"):
                other = there.loc[same.index, name]
                known = same[name].notna()
                difference = (same[name] - other)[known]
                error = row[f"{estimator}, {name}"] = float(difference.abs().max() / same[name][known].abs().mean())
                # The largest difference leaves out what is NaN on the device alone.
                if not known.equals(other.notna()) or not error <= AGREE_LIMIT:
                    row["status"] = "wrong"


def main() -> None:
    part = Part.from_command_line("agree")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_of(part, folder / "model")
        probe(part, model, folder / "probe")
        agree(part, model, folder / "probe" / "rollouts.parquet", folder)


if __name__ == "__main__":
    main()
