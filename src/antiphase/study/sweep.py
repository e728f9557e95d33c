"""`sweep`: run the cells of a study, each in its own process, and compare their results.

    OUT/study.json       the study's name and cells
    OUT/models, work     see `cells`
    OUT/cells/           done cells; packed into the two files below once all are done
    OUT/cells.jsonl, rollouts.parquet
    OUT/tables/, figures/, report.md

A cell is one model, setting, method and seed. A cell that is done is never run again. A cell that was interrupted
continues from its last checkpoint or last finished batch.

Several sweeps may run in one folder at the same time. They share the cells (see `sharing`).
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.runs.folder_lock import InUseError
from antiphase.study.budget import check_budgets, check_evaluations, check_models, describe_budget
from antiphase.study.cells import run_cell
from antiphase.study.grid import Cell, Study
from antiphase.study.launch import processes_of
from antiphase.study.making import is_made, make_model
from antiphase.study.records import RECORDS, cell_lock, done_cells, done_names, model_lock, results_locked
from antiphase.study.request import SweepRequest, check_cells, check_free, check_name, sweep_request
from antiphase.study.scripts import Commands
from antiphase.study.sharing import Work, share
from antiphase.study.store import load_cells, pack
from antiphase.training.out_folder import write_whole

# This file holds the digest of the study that report.md and the tables belong to.
_MARK = ".report.sha256"


@dataclass(frozen=True)
class SweepResult:
    """The result of a call of `sweep`, which runs the cells of a study.

    Args:
        out: the study's folder.
        num_cells: number of cells of the study. A cell is one model, setting, method and seed.
        num_done: number of these cells that are done.
        failed: a mapping from the name of each cell or model that failed to its error message.
        report: the tables as text; None if they were not made.
    """

    out: Path
    num_cells: int
    num_done: int
    failed: dict[str, str]
    report: str | None


def sweep(
    path: str | Path,
    out: str | Path,
    *,
    cells: Sequence[str] = (),
    jobs: int = 1,
    keep_models: bool = False,
    dry_run: bool = False,
    commands: bool | str = False,
    sbatch: str = "",
    tables: bool = False,
    launch: str | None = None,
    train: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> SweepResult:
    """Run the cells of a study, and write its tables and figures.

    A cell is one model, setting, method and seed. A cell that fails does not stop the others. Several sweeps may run
    in one folder at the same time, on one or several machines. Each sweep takes the next cell that is free. Before a
    sweep makes the tables, it waits for the cells of the other sweeps.

    Args:
        path: the file STUDY.yaml.
        out: folder that everything is written to (OUT). Cells that are done there are skipped.
        cells: names of cells. Only these are run, in this process, and no tables are made. By default all cells are
            run.
        jobs: number of cells that run at the same time.
        keep_models: whether to keep trained models in OUT/models.
        dry_run: whether to print the budget and stop.
        commands: whether to print commands that run the unfinished cells under a job scheduler, and stop. `shell`
            prints a shell script, `slurm` a script for Slurm, and True or `list` one command on each line.
        sbatch: options of Slurm's sbatch for each cell, for `commands="slurm"`.
        tables: whether to make only the tables, from the cells that are done. No cell is then run.
        launch: the launcher's command for every training, such as `accelerate launch --num_processes 8`.
        train: changes of the study's shared `train` keys, each of the form `KEY=VALUE`.
        say: a function that prints one line, or a script of several lines.

    Raises:
        AntiphaseError: the study is malformed, its methods have unequal budgets, a model does not exist, OUT belongs
            to a study of another name, a cell in OUT was run with other options, other processes run all the `cells`,
            or `tables` is set and no cell is done.
    """
    request = sweep_request(path, out, cells=cells, jobs=jobs, train=train)
    study, folder, done, todo = request.study, request.folder, request.done, request.todo
    if commands or sbatch:
        names = tuple(cell.name for cell in todo)
        found = Commands(study.name, Path(path), folder, names, jobs, launch, tuple(train), keep_models, sbatch)
        for text in found.texts("list" if isinstance(commands, bool) else commands):
            say(text)
        return SweepResult(folder, len(study.cells), len(done), {}, None)
    if tables:
        if not done or cells or dry_run:
            why = (
                "runs no cell, so leave out --cell and --dry-run" if done else f"finds no done cell in {str(folder)!r}"
            )
            raise InvalidInputError(f"--tables {why}.")
        return _finish(study, folder, {}, None)
    if cells:
        check_free(request)
    if todo:
        _check(request, done, launch, dry_run=dry_run, say=say)
    if dry_run:
        return SweepResult(folder, len(study.cells), len(done), {}, None)
    before = _changed(folder / "report.md")
    if todo:
        _begin(study, folder)
    if cells:
        failed = _run_here(todo, folder, keep_models, launch)
        _tidy_all(study, folder, keep_models)
        return SweepResult(folder, len(study.cells), len(done_cells(folder, study)), failed, None)
    failed = _run_all(study, todo, folder, jobs, {"keep_models": keep_models, "launch": launch}, say)
    _tidy_all(study, folder, keep_models)
    return _finish(study, folder, failed, before)


def _check(
    request: SweepRequest,
    done: Sequence[str] | dict[str, Any],
    launch: str | None,
    *,
    dry_run: bool,
    say: Callable[[str], None],
) -> None:
    """Check the recipes, evaluations and models of a study, and print its budget (see `sweep` for the arguments)."""
    study = request.study
    check_cells(study.cells)
    with tempfile.TemporaryDirectory() as scratch:
        budgets = check_budgets(study, Path(scratch), processes_of(launch))
    evaluations, unseen = check_evaluations(study.cells, dry_run=dry_run)
    unseen += check_models(request.todo, dry_run=dry_run)
    say(describe_budget(study, budgets, evaluations, len(done), unseen))


def _begin(study: Study, folder: Path) -> None:
    """Make the study's folder, and write study.json."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"study": study.name, "cells": {cell.name: cell.digest() for cell in study.cells}}
        with results_locked(folder):
            # A study of another name may have begun in this folder a moment ago.
            check_name(study, folder)
            write_whole(folder / "study.json", json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InvalidInputError(f"cannot write to {str(folder)!r} ({error.strerror or error}).") from error


def _run_here(todo: Sequence[Cell], folder: Path, keep_models: bool, launch: str | None) -> dict[str, str]:
    """Run cells in this process, one after another. Return a mapping from each failed cell's name to its error."""
    failed = {}
    for cell in todo:
        try:
            run_cell(cell, folder, keep_models=keep_models, launch=launch)
        except AntiphaseError as error:
            failed[cell.name] = str(error)
    return failed


def _run_all(
    study: Study, todo: Sequence[Cell], folder: Path, jobs: int, options: dict[str, Any], say: Callable[[str], None]
) -> dict[str, str]:
    """Make the models that are missing, then run every cell, each in its own process.

    Other processes may do the same in this folder at the same time.

    Returns:
        a mapping from the name of each model or cell that failed to its error message. All other cells were run.
    """
    needed = {cell.made.name for cell in todo if cell.made is not None}
    missing = [made for name, made in study.made().items() if name in needed and not is_made(made, folder)]
    makings = [
        Work(made.name, model_lock(made, folder), make_model, (made, folder), {"wait": False}) for made in missing
    ]
    failed = share(makings, jobs, lambda: {made.name for made in missing if is_made(made, folder)}, say, "model")
    runnable = [cell for cell in todo if cell.made is None or cell.made.name not in failed]
    works = [Work(cell.name, cell_lock(cell, folder), run_cell, (cell, folder), options) for cell in runnable]
    return failed | share(works, jobs, lambda: done_names(folder), say, "cell")


def _tidy_all(study: Study, folder: Path, keep_models: bool) -> None:
    """Clean up done cells whose process was killed after it stored the results, and before it kept the model."""
    done = done_names(folder)
    for cell in study.cells:
        if cell.name in done and (folder / "work" / cell.name).is_dir():
            with contextlib.suppress(InUseError):  # Its own process is just doing this.
                run_cell(cell, folder, keep_models=keep_models)


def _finish(study: Study, folder: Path, failed: dict[str, str], before: int | None) -> SweepResult:
    """Write the tables and figures of the cells that are done. If all are done, join their files into two files.

    If several sweeps of the same study shared the cells, the first one that calls this function writes the report, and
    the others only read it. A sweep of a changed study writes a new report, which replaces the old one.

    Args:
        study: the study.
        folder: the study's folder.
        failed: a mapping from the name of each model or cell that failed to its error message.
        before: the time at which report.md was last written before the cells were run. If None is given, the report is
            written in any case.
    """
    from antiphase.study.study_report import write_report

    with results_locked(folder):
        done = done_cells(folder, study)
        whole = len(done) == len(study.cells)
        made = _changed(folder / "report.md")
        packed = not any((folder / "cells" / f"{cell.name}.json").exists() for cell in study.cells)
        mark = folder / _MARK
        same = mark.is_file() and mark.read_text(encoding="utf-8") == study.digest()
        if before is not None and whole and packed and same and made > max(before, _changed(folder / RECORDS)):
            text = (folder / "report.md").read_text(encoding="utf-8")
            return SweepResult(folder, len(study.cells), len(done), failed, text)
        if whole:
            pack(folder, study)
        report = None
        if done:
            mark.unlink(missing_ok=True)
            report = write_report(study, load_cells(folder, study), folder, failed)
            write_whole(mark, study.digest())
    return SweepResult(folder, len(study.cells), len(done), failed, report)


def _changed(path: Path) -> int:
    """Return the time at which a file was last written, in nanoseconds; 0 if the file does not exist."""
    return path.stat().st_mtime_ns if path.exists() else 0
