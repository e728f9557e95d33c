"""The command `antiphase sweep`, which runs the cells of a study and prints their comparison."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from antiphase.commands.options import Help, Parser
from antiphase.errors import AntiphaseError, MissingExtraError


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `sweep`, with its options, to the parser of `antiphase`."""
    command = commands.add_parser(
        "sweep",
        help="train and evaluate a grid of methods, seeds, models and settings, and compare",
        description="Run the cells of a study one after another. To continue a stopped sweep, repeat the command: "
        "finished cells are skipped, and an interrupted cell continues. Several sweeps may run in one folder at the "
        "same time; they share the cells.",
        formatter_class=Help,
    )
    command.add_argument("study", type=Path, metavar="STUDY.yaml", help="file of the study (see docs/evaluate.md)")
    command.add_argument("--out", type=Path, help="folder to write to (default: results-NAME beside NAME.yaml)")
    command.add_argument(
        "--cell",
        dest="cells",
        action="append",
        default=[],
        metavar="CELL",
        help="run only this cell (one model, setting, method and seed); may be repeated",
    )
    command.add_argument("--jobs", type=int, default=1, help="number of cells that run at the same time")
    command.add_argument(
        "--launch",
        metavar="COMMAND",
        help="command that starts every training, such as 'accelerate launch --num_processes 8'",
    )
    command.add_argument(
        "--train",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a training option of the study, such as gradient_accumulation_steps=1; may be repeated",
    )
    command.add_argument("--keep-models", action="store_true", help="keep the trained models in OUT/models")
    command.add_argument("--dry-run", action="store_true", help="check everything, print the total budget, and stop")
    command.add_argument(
        "--print-commands",
        dest="commands",
        nargs="?",
        choices=("shell", "slurm"),
        const="list",
        default=False,
        help="print a command for each unfinished cell and stop; with shell or slurm, print a script for bash or for "
        "Slurm that runs them all",
    )
    command.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="sbatch's options for a cell, with --print-commands slurm, such as --sbatch='--gpus=1 --time=4:00:00'",
    )
    command.add_argument("--tables", action="store_true", help="run no cell; make the tables of the finished cells")


def run(options: dict[str, Any], out: Path) -> None:
    """Run the study and print its tables.

    Raises:
        AntiphaseError: some cells failed. A cell is a combination of a model, a setting, a method and a seed. The
            cells that did not fail are finished.
    """
    path = options.pop("study")
    try:
        from antiphase.study.request import check_cells, check_free, sweep_request

        asked = {name: options[name] for name in ("cells", "jobs", "train")}
        request = sweep_request(path, out, **asked)
        if not (options["commands"] or options["tables"]):
            if options["cells"]:
                check_free(request)
            if request.todo:
                check_cells(request.study.cells)
        # This imports torch, so it comes after all checks.
        from antiphase.study.sweep import sweep
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "eval", "a sweep") from error

    with warnings.catch_warnings():
        # TRL and transformers warn about their next versions. A user can do nothing about these warnings.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", ".*pin_memory.*", UserWarning)
        result = sweep(path, out, say=lambda line: print(line, flush=True), **options)
    if result.report is not None:
        print(result.report)
    if result.failed:
        first, why = next(iter(result.failed.items()))
        raise AntiphaseError(
            f"{len(result.failed)} of {result.num_cells} failed: {first}: {why}. Repeat the command to try them again."
        )
