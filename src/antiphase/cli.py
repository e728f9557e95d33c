"""The command `antiphase`: it finds the command and runs it. An error of antiphase ends with one line and status 2.

Each command checks its arguments before it imports what computes. So a wrong argument is refused at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from antiphase.commands import check, compare, evaluate, probe, report, sweep, train, view
from antiphase.commands.options import Parser
from antiphase.errors import AntiphaseError, InvalidInputError

_COMMANDS: dict[str, ModuleType] = {
    "probe": probe,
    "eval": evaluate,
    "compare": compare,
    "sweep": sweep,
    "report": report,
    "view": view,
    "check": check,
}
# Commands that write no run folder.
_READERS = ("report", "view", "check")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="antiphase", description="Measure the Entropy-Gradient Inversion of reasoning models.")
    parser.add_argument("--version", action="version", version=f"antiphase {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (*_COMMANDS.values(), train):
        module.add(commands)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 if the input is wrong, 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        return train.run(words[1:])
    options = vars(_parser().parse_args(arguments))
    command, out, resumed = options.pop("command"), options.pop("out", None), bool(options.get("resume"))
    writes = command not in _READERS
    if writes:
        out = out or _default_out(command, options)
    try:
        _COMMANDS[command].run(options, out)
    except AntiphaseError as error:
        kept = _kept_despite(error, out, resumed=resumed) if writes else ""
        print(f"antiphase: error: {error}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if command == "sweep":
            kept = " Done cells are kept: repeat the command to go on."
        else:
            kept = f" {_kept(out)}" if writes else ""
        print(f"antiphase: interrupted.{kept}", file=sys.stderr)
        return 130
    return 0
