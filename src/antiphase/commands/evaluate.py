"""The command `antiphase eval`, which evaluates models and prints the table. `compare` has some of these options."""

import argparse
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


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `eval`, with its options, to the parser of `antiphase`."""
    command = commands.add_parser(
        "eval",
        help="accuracy, pass@k and inversion of a model on the same rollouts",
        description="Generate completions of a task's problems, verify them, and measure the signals on the same "
        "rollouts.",
        formatter_class=Help,
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help="hub id, local directory, GGUF file, or 'demo'")
    add_task_options(command.add_argument_group("tasks"))
    add_sampling_options(command.add_argument_group("rollouts"))
    model = command.add_argument_group("model")
    add_model_options(model)
    add_adapter_option(model)
    add_signal_options(command.add_argument_group("signals"), measured=True)
    add_output_options(command.add_argument_group("output"), "eval")


def add_task_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say which problems the model gets, and which text is put around each problem."""
    group.add_argument(
        "--tasks",
        help="task specs with spaces or commas between them: gsm8k,math500,mine.py:MyTask; a spec may say "
        "samples and k for its task: gsm8k:samples=4,aime24:samples=64,k=1|8",
    )
    group.add_argument(
        "--suite",
        help="paper, math, logic or smoke: tasks with settings of their own; NAME:task=FILE reads local copies",
    )
    group.add_argument(
        "--num-problems",
        type=count,
        help="number of problems of each task, or 'all' (default: the suite's number, or all)",
    )
    group.add_argument("--split", default="test", help="problems that are used: train, test or all")
    group.add_argument(
        "--prompt-template", help="text around every problem, with {prompt} in it (default: the task's)"
    )
    group.add_argument("--system-prompt", help="system message before every problem")
    group.add_argument(
        "--no-chat-template",
        dest="chat_template",
        action="store_const",
        const=False,
        help="give the problems as plain text, without the model's chat template",
    )
    add_chat_options(group)
    group.add_argument("--timeout", type=float, default=5.0, help="seconds that one verification may take")


def add_sampling_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how completions are sampled."""
    group.add_argument(
        "--samples", type=int, help="number of sampled completions of each problem (default: the suite's, or 4)"
    )
    group.add_argument(
        "--greedy",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also generate a greedy completion of each problem (default: yes)",
    )
    group.add_argument(
        "--k", metavar="K[,…]", help="values of k of pass@k, maj@k, best-of-k (default: 1, 2, 4, … up to --samples)"
    )
    group.add_argument(
        "--max-new-tokens", type=int, help="length limit of a completion (default: the suite's, or 1024)"
    )
    add_drawing_options(group)


def evaluation_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the parsed options in the form that `evaluate` takes.

    Raises:
        InvalidInputError: the list of tasks, or the list of the values of k, is malformed.
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
    return options


def run(options: dict[str, Any], out: Path) -> None:
    """Evaluate the models, and print the table of results."""
    from antiphase.evaluation.request import eval_request

    options = evaluation_options(options)
    progress = options.pop("progress")
    request = eval_request(options.pop("models"), out=out, **options)
    # This imports torch, so it comes after all checks.
    from antiphase.evaluation.evaluate import share_evaluation

    found = share_evaluation(request, progress=progress)
    if found is not None:
        print(found)
        print_written(out)
