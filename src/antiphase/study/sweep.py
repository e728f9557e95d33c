"""`sweep`: run the cells of a study, each in its own process, and compare their results.

    OUT/study.json       the study's name and cells
    OUT/models, work     see `cells`
    OUT/cells/           done cells; packed into the two files below once all are done
    OUT/cells.jsonl, rollouts.parquet
    OUT/tables/, figures/, report.md

A cell is one model, setting, method and seed. A cell that is done is never run again. A cell that was interrupted
continues from its last checkpoint or last finished batch.
"""

import json
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.study.budget import check_budgets, check_evaluations, check_models, describe_budget
from antiphase.study.cells import is_made, make_model, run_cell
from antiphase.study.definition import Cell, Study
from antiphase.study.launch import processes_of
from antiphase.study.records import done_cells
from antiphase.study.request import check_cells, sweep_request
from antiphase.study.store import load_cells, pack
from antiphase.training.out_folder import write_whole

PRELOAD = ["antiphase.training.train", "antiphase.evaluation.evaluate"]


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
        AntiphaseError: the study is malformed, its methods have unequal budgets, a model does not exist, or a cell in
            OUT was run with other options.
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
    if todo:
        check_cells(study.cells)
        with tempfile.TemporaryDirectory() as scratch:
            budgets = check_budgets(study, Path(scratch), processes_of(launch))
        evaluations, unseen = check_evaluations(study.cells, dry_run=dry_run)
        unseen += check_models(todo, dry_run=dry_run)
        say(describe_budget(study, budgets, evaluations, len(done), unseen))
    if dry_run:
        return SweepResult(folder, len(study.cells), len(done), {}, None)
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
    failed = _in_processes([(made.name, make_model, (made, folder)) for made in missing], jobs, say, "model")
    runnable = [cell for cell in todo if cell.made is None or cell.made.name not in failed]
    calls = [(cell.name, run_cell, (cell, folder)) for cell in runnable]
    return failed | _in_processes(calls, jobs, say, "cell", options)


def _in_processes(
    calls: Sequence[tuple[str, Callable[..., Any], tuple[Any, ...]]],
    jobs: int,
    say: Callable[[str], None],
    what: str,
    options: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Run functions, each in its own process, and print a line when one has ended.

    Args:
        calls: the name, function and positional arguments of each call.
        jobs: number of processes that run at the same time.
        say: a function that prints one line.
        what: what a call is, for the printed lines: `model` or `cell`.
        options: keyword arguments of every call.

    Returns:
        the error messages of calls that failed, by name.
    """
    failed: dict[str, str] = {}
    context, began = _context(), time.time()
    processes: list[Any] = []
    with ThreadPoolExecutor(jobs) as threads:
        names = {
            threads.submit(_one_process, context, processes, function, arguments, options or {}): name
            for name, function, arguments in calls
        }
        try:
            for finished, future in enumerate(as_completed(names), 1):
                name, (error, seconds) = names[future], future.result()
                if error is not None:
                    failed[name] = error
                left = (time.time() - began) / finished * (len(calls) - finished)
                state = "done" if error is None else f"FAILED: {error}"
                say(
                    f"{what} {finished}/{len(calls)} {name}: {state} ({seconds:.0f} s; about {left / 60:.0f} min left)"
                )
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                process.terminate()  # A training finishes its step and saves a checkpoint.
            raise
    return failed


def _context() -> Any:
    """Return the multiprocessing context that starts the processes.

    A new process is forked from a server process, which has imported everything but has no other threads and has not
    used the GPU. On a system without such a server, every process is started anew.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _one_process(
    context: Any,
    processes: list[Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[str | None, float]:
    """Run a function in a new process.

    Args:
        context: the multiprocessing context that starts the process.
        processes: the list of running processes, through which the caller can end them.
        function, arguments, options: the call to make.

    Returns:
        the error message, which is None if the call succeeded, and the seconds that it took.
    """
    began = time.time()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments, options))
    process.start()
    processes.append(process)
    sender.close()
    try:
        message = receiver.recv()
    except EOFError:
        message = None
    process.join()
    processes.remove(process)
    if message is None:
        message = f"its process ended with status {process.exitcode}"
    return message or None, time.time() - began


def _child(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Run a function in this new process, and send its error message, or "" if it succeeded."""
    import warnings

    _end_with_parent()
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", ".*pin_memory.*", UserWarning)
    # Each cell prints to its own log, so that the lines of the sweep stay readable.
    log = arguments[1] / "logs" / f"{arguments[0].name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        function(*arguments, **options)
        sender.send("")
    except KeyboardInterrupt:
        sender.send("interrupted")
    # An error in one cell must not stop the others. It is printed to the log and returned.
    except Exception as error:  # noqa: BLE001
        import traceback

        traceback.print_exc()
        sender.send(
            " ".join(f"{'' if isinstance(error, AntiphaseError) else type(error).__name__ + ': '}{error}".split())
        )


def _end_with_parent() -> None:
    """End this process and its children as soon as the process of the sweep ends, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform == "win32":
        return
    os.setpgid(0, 0)

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _finish(study: Study, folder: Path, failed: dict[str, str]) -> SweepResult:
    """Write the tables and figures of the cells (models) that are done. If all are done, join their files into two."""
    from antiphase.study.study_report import write_report

    done = done_cells(folder, study)
    if len(done) == len(study.cells):
        pack(folder, study)
    report = write_report(study, load_cells(folder, study), folder, failed) if done else None
    return SweepResult(folder, len(study.cells), len(done), failed, report)
