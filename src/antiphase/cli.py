"""The command `antiphase`. Parses, calls the library, prints; errors of ours end with one line and status 2."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from antiphase.commands import compare, evaluate, report, sweep
from antiphase.commands.options import Help, Parser, add_model_options, add_signal_options, count, print_written
from antiphase.errors import AntiphaseError, InvalidInputError, MissingExtraError


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="antiphase", description="Measure the Entropy-Gradient Inversion of reasoning models.")
    parser.add_argument("--version", action="version", version=f"antiphase {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_probe(commands)
    evaluate.add(commands)
    compare.add(commands)
    sweep.add(commands)
    report.add(commands)
    commands.add_parser(
        "train",
        help="train a model by group-policy RL with the inversion score in its reward",
        description="Takes every argument of TRL's GRPO: antiphase train --config recipe.yaml [--flag value …].",
        add_help=False,
    )
    return parser


def _version() -> str:
    try:
        return metadata.version("antiphase")
    except metadata.PackageNotFoundError:
        return "(not installed)"  # run from a checkout's src/


def _add_probe(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = commands.add_parser(
        "probe",
        help="measure how token entropy and gradient strength are correlated over a model's rollouts",
        description="Generate (or read) rollouts, measure token entropy and gradient strength, correlate them.",
        formatter_class=Help,
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="hub id, local directory, or 'demo'")
    command.add_argument(
        "--checkpoints",
        metavar="DIR_OR_LIST",
        help="in place of models, ρ along a training: a trainer's output folder (its checkpoint-N), or checkpoints "
        "with commas (folders, HUB-ID@REVISION)",
    )
    add_model_options(command.add_argument_group("model"))
    _add_rollout_options(command.add_argument_group("rollouts"))
    add_signal_options(command.add_argument_group("signals"))
    output = command.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder to write to (default: runs/probe-DATE-TIME)")
    output.add_argument(
        "--resume", action="store_true", help="continue the interrupted run in --out, or begin one there"
    )
    output.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures")
    output.add_argument(
        "--no-references",
        dest="references",
        action="store_false",
        help="with --checkpoints: draw no published curves beside",
    )
    output.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    output.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def _add_rollout_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--prompts", default="gsm8k", help="gsm8k, a .jsonl/.parquet file, or owner/name[:config[:split]]"
    )
    group.add_argument("--prompt-column", help="column of the prompt (default: prompt, question, problem, messages)")
    group.add_argument("--num-prompts", type=count, help="how many, or 'all' (default: at most 16; all of --rollouts)")
    group.add_argument("--prompt-template", help="text around every prompt, with {prompt} in it")
    group.add_argument("--system-prompt", help="put before every prompt")
    group.add_argument("--no-chat-template", dest="chat_template", action="store_false", help="plain text prompts")
    group.add_argument("--samples", type=int, default=1, help="completions per prompt")
    group.add_argument("--max-new-tokens", type=int, default=128, help="length limit of a completion")
    group.add_argument("--temperature", type=float, default=1.0, help="of the sampling; 0 is greedy")
    group.add_argument("--top-p", type=float, default=1.0, help="nucleus of the sampling")
    group.add_argument("--seed", type=int, default=0, help="of sampling, subsampling and bootstrap")
    group.add_argument("--batch-size", type=int, default=16, help="rollouts generated and written at a time")
    group.add_argument("--rollouts", metavar="FILE", help="given rollouts (.jsonl/.parquet): nothing is generated")
    group.add_argument("--share-rollouts", action="store_true", help="measure every model on the first one's rollouts")
    group.add_argument("--allow-short", action="store_true", help="accept given rollouts below --min-tokens")


def _run_probe(options: dict[str, Any], out: Path) -> None:
    models, checkpoints = options.pop("models"), options.pop("checkpoints")
    if checkpoints is not None:
        _run_checkpoints(models, checkpoints, options, out)
        return
    if not models:
        raise InvalidInputError("name at least one model, or the checkpoints of one with --checkpoints.")
    from antiphase.probing.probe import probe

    del options["references"]
    fingerprint = probe(models, out=out, **options)
    print(fingerprint)
    print_written(out)


def _run_checkpoints(models: Sequence[str], checkpoints: str, options: dict[str, Any], out: Path) -> None:
    if models:
        raise InvalidInputError(
            f"{models[0]!r} is named beside --checkpoints. To begin the trajectory with it, put it in the list: "
            f"--checkpoints {models[0]},{checkpoints}."
        )
    from antiphase.probing.series import probe_checkpoints

    print(probe_checkpoints(checkpoints, out=out, **options))
    print_written(out, beside="checkpoints")


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
    """What a refused run leaves behind. What was refused once would be refused again, so it is not to be repeated."""
    if not _began(out):
        return ""
    if not isinstance(error, InvalidInputError):
        return f" {_kept(out)}"
    return "" if resumed else f" Finished batches are kept in {out}."


def _main_train(words: list[str]) -> int:
    try:
        try:
            from antiphase.training.train import train
        except ModuleNotFoundError as error:
            raise MissingExtraError(str(error.name), "train", "training") from error
        with warnings.catch_warnings():
            # What TRL and transformers tell each other of their next versions is nothing that a user could mend.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", ".*pin_memory.*", UserWarning)
            result = train(words)
    except AntiphaseError as error:
        print(f"antiphase: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("antiphase: interrupted. Continue from the last checkpoint with --resume.", file=sys.stderr)
        return 130
    except Exception as error:
        # Python, safetensors and torch each raise their own.
        if "No space left" not in str(error):
            raise
        print(
            "antiphase: error: the disk is full. Free some space and continue from the last checkpoint with --resume.",
            file=sys.stderr,
        )
        return 2
    if result.interrupted:
        print(f"antiphase: stopped. Continue with --resume; everything so far is in {result.folder}.", file=sys.stderr)
        return 130
    if result.summary is not None:
        print(
            f"written to {result.folder}: model, README.md, summary.json, trajectory.jsonl, report.html, "
            "figures/trajectory.png"
        )
    return 0


_COMMANDS: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "probe": _run_probe,
    "eval": evaluate.run,
    "compare": compare.run,
    "sweep": sweep.run,
    "report": report.run_report,
    "view": report.run_view,
}
# What writes no run folder.
_READERS = ("report", "view")


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
    """Run the command; returns the exit status (2: the input is wrong, 130: interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        return _main_train(words[1:])
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
