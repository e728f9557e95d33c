"""The command `antiphase train`, which trains a model. TRL reads the arguments, and this module prints messages."""

import argparse
import sys
import warnings

from antiphase.commands.options import Parser
from antiphase.errors import AntiphaseError, MissingExtraError


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `train` to the parser, so that the help lists it. TRL parses the arguments of `train`."""
    commands.add_parser(
        "train",
        help="train a model by group-policy RL with the inversion score in its reward",
        description="Takes every argument of TRL's GRPO: antiphase train --config recipe.yaml [--flag value …].",
        add_help=False,
    )


def run(words: list[str]) -> int:
    """Train a model, and return the exit status: 0 after success, 2 after an error, 130 after an interruption.

    Args:
        words: the command-line arguments after `train`.
    """
    try:
        try:
            from antiphase.training.own_checks import check_command

            check_command(words)
            # This imports torch and TRL, so it comes after all checks.
            from antiphase.training.train import train
        except ModuleNotFoundError as error:
            raise MissingExtraError(str(error.name), "train", "training") from error
        with warnings.catch_warnings():
            # TRL and transformers warn about their next versions. A user can do nothing about these warnings.
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
        # Python, safetensors and torch raise different errors for a full disk.
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
