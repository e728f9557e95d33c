"""Run one cell of a study: make its model, train it, evaluate it, and store what the tables need.

A cell is one model, setting, method and seed.

OUT/models/NAME/           a model that a command made (see `making`)
OUT/work/CELL/train, eval  folders of a cell that is running; they are removed when the cell is done
OUT/cells/CELL.parquet     a row for each evaluated rollout
OUT/cells/CELL.json        everything else; this file exists only if the cell is done
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from antiphase.runs.folder_lock import locked
from antiphase.runs.versions import commit
from antiphase.study.grid import Cell
from antiphase.study.launch import merged_model, train_under
from antiphase.study.making import CellError, made_weights, make_model
from antiphase.study.records import cell_lock, is_done, results_locked
from antiphase.study.request import cell_recipe
from antiphase.training.out_folder import write_whole

COLUMNS = (
    "task", "problem_id", "sample", "greedy", "estimator", "correct", "answer", "outcome", "well_formed", "finish",
    "num_tokens", "num_measured", "spearman", "shuffled", "logprob_control", "entropy_mean", "strength_mean",
    "logprob_mean", "self_certainty_mean",
)  # fmt: skip
# These columns are kept too if the evaluation has them.
UNIT_COLUMNS = (
    "num_steps", "spearman_token", "spearman_type", "spearman_step", "spearman_given_length", "impurity_mean",
    "attention_entropy_mean", "unembedding_norm_mean", "effective_rank_mean",
)  # fmt: skip


def run_cell(cell: Cell, out: Path, *, keep_models: bool = False, launch: str | None = None) -> None:
    """Run a cell (one model, setting, method and seed) to its end.

    Parts that an earlier, interrupted call finished are not repeated. If the cell is done, but its call was killed
    before it kept the trained model, the model is kept now.

    Args:
        cell: the cell to run.
        out: the study's folder.
        keep_models: whether to keep the trained model.
        launch: the launcher's command for the training. If None is given, this process trains.

    Raises:
        AntiphaseError: the cell's model, training or evaluation failed.
        InUseError: another process is running the cell. The message names the process.
        KeyboardInterrupt: the training was interrupted.
    """
    lock = cell_lock(cell, out)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, f"the cell {cell.name} is being run"):
        if not is_done(out, cell.name):
            _run(cell, out, launch)
        _tidy(cell, out, keep_models)


def _run(cell: Cell, out: Path, launch: str | None) -> None:
    """Train and evaluate the cell, while this process holds the cell's lock. See `run_cell` for the arguments."""
    began = time.time()
    source = str(make_model(cell.made, out)) if cell.made is not None else str(cell.path)
    work = out / "work" / cell.name
    marker, digest = work / "cell.sha256", cell.digest()
    if work.is_dir() and not (marker.is_file() and marker.read_text() == digest):
        shutil.rmtree(work)  # The folder belongs to a run with other options.
    work.mkdir(parents=True, exist_ok=True)
    write_whole(marker, digest)
    started = commit()
    trained: Mapping[str, Any] | None = None
    if cell.stage is None:
        trained = _train(cell, source, work, launch)
        # vLLM cannot load a folder that holds only an adapter.
        alone = cell.evaluation.get("engine") == "vllm"
        model = str(merged_model(work / "train", work / "merged") if alone else work / "train")
    else:
        model = str(Path(source) / cell.stage) if cell.stage != "." else source
    from antiphase.evaluation.evaluate import evaluate

    options = {"seed": cell.seed, **cell.evaluation}
    found = evaluate(model, out=work / "eval", resume=True, figures=False, report=False, progress=False, **options)
    rows = found.rollouts[[*COLUMNS, *(name for name in UNIT_COLUMNS if name in found.rollouts)]].copy()
    for name in rows.select_dtypes("float64").columns:
        rows[name] = rows[name].astype("float32")
    summary = {**found.summary, "commit": started}
    if cell.digest() != digest:
        raise CellError(f"the file of a task changed while {cell.name} ran; repeat the command to run the cell anew.")
    _keep(cell, out, rows, summary, trained, time.time() - began)


def _tidy(cell: Cell, out: Path, keep_models: bool) -> None:
    """Keep the trained model of a done cell if `keep_models` is True, then remove the cell's temporary files.

    If a call is killed, another call finishes its work. See `run_cell` for the arguments.
    """
    work, model = out / "work" / cell.name, out / "models" / cell.name
    marker = work / "cell.sha256"
    if not (marker.is_file() and marker.read_text() == cell.digest()):
        return
    if keep_models and (work / "train").is_dir():
        model.parent.mkdir(exist_ok=True)
        shutil.rmtree(model, ignore_errors=True)
        try:
            (work / "train").rename(model)
        except OSError:  # `models` is on another disk.
            shutil.copytree(work / "train", model, dirs_exist_ok=True)
    # Without this file, the rest of a folder that is only partly removed is never taken for a whole model.
    marker.unlink()
    shutil.rmtree(work, ignore_errors=True)


def _train(cell: Cell, source: str, work: Path, launch: str | None) -> Mapping[str, Any]:
    """Train the cell (one model, setting, method and seed), and return the summary of the training.

    If an earlier call has trained the cell, only the summary is read. `source` is the model that the training starts
    from, `work` the folder of the running cell, and `launch` the launcher's command.
    """
    folder = work / "train"
    if not (folder / "summary.json").is_file():
        recipe = work / "recipe.yaml"
        write_whole(recipe, yaml.safe_dump(cell_recipe(cell, source, folder), allow_unicode=True, sort_keys=False))
        if launch is not None:
            train_under(launch, recipe)
        else:
            from antiphase.training.train import train

            if train(["--config", str(recipe), "--resume"]).interrupted:
                raise KeyboardInterrupt
        if not (folder / "summary.json").is_file():
            raise CellError(f"the training of {cell.name} was interrupted; repeat the command to continue it.")
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def _keep(
    cell: Cell,
    out: Path,
    rows: pd.DataFrame,
    summary: Mapping[str, Any],
    trained: Mapping[str, Any] | None,
    seconds: float,
) -> None:
    """Write the two files of a finished cell (one model, setting, method and seed).

    Args:
        cell: the cell.
        out: the study's folder.
        rows: the evaluated rollouts.
        summary: the summary of the evaluation, with the commit of the code.
        trained: the summary of the training; None if the cell does not train.
        seconds: the time that the cell took.
    """
    kept = ("change", "num_steps", "alarms", "measuring_seconds", "device", "num_processes")
    record = {
        "cell": cell.name,
        "model": cell.model,
        "setting": cell.setting,
        "method": cell.method,
        "seed": cell.seed,
        "trained": cell.trained,
        "made": None
        if cell.made is None
        else {"name": cell.made.name, "weights_sha256": made_weights(cell.made, out)},
        "digest": cell.digest(),
        "recipe": dict(cell.recipe),
        "training": None if trained is None else {key: trained[key] for key in kept},
        "results": [_without_cells(entry) for entry in summary["results"]],
        "versions": summary["versions"] | (trained or {}).get("versions", {}),
        "commit": summary["commit"],
        "seconds": round(seconds, 1),
    }
    text = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    with results_locked(out):
        (out / "cells").mkdir(exist_ok=True)
        part = out / "cells" / f".{cell.name}.parquet.tmp"
        rows.to_parquet(part, index=False)
        part.replace(out / "cells" / f"{cell.name}.parquet")
        # This file is written last, because it marks the cell as done.
        write_whole(out / "cells" / f"{cell.name}.json", text)


def _without_cells(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result of an evaluation without the model's path, the layers, and the ρ of single projections."""
    slim = {key: value for key, value in entry.items() if key not in ("model", "revision", "layers")}
    if "signals" in slim:
        slim["signals"] = {key: value for key, value in slim["signals"].items() if key != "by_projection"}
    return slim
