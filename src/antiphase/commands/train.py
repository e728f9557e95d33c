"""`antiphase train`: its words, which are read by the host's own parser, and what it prints."""

import argparse
import sys
import warnings

from antiphase.commands.options import Parser
from antiphase.errors import AntiphaseError, MissingExtraError


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command, for the list of commands alone: its words go to `run` as they are."""
    commands.add_parser(
        "train",
        help="train a model by group-policy RL with the inversion score in its reward",
        description="Takes every argument of TRL's GRPO: antiphase train --config recipe.yaml [--flag value …].",
        add_help=False,
    )


def run(words: list[str]) -> int:
    """Train; returns the exit status."""
    try:
        try:
            from antiphase.training.own_checks import check_command

            check_command(words)
            # Only now, since it imports torch and TRL.
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
