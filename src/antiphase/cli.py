"""The command line `antiphase`: it reads the arguments and runs the command that they name.

If antiphase raises one of its own errors, the error is printed as one line, and the exit status is 2. Each command
checks its arguments before it imports slow packages such as torch, so a wrong argument is refused at once.
"""

import argparse
import os
import select
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
from antiphase.runs.launch import Launch, launch
from antiphase.runs.voices import agreed_out, spoken, stop_once, tells_of_stop

_COMMANDS: dict[str, ModuleType] = {
    "probe": probe,
    "eval": evaluate,
    "compare": compare,
    "sweep": sweep,
    "report": report,
    "view": view,
    "check": check,
}
# These commands write no run folder.
_READERS = ("report", "view", "check")
# The work of these commands can be shared by several processes of a launcher.
_SHARED = ("probe", "eval")


def _parser() -> argparse.ArgumentParser:
    """Return the argument parser for all commands."""
    parser = Parser(prog="antiphase", description="Measure the Entropy-Gradient Inversion of reasoning models.")
    parser.add_argument("--version", action="version", version=f"antiphase {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (*_COMMANDS.values(), train):
        module.add(commands)
    return parser


def _version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("antiphase")
    except metadata.PackageNotFoundError:
        return "(not installed)"  # The package is run from a checkout.


def _default_out(command: str, options: dict[str, Any]) -> Path:
    """Return the output folder that a command gets if the user names none.

    Args:
        command: the name of the command.
        options: the options of the command. For `sweep`, the folder is named after the option `study`.
    """
    if command == "sweep":
        study: Path = options["study"]
        return study.with_name(f"results-{study.stem}")
    return Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"


def _left(out: Path) -> str | None:
    """Return the word for what a stopped run has left in its folder: `batches` or `rollouts`; None if it left nothing.

    `batches` stands for finished batches or finished checkpoints. `rollouts` stands for rollouts that a server has
    generated, if no batch is finished.
    """
    if any(any(out.glob(pattern)) for pattern in ("parts/*/*.parquet", "checkpoints/*/**/*.parquet")):
        return "batches"
    return "rollouts" if any(out.glob("parts/*/*.kept.jsonl")) else None


def _kept(out: Path) -> str:
    """Return the sentence that tells what an interrupted run has kept, and how to continue the run."""
    left = _left(out)
    if left is None:
        return "No batch was finished."
    return f"Finished {left} are kept: repeat the command with --out {out} --resume."


def _kept_despite(error: AntiphaseError, out: Path, *, resumed: bool) -> str:
    """Return the sentence that tells which results of a run are kept although it ended with an error.

    The sentence also says how to continue the run. If the input was wrong, this part is left out, since the same
    command would fail again. The result is an empty text in two cases: nothing was finished, or the input of a resumed
    run was wrong.

    Args:
        error: the error.
        out: the folder of the run.
        resumed: whether the run was itself the continuation of an earlier run.
    """
    left = _left(out)
    if left is None:
        return ""
    if not isinstance(error, InvalidInputError):
        return f" {_kept(out)}"
    return "" if resumed else f" Finished {left} are kept in {out}."


def _reader_is_gone() -> bool:
    """Return whether the standard output is a pipe whose reader has ended, such as `head`.

    The pipe itself is asked. An attempt to write would show nothing if no output is left to write.
    """
    if not hasattr(select, "poll"):  # Windows has no `poll`.
        return False
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False  # The output is captured, or it is closed.
    watch = select.poll()
    watch.register(descriptor, 0)  # POLLERR is reported without being asked for.
    return any(events & select.POLLERR for _, events in watch.poll(0))


def _throw_output_away() -> None:
    """Send what is still printed to nowhere: Python flushes the output when it ends, and would print an error then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Args:
        arguments: the words after `antiphase`; None reads them from `sys.argv`.

    Returns:
        The exit status: 0 after success, 2 after an error of antiphase, 130 after an interruption, 141 if the program
        that reads the output (such as `head`) ended first.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        return train.run(words[1:])
    options = vars(_parser().parse_args(arguments))
    command, out, resumed = options.pop("command"), options.pop("out", None), bool(options.get("resume"))
    chosen = out is not None
    writes = command not in _READERS
    if writes:
        out = out or _default_out(command, options)
    launched = Launch()
    try:
        launched = launch()
        stop_once(launched)
        if command not in _SHARED:
            launched.refuse(f"antiphase {command}", "Start it without the launcher.")
        elif not chosen:
            out = Path(agreed_out(launched, str(out)))
        _COMMANDS[command].run(options, out)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        _throw_output_away()
        return 141
    except AntiphaseError as error:
        text = spoken(error, launched)
        if text is not None:
            kept = _kept_despite(error, out, resumed=resumed) if writes else ""
            print(f"antiphase: error: {text}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if tells_of_stop(launched):
            if command == "sweep":
                kept = " Done cells are kept: repeat the command to go on."
            else:
                kept = f" {_kept(out)}" if writes else ""
            print(f"antiphase: interrupted.{kept}", file=sys.stderr)
        return 130
    return 0
