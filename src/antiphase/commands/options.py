"""The parser class and the options that several commands share."""

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser. If arguments are wrong, it prints one line and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the error message, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class Help(argparse.HelpFormatter):
    """A formatter that adds the default value of an option to its help text. It leaves out None and booleans."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or isinstance(action.default, bool) or action.default is argparse.SUPPRESS
        return action.help if silent else f"{action.help} (default: %(default)s)"


def add_model_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how a model is loaded."""
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16, float64")
    group.add_argument("--device", default="auto", help="auto (cuda, mps, cpu), or any torch device")
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help="spread the layers over several devices, main memory and the disk: auto, balanced, sequential, or a JSON "
        "file that maps modules to devices",
    )
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")


def add_adapter_option(group: "argparse._ArgumentGroup") -> None:
    """Add the option that names an adapter (such as LoRA) to load on top of the model."""
    group.add_argument(
        "--adapter",
        metavar="PATH_OR_ID",
        help="adapter, such as LoRA, that is put on the model: a directory or hub id",
    )


def add_drawing_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how completions are sampled, and by which engine."""
    group.add_argument("--temperature", type=float, default=1.0, help="temperature of sampling; 0 is greedy decoding")
    group.add_argument(
        "--top-p", type=float, default=1.0, help="probability of the nucleus in sampling; 1 keeps all tokens"
    )
    group.add_argument(
        "--end-token",
        dest="end_tokens",
        action="append",
        type=end_token,
        help="text of one token that ends a completion",
    )
    add_think_tags(group)
    group.add_argument("--seed", type=int, default=0, help="seed of sampling, subsampling and bootstrap")
    group.add_argument(
        "--engine",
        "--generator",
        default="auto",
        help="engine that generates completions: auto, transformers, vllm or openai (a server)",
    )
    group.add_argument("--vllm-memory", type=float, default=0.45, help="share of the GPU's memory for vLLM")
    add_server_options(group)
    group.add_argument(
        "--batch-size", type=int, default=16, help="number of rollouts that are generated and written at a time"
    )
    group.add_argument(
        "--rollouts",
        metavar="FILE",
        help="file of given rollouts (.jsonl or .parquet), which are measured; nothing is generated",
    )


def add_server_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options of the engine `openai`, which gets completions from a server."""
    group.add_argument("--base-url", metavar="URL", help="address of the server, such as http://localhost:8000/v1")
    group.add_argument("--served-model", metavar="NAME", help="name of the model on the server (default: as here)")
    group.add_argument(
        "--concurrency",
        type=int,
        default=16,
        help="greatest number of requests at the same time, of all processes together",
    )
    group.add_argument("--request-timeout", type=float, default=600.0, metavar="S", help="seconds for one request")
    group.add_argument("--deadline", type=float, metavar="S", help="seconds for each batch, with repetitions")
    group.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that contains the server's key",
    )


def add_chat_options(group: "argparse._ArgumentGroup") -> None:
    """Add the options that say how the model's chat template is called."""
    group.add_argument(
        "--chat-template-kwargs",
        type=json_object,
        metavar="JSON",
        help="variables for the model's chat template, such as '{\"enable_thinking\": false}'",
    )
    group.add_argument(
        "--fold-system",
        action="store_true",
        help="move the system message to the first user message, for chat templates that refuse a system message",
    )


def json_object(text: str) -> dict[str, Any]:
    """Return the value of an option whose text is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, such as '{{\"name\": true}}'; got {text!r}")
    return value


def add_think_tags(group: "argparse._ActionsContainer") -> None:
    """Add the option that names the tags around a model's thoughts, such as `<think>`."""
    group.add_argument(
        "--think-tags",
        action="append",
        metavar="'OPEN CLOSE'",
        help="tags around the model's thoughts besides the known tags, as in '<plan> </plan>'; may be repeated",
    )


def end_token(text: str) -> str:
    r"""Return the text of an end token, after `\n` and `\t` in it are replaced by a line break and a tab."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def add_output_options(group: "argparse._ArgumentGroup", command: str) -> None:
    """Add the options that say where a run writes, and whether it draws figures and a page."""
    group.add_argument("--out", type=Path, help=f"folder to write to (default: runs/{command}-DATE-TIME)")
    group.add_argument(
        "--resume", action="store_true", help="continue the interrupted run in --out; if there is none, begin a run"
    )
    group.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures")
    group.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    group.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def add_signal_options(group: "argparse._ArgumentGroup", *, measured: bool = False) -> None:
    """Add the options that say what is measured and correlated.

    Args:
        group: the group to which the options are added.
        measured: whether the help text also names the estimator `none`, which measures no signals. The
            commands `eval` and `compare` have this estimator.
    """
    group.add_argument(
        "--estimator",
        dest="estimators",
        default="own",
        metavar="NAME[:TARGETS][,…]",
        help="estimators of gradient strength: own, last, full, oracle, oracle-own; NAME:16 measures 16 random tokens "
        "of each rollout, full:auto as many as --auto-seconds allow; the first of several is shown first"
        + ("; none measures no signals" if measured else ""),
    )
    group.add_argument("--layers", default="all", help="layers: all, last, last-K, or indices such as 0,3,-1")
    group.add_argument("--projections", default="QKVO", help="which of the projections Q, K, V, O")
    group.add_argument("--norm", default="nuclear", help="norm of the gradient: nuclear, frobenius or l1")
    group.add_argument(
        "--target", default="logit", help="value whose gradient is taken: logit, or logprob (a control)"
    )
    group.add_argument("--targets-per-rollout", type=int, metavar="N", help="measure N random tokens of each rollout")
    group.add_argument(
        "--auto-seconds",
        type=float,
        metavar="N",
        help="time limit of full:auto for measuring each model (default: 600)",
    )
    if measured:
        group.add_argument(
            "--by-projection",
            action="store_true",
            help="store the strength of every token in each layer and projection",
        )
    else:
        group.add_argument(
            "--signal-temperature",
            type=float,
            default=1.0,
            help="number that divides the logits before the entropy is computed",
        )
        group.add_argument(
            "--alternatives",
            type=int,
            default=5,
            metavar="K",
            help="store the K most probable next tokens of every position; 0 stores none",
        )
    group.add_argument(
        "--token-budget", type=int, default=2048, help="greatest number of padded tokens in one forward pass"
    )
    group.add_argument(
        "--unit",
        default="type",
        help="unit of the ρ that is shown first, the headline: type (distinct token ids), token or step; the results "
        "contain all three",
    )
    group.add_argument(
        "--splitter", default="sentence", help="where steps end: sentence, line, fixed:N (tokens) or regex:PATTERN"
    )
    group.add_argument(
        "--step-strength",
        default="mean",
        help="strength of a step: mean (of its tokens' strengths), or joint (norm of one gradient for all its tokens)",
    )
    group.add_argument("--segment", default="all", help="tokens that are correlated: thought, answer or all")
    group.add_argument(
        "--min-tokens",
        type=int,
        default=8,
        help="least number of tokens (or types) of a rollout; with fewer, its correlation over them is undefined",
    )
    group.add_argument(
        "--min-steps",
        type=int,
        default=5,
        help="least number of steps of a rollout; with fewer, its correlation over steps is undefined",
    )
    group.add_argument(
        "--num-resamples", type=int, default=1000, help="number of bootstrap samples, which are drawn from the prompts"
    )


def count(text: str) -> int | str:
    """Return the value of an option that is a whole number or the word `all`."""
    if text != "all" and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number or 'all', got {text!r}")
    return text if text == "all" else int(text)


def print_written(out: Path, beside: str | None = None) -> None:
    """Print the names of the files that a finished run wrote.

    Args:
        out: the folder of the run.
        beside: the name of a folder inside `out` that holds many runs. Only its name is printed, not its files.
    """
    print(f"\nwritten to {out}:")
    for path in sorted(out.rglob("*")):
        within = beside is not None and path.relative_to(out).parts[0] == beside
        if path.is_file() and path.suffix != ".svg" and not within:
            twin = " (and .svg)" if path.with_suffix(".svg").is_file() else ""
            print(f"  {path}{twin}")
    if beside is not None:
        print(f"  {out / beside}: the run folder of each")
