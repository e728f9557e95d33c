"""The command `antiphase compare`, which compares evaluations and prints the tables."""

import argparse
from pathlib import Path
from typing import Any

from antiphase.commands.evaluate import add_sampling_options, add_task_options, evaluation_options
from antiphase.commands.options import Help, Parser, add_model_options, add_signal_options, print_written


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `compare`, with its options, to the parser of `antiphase`."""
    command = commands.add_parser(
        "compare",
        help="evaluations side by side: differences with intervals, and what this much data can show",
        description="Compare evaluations (folders of antiphase eval) or models, which are evaluated first.",
        formatter_class=Help,
    )
    command.add_argument(
        "entries",
        nargs="+",
        metavar="[NAME=]RUN[,RUN…]",
        help="an entrant, which is a side of the comparison: the folder of an evaluation, a pattern of folders, or a "
        "model, which is evaluated first; several with commas are seeds of one entrant",
    )
    group = command.add_argument_group("comparison")
    group.add_argument("--reference", help="entrant that the others are compared with (default: the first)")
    group.add_argument(
        "--paired-seeds",
        action="store_true",
        help="pair the seeds: seed i of every entrant had the same data and the same initial model",
    )
    group.add_argument("--smallest", type=float, default=0.05, help="smallest difference in accuracy that matters")
    group.add_argument(
        "--allow-mismatch",
        action="store_true",
        help="compare on the shared problems even if prompts, token budgets, verifiers or estimators differ",
    )
    group.add_argument("--out", type=Path, help="folder to write to (default: runs/compare-DATE-TIME)")
    group.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures")
    group.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    group.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    add_task_options(command.add_argument_group("tasks, where models are given"))
    add_sampling_options(command.add_argument_group("rollouts, where models are given"))
    add_model_options(command.add_argument_group("model, where models are given"))
    add_signal_options(command.add_argument_group("signals, where models are given"), measured=True)


def run(options: dict[str, Any], out: Path) -> None:
    """Compare the evaluations, and print the tables."""
    from antiphase.evaluation.entries import Options, check_comparison

    own = {name: options.pop(name) for name in ("reference", "paired_seeds", "smallest", "allow_mismatch")}
    entries, figures, report = options.pop("entries"), options.pop("figures"), options.pop("report")
    evaluation = evaluation_options(options)
    chosen = Options(**own)
    check_comparison(entries, chosen, out=out, evaluation=evaluation)
    # These import torch, so they come after all checks.
    from antiphase.evaluation.compare import compare
    from antiphase.evaluation.comparison_formats import render_comparison

    found = compare(entries, chosen, out=out, figures=figures, report=report, evaluation=evaluation)
    print(render_comparison(found))
    print_written(out)
