"""Parsers and options that the commands share."""

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that answers wrong arguments with one line and status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class Help(argparse.HelpFormatter):
    """Help texts that show a default, unless it is None or the state of a switch."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or isinstance(action.default, bool) or action.default is argparse.SUPPRESS
        return action.help if silent else f"{action.help} (default: %(default)s)"


def add_model_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how a model is loaded."""
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16, float64")
    group.add_argument("--device", default="auto", help="auto (cuda, mps, cpu), or any torch device")
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")


def add_drawing_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how completions are drawn, and by which engine."""
    group.add_argument("--temperature", type=float, default=1.0, help="of the samples; 0 is greedy")
    group.add_argument("--top-p", type=float, default=1.0, help="nucleus of the samples")
    group.add_argument(
        "--end-token",
        dest="end_tokens",
        action="append",
        type=end_token,
        help="text of one token that ends a completion",
    )
    add_think_tags(group)
    group.add_argument("--seed", type=int, default=0, help="of sampling, subsampling and bootstrap")
    group.add_argument("--engine", default="auto", help="auto, transformers, vllm")
    group.add_argument("--vllm-memory", type=float, default=0.45, help="share of the GPU's memory for vLLM")
    group.add_argument("--batch-size", type=int, default=16, help="rollouts generated and written at a time")
    group.add_argument("--rollouts", metavar="FILE", help="given rollouts (.jsonl/.parquet): nothing is generated")


def add_chat_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how a model's chat template is called."""
    group.add_argument(
        "--chat-template-kwargs",
        type=json_object,
        metavar="JSON",
        help="variables for the model's chat template, such as '{\"enable_thinking\": false}'",
    )
    group.add_argument(
        "--fold-system",
        action="store_true",
        help="put the system message before the first question, for templates that refuse a system role",
    )


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, such as '{{\"name\": true}}'; got {text!r}")
    return value


def add_think_tags(group: "argparse._ActionsContainer") -> None:
    """Add the option that names tags of thoughts."""
    group.add_argument(
        "--think-tags",
        action="append",
        metavar="'OPEN CLOSE'",
        help="tags between which the model thinks, besides the known ones, as in '<plan> </plan>'; may be repeated",
    )


def end_token(text: str) -> str:
    r"""Read the text of an `--end-token`, in which `\n` and `\t` stand for a line break and a tab."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def add_output_options(group: "argparse._ArgumentGroup", command: str) -> None:
    """Add the options that say where a run writes, and what."""
    group.add_argument("--out", type=Path, help=f"folder to write to (default: runs/{command}-DATE-TIME)")
    group.add_argument(
        "--resume", action="store_true", help="continue the interrupted run in --out, or begin one there"
    )
    group.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures")
    group.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    group.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def add_signal_options(group: "argparse._ArgumentGroup", *, measured: bool = False) -> None:
    """Add the options that say what is measured. `measured` is for a command that can also measure nothing."""
    group.add_argument(
        "--estimator",
        dest="estimators",
        default="own",
        metavar="NAME[:TARGETS][,…]",
        help="own, last, full, oracle, oracle-own; several with commas, the first is the headline"
        + ("; none measures nothing" if measured else ""),
    )
    group.add_argument("--layers", default="all", help="all, last, last-K, or indices such as 0,3,-1")
    group.add_argument("--projections", default="QKVO", help="which of Q, K, V, O")
    group.add_argument("--norm", default="nuclear", help="nuclear, frobenius, l1")
    group.add_argument("--target", default="logit", help="logit, or logprob (a control)")
    group.add_argument("--targets-per-rollout", type=int, metavar="N", help="measure N random tokens of each rollout")
    if measured:
        group.add_argument(
            "--by-projection", action="store_true", help="keep the strength of every layer's projection of every token"
        )
    else:
        group.add_argument(
            "--signal-temperature", type=float, default=1.0, help="divides the logits before the entropy"
        )
        group.add_argument(
            "--alternatives",
            type=int,
            default=5,
            metavar="K",
            help="keep the K most probable next tokens of every position; 0 keeps none",
        )
    group.add_argument("--token-budget", type=int, default=2048, help="padded tokens in one forward pass")
    group.add_argument(
        "--unit", default="type", help="whose ρ is the headline: type, token or step; all are in the results"
    )
    group.add_argument(
        "--splitter", default="sentence", help="where steps end: sentence, line, fixed:N (tokens) or regex:PATTERN"
    )
    group.add_argument(
        "--step-strength", default="mean", help="of a step: mean (of its tokens), or joint (of their sum's gradient)"
    )
    group.add_argument(
        "--segment", default="all", help="tokens that are correlated: of the thought, of the answer, or all"
    )
    group.add_argument(
        "--min-tokens", type=int, default=8, help="below, a rollout's correlation by token or type is undefined"
    )
    group.add_argument("--min-steps", type=int, default=5, help="below, a rollout's correlation by step is undefined")
    group.add_argument("--num-resamples", type=int, default=1000, help="of the bootstrap over prompts")


def count(text: str) -> int | str:
    """Read a whole number, or `all`."""
    if text != "all" and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number or 'all', got {text!r}")
    return text if text == "all" else int(text)


def print_written(out: Path, beside: str | None = None) -> None:
    """Print the files of a finished run. Of the folder `beside`, which holds many runs, only the name is printed."""
    print(f"\nwritten to {out}:")
    for path in sorted(out.rglob("*")):
        within = beside is not None and path.relative_to(out).parts[0] == beside
        if path.is_file() and path.suffix != ".svg" and not within:
            twin = " (and .svg)" if path.with_suffix(".svg").is_file() else ""
            print(f"  {path}{twin}")
    if beside is not None:
        print(f"  {out / beside}: the run folder of each")
