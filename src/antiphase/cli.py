"""The command `antiphase`: it finds the command and runs it. An error of antiphase ends with one line and status 2.

Each command checks its arguments before it imports what computes. So a wrong argument is refused at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from antiphase.commands import check, compare, evaluate, probe, report, sweep, train, view
from antiphase.commands.options import Parser
from antiphase.errors import AntiphaseError, InvalidInputError


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="antiphase", description="Measure the Entropy-Gradient Inversion of reasoning models.")
    parser.add_argument("--version", action="version", version=f"antiphase {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    probe.add(commands)
    evaluate.add(commands)
    compare.add(commands)
    sweep.add(commands)
    report.add(commands)
    view.add(commands)
    check.add(commands)
    train.add(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("antiphase")
    except metadata.PackageNotFoundError:
        return "(not installed)"  # The package is run from a checkout.


def _default_out(command: str, options: dict[str, Any]) -> Path:
    if command == "sweep":
        study: Path = options["study"]
        return study.with_name(f"results-{study.stem}")
    return Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"


def _began(out: Path) -> bool:
    """Whether an interrupted run left finished batches, or finished checkpoints, behind."""
    return any(any(out.glob(pattern)) for pattern in ("parts/*/*.parquet", "checkpoints/*/**/*.parquet"))


def _kept(out: Path) -> str:
    """What an interrupted run leaves behind, and how to go on."""
    if not _began(out):
        return "No batch was finished."
    return f"Finished batches are kept: repeat the command with --out {out} --resume."


def _kept_despite(error: AntiphaseError, out: Path, *, resumed: bool) -> str:
    """What a refused run leaves behind. The same command would be refused again, so repeating it is not advised."""
    if not _began(out):
        return ""
    if not isinstance(error, InvalidInputError):
        return f" {_kept(out)}"
    return "" if resumed else f" Finished batches are kept in {out}."


_COMMANDS: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "probe": probe.run,
    "eval": evaluate.run,
    "compare": compare.run,
    "sweep": sweep.run,
    "report": report.run,
    "view": view.run,
    "check": check.run,
}
# Commands that write no run folder.
_READERS = ("report", "view", "check")


def _main_reader(command: str, options: dict[str, Any]) -> int:
    try:
        _COMMANDS[command](options, options.pop("out", None))
    except AntiphaseError as error:
        print(f"antiphase: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("antiphase: interrupted.", file=sys.stderr)
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 if the input is wrong, 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        return train.run(words[1:])
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    if command in _READERS:
        return _main_reader(command, options)
    out, resumed = options.pop("out") or _default_out(command, options), bool(options.get("resume"))
    try:
        _COMMANDS[command](options, out)
    except AntiphaseError as error:
        print(f"antiphase: error: {error}{_kept_despite(error, out, resumed=resumed)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "Done cells are kept: repeat the command to go on." if command == "sweep" else _kept(out)
        print(f"antiphase: interrupted. {kept}", file=sys.stderr)
        return 130
    return 0
