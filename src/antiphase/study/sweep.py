"""`sweep`: run the cells of a study, each in its own process, and compare their results.

    OUT/study.json       the study's name and cells
    OUT/models, work     see `cells`
    OUT/cells/           done cells; packed into the two files below once all are done
    OUT/cells.jsonl, rollouts.parquet
    OUT/tables/, figures/, report.md

A cell is one model, setting, method and seed. A cell that is done is never run again. A cell that was interrupted
continues from its last checkpoint or last finished batch.
"""

import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.runs.folder_lock import check_unused, only_writer
from antiphase.study.budget import check_budgets, check_evaluations, check_models, describe_budget
from antiphase.study.cells import is_made, make_model, run_cell
from antiphase.study.grid import Cell, Study
from antiphase.study.launch import processes_of
from antiphase.study.processes import in_processes
from antiphase.study.records import done_cells
from antiphase.study.request import check_cells, sweep_request
from antiphase.study.store import load_cells, pack
from antiphase.training.out_folder import write_whole


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Args:
        out: the study's folder.
        num_cells: number of cells of the study. A cell is one model, setting, method and seed.
        num_done: number of these cells that are done.
        failed: the error messages of cells and models that failed, by name.
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
    commands: bool = False,
    launch: str | None = None,
    train: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> SweepResult:
    """Run the cells of a study, and write its tables and figures.

    A cell is one model, setting, method and seed. A cell that fails does not stop the others.

    Args:
        path: the file STUDY.yaml.
        out: folder that everything is written to (OUT). Cells that are done there are skipped.
        cells: names of cells. Only these are run, in this process, and no tables are made. By default all cells are
            run.
        jobs: number of cells that run at the same time.
        keep_models: whether to keep trained models in OUT/models.
        dry_run: whether to print the budget and stop.
        commands: whether to print a command for each cell that is not done, for a job scheduler, and stop.
        launch: the launcher's command for every training, such as `accelerate launch --num_processes 8`.
        train: changes of the study's shared `train` keys, each of the form `KEY=VALUE`.
        say: a function that prints one line.

    Raises:
        AntiphaseError: the study is malformed, its methods have unequal budgets, a model does not exist, a cell in OUT
            was run with other options, or another sweep is writing to OUT. Several processes may write to OUT if each
            of them runs `cells` of its own.
    """
    request = sweep_request(path, out, cells=cells, jobs=jobs, train=train)
    study, folder, done, todo = request.study, request.folder, request.done, request.todo
    if commands:
        for cell in todo:
            words = [sys.executable, "-m", "antiphase", "sweep", str(path), "--out", str(folder), "--cell", cell.name]
            words += [word for change in train for word in ("--train", change)]
            words += [] if launch is None else ["--launch", launch]
            say(shlex.join(words))
        return SweepResult(folder, len(study.cells), len(done), {}, None)
    if not (cells or dry_run):
        check_unused(folder)
    if todo:
        check_cells(study.cells)
        with tempfile.TemporaryDirectory() as scratch:
            budgets = check_budgets(study, Path(scratch), processes_of(launch))
        evaluations, unseen = check_evaluations(study.cells, dry_run=dry_run)
        unseen += check_models(todo, dry_run=dry_run)
        say(describe_budget(study, budgets, evaluations, len(done), unseen))
    if dry_run:
        return SweepResult(folder, len(study.cells), len(done), {}, None)
    with contextlib.nullcontext() if cells else only_writer(folder):
        failed: dict[str, str] = {}
        if todo:
            _begin(study, folder)
            failed = (
                _run_here(todo, folder, keep_models, launch)
                if cells
                else _run_all(study, todo, folder, jobs, {"keep_models": keep_models, "launch": launch}, say)
            )
        if cells:
            return SweepResult(folder, len(study.cells), len(done_cells(folder, study)), failed, None)
        return _finish(study, folder, failed)


def _begin(study: Study, folder: Path) -> None:
    """Make the study's folder, and write study.json."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"study": study.name, "cells": {cell.name: cell.digest() for cell in study.cells}}
        write_whole(folder / "study.json", json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InvalidInputError(f"cannot write to {str(folder)!r} ({error.strerror or error}).") from error


def _run_here(todo: Sequence[Cell], folder: Path, keep_models: bool, launch: str | None) -> dict[str, str]:
    """Run cells in this process, one after another. Return the error messages of those that failed, by name."""
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

    Returns:
        the error messages of models and cells that failed, by name. The others were still run.
    """
    needed = {cell.made.name for cell in todo if cell.made is not None}
    missing = [made for name, made in study.made().items() if name in needed and not is_made(made, folder)]
    failed = in_processes([(made.name, make_model, (made, folder)) for made in missing], jobs, say, "model")
    runnable = [cell for cell in todo if cell.made is None or cell.made.name not in failed]
    calls = [(cell.name, run_cell, (cell, folder)) for cell in runnable]
    return failed | in_processes(calls, jobs, say, "cell", options)


def _finish(study: Study, folder: Path, failed: dict[str, str]) -> SweepResult:
    """Write the tables and figures of the cells (models) that are done. If all are done, join their files into two."""
    from antiphase.study.study_report import write_report

    done = done_cells(folder, study)
    if len(done) == len(study.cells):
        pack(folder, study)
    report = write_report(study, load_cells(folder, study), folder, failed) if done else None
    return SweepResult(folder, len(study.cells), len(done), failed, report)
