"""`antiphase eval`: its options, and what it prints."""

import argparse
from pathlib import Path
from typing import Any

from antiphase.commands.options import Help, Parser, add_model_options, add_signal_options, count, print_written


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command."""
    command = commands.add_parser(
        "eval",
        help="accuracy, pass@k and inversion of a model on the same rollouts",
        description="Sample completions of a task's problems, verify them, and measure the signals on those very "
        "rollouts.",
        formatter_class=Help,
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help="hub id, local directory, or 'demo'")
    add_task_options(command.add_argument_group("tasks"))
    add_sampling_options(command.add_argument_group("rollouts"))
    add_model_options(command.add_argument_group("model"))
    add_signal_options(command.add_argument_group("signals"), measured=True)
    output = command.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder to write to (default: runs/eval-DATE-TIME)")
    output.add_argument(
        "--resume", action="store_true", help="continue the interrupted evaluation in --out, or begin one there"
    )
    output.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures")
    output.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    output.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def add_task_options(group: "argparse._ArgumentGroup") -> None:
    """What is asked."""
    group.add_argument("--tasks", help="task specs with spaces or commas between them: gsm8k,math500,mine.py:MyTask")
    group.add_argument(
        "--suite",
        help="paper, math, logic or smoke: tasks with settings of their own; NAME:task=FILE reads local copies",
    )
    group.add_argument("--num-problems", type=count, help="of each task, or 'all' (default: the suite's, or all)")
    group.add_argument("--split", default="test", help="train, test or all")
    group.add_argument(
        "--prompt-template", help="text around every problem, with {prompt} in it (default: the task's)"
    )
    group.add_argument("--system-prompt", help="put before every problem")
    group.add_argument(
        "--no-chat-template", dest="chat_template", action="store_const", const=False, help="plain text prompts"
    )
    group.add_argument("--timeout", type=float, default=5.0, help="seconds that one verification may take")


def add_sampling_options(group: "argparse._ArgumentGroup") -> None:
    """How completions are drawn."""
    group.add_argument("--samples", type=int, help="sampled completions of each problem (default: the suite's, or 4)")
    group.add_argument(
        "--greedy",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a greedy completion of each problem beside the samples (default: yes)",
    )
    group.add_argument("--k", metavar="K[,…]", help="of pass@k, maj@k, best-of-k (default: 1, 2, 4, … samples)")
    group.add_argument(
        "--max-new-tokens", type=int, help="length limit of a completion (default: the suite's, or 1024)"
    )
    group.add_argument("--temperature", type=float, default=1.0, help="of the samples")
    group.add_argument("--top-p", type=float, default=1.0, help="nucleus of the samples")
    group.add_argument(
        "--end-token", dest="end_tokens", action="append", help="text of one token that ends a completion"
    )
    group.add_argument("--seed", type=int, default=0, help="of sampling, subsampling and bootstrap")
    group.add_argument("--engine", default="auto", help="auto, transformers, vllm")
    group.add_argument("--vllm-memory", type=float, default=0.45, help="share of the GPU's memory for vLLM")
    group.add_argument("--batch-size", type=int, default=16, help="rollouts generated and written at a time")
    group.add_argument("--rollouts", metavar="FILE", help="given rollouts (.jsonl/.parquet): nothing is generated")


def evaluation_options(options: dict[str, Any]) -> dict[str, Any]:
    """The parsed options in the form that `evaluate` takes.

    Raises:
        InvalidInputError: a malformed list.
    """
    from antiphase.errors import InvalidInputError
    from antiphase.tasks.specs import split_specs

    options = dict(options)
    options["tasks"] = split_specs(options["tasks"] or "")
    text = options["k"]
    try:
        options["k"] = None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidInputError(f"--k takes numbers with commas between them, such as 1,4,8; got {text!r}.") from None
    if options["end_tokens"] is not None:
        options["end_tokens"] = tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in options["end_tokens"])
    return options


def run(options: dict[str, Any], out: Path) -> None:
    """Evaluate and print the table."""
    from antiphase.evaluation.evaluate import evaluate

    options = evaluation_options(options)
    print(evaluate(options.pop("models"), out=out, **options))
    print_written(out)
