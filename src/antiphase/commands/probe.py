"""The command `antiphase probe`, which probes models or the checkpoints of a training and prints the table."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphase.commands.options import (
    Help,
    Parser,
    add_adapter_option,
    add_chat_options,
    add_drawing_options,
    add_model_options,
    add_output_options,
    add_signal_options,
    count,
    print_written,
)
from antiphase.errors import InvalidInputError


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `probe`, with its options, to the parser of `antiphase`."""
    command = commands.add_parser(
        "probe",
        help="measure how token entropy and gradient strength are correlated over a model's rollouts",
        description="Generate (or read) rollouts, measure token entropy and gradient strength, correlate them.",
        formatter_class=Help,
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="hub id, local directory, GGUF file, or 'demo'")
    command.add_argument(
        "--checkpoints",
        metavar="DIR_OR_LIST",
        help="measure the checkpoints of one training instead of models: a trainer's output folder with its "
        "checkpoint-N folders, or a list with commas (folders, HUB-ID@REVISION)",
    )
    model = command.add_argument_group("model")
    add_model_options(model)
    add_adapter_option(model)
    _add_rollout_options(command.add_argument_group("rollouts"))
    add_signal_options(command.add_argument_group("signals"))
    output = command.add_argument_group("output")
    add_output_options(output, "probe")
    output.add_argument(
        "--no-references",
        dest="references",
        action="store_false",
        help="with --checkpoints: do not draw the published curves in the figure",
    )


def _add_rollout_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--prompts", default="gsm8k", help="gsm8k, a .jsonl/.parquet file, or owner/name[:config[:split]]"
    )
    group.add_argument("--prompt-column", help="column of the prompt (default: prompt, question, problem, messages)")
    group.add_argument(
        "--num-prompts",
        type=count,
        help="number of prompts, or 'all' (default: at most 16; with --rollouts, all)",
    )
    group.add_argument("--prompt-template", help="text around every prompt, with {prompt} in it")
    group.add_argument("--system-prompt", help="system message before every prompt")
    group.add_argument(
        "--no-chat-template",
        dest="chat_template",
        action="store_false",
        help="give the prompts as plain text, without the model's chat template",
    )
    add_chat_options(group)
    group.add_argument(
        "--continue-final",
        action="store_true",
        help="let the model continue a chat whose last message is the assistant's",
    )
    group.add_argument("--samples", type=int, default=1, help="number of completions of each prompt")
    group.add_argument("--max-new-tokens", type=int, default=128, help="length limit of a completion")
    add_drawing_options(group)
    group.add_argument(
        "--share-rollouts", action="store_true", help="measure all models on the first model's completions"
    )
    group.add_argument(
        "--allow-short", action="store_true", help="accept given rollouts with fewer tokens than --min-tokens"
    )


def run(options: dict[str, Any], out: Path) -> None:
    """Probe the models or the checkpoints, and print the table of results.

    Raises:
        InvalidInputError: neither models nor checkpoints are named, or both are.
    """
    models, checkpoints = options.pop("models"), options.pop("checkpoints")
    if checkpoints is not None:
        _run_checkpoints(models, checkpoints, options, out)
        return
    if not models:
        raise InvalidInputError(
            "no model is named: name at least one model, or the checkpoints of one model with --checkpoints."
        )
    from antiphase.probing.request import probe_request

    progress = options.pop("progress")
    del options["references"]
    request = probe_request(models, out=out, **options)
    # This imports torch, so it comes after all checks.
    from antiphase.probing.probe import share_probe

    found = share_probe(request, progress=progress)
    if found is not None:
        print(found)
        print_written(out)


def _run_checkpoints(models: Sequence[str], checkpoints: str, options: dict[str, Any], out: Path) -> None:
    if models:
        raise InvalidInputError(
            f"give models or --checkpoints, not both; got the model {models[0]!r} too. To measure this model as the "
            f"first checkpoint, put it in the list: --checkpoints {models[0]},{checkpoints}."
        )
    from antiphase.probing.request import series_request

    shown = {name: options.pop(name) for name in ("references", "progress")}
    request = series_request(checkpoints, out=out, **options)
    from antiphase.probing.series import run_series

    print(run_series(request, **shown))
    print_written(out, beside="checkpoints")
