"""Train a cell of a study on several GPUs, under a launcher such as accelerate.

A cell is one model, setting, method and seed. The module also merges a trained adapter into its base model, for
an engine that cannot load adapters, and applies changes from the command line to a study.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from antiphase.errors import AntiphaseError, InvalidInputError, MissingExtraError
from antiphase.study.process_tree import Found, descendants, end_gently

_PROCESSES = re.compile(r"--(?:num_processes|nproc[-_]per[-_]node)[ =](\d+)")

# torchrun, and accelerate with several processes, wait this many seconds for the workers after SIGTERM, and then end
# them by SIGKILL. Their own default is 30. Slurm gives a cell 120 seconds (see `scripts`).
_PATIENCE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "110"}


class LaunchError(AntiphaseError, RuntimeError):
    """Raised when a training under a launcher failed."""


def processes_of(launch: str | None) -> int:
    """Return the number of processes that a launcher's command starts; 1 if the command names no number.

    >>> [processes_of(text) for text in ("accelerate launch --num_processes 8", "torchrun --nproc-per-node=2", None)]
    [8, 2, 1]
    """
    found = _PROCESSES.search(launch or "")
    return int(found[1]) if found else 1


def train_under(launch: str, recipe: Path) -> None:
    """Run `antiphase train --config RECIPE --resume` under a launcher.

    If this process gets SIGTERM, the launcher gets this signal too. torchrun passes it on to its workers and waits for
    them, at most 110 seconds unless TORCH_ELASTIC_SHUTDOWN_TIMEOUT is set. A launcher that does not pass the signal
    on, such as `accelerate launch` with one process, ends at once. The processes that it leaves behind then get
    SIGTERM, and this function waits for them. On a system without `/proc`, these processes go on.

    Args:
        launch: the launcher's command, such as `accelerate launch --num_processes 8`.
        recipe: the file of the recipe.

    Raises:
        LaunchError: the launcher cannot be run, or its exit status is not 0.
        KeyboardInterrupt: SIGTERM ended the training.
    """
    words = [*shlex.split(launch), "-m", "antiphase", "train", "--config", str(recipe), "--resume"]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    try:
        # The launcher stays in this process group, so it ends when the sweep ends. The workers of torchrun have
        # process groups of their own.
        process = subprocess.Popen(words, env=_PATIENCE | os.environ)
    except OSError as error:
        raise LaunchError(f"{words[0]!r} cannot be run ({error.strerror or error}); see --launch.") from error
    with process, _passed_on(process) as left:
        status = process.wait()
        end_gently(left)
    if status != 0 and left:
        raise KeyboardInterrupt
    if status != 0:
        raise LaunchError(f"the launched training ended with status {status}: {shlex.join(words)}")


@contextlib.contextmanager
def _passed_on(process: "subprocess.Popen[bytes]") -> Iterator[list[list[Found]]]:
    """Pass the first SIGTERM that arrives during the `with` block to the launcher's process.

    A training that gets SIGTERM saves a checkpoint and ends.

    Yields:
        a list that is empty until SIGTERM comes. Then the processes that the launcher has started are added to it, as
        `descendants` returns them.
    """
    told: list[list[Found]] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def tell(*_: object) -> None:
        # A training that gets a second signal ends at once, without a checkpoint.
        if not told:
            told.extend([*descendants(process.pid), []])
            process.terminate()

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def overridden(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return the content of a study with some of its shared `train` keys changed.

    Args:
        content: the content of STUDY.yaml.
        changes: the changes. Each has the form `KEY=VALUE`, and the value is written as in YAML.

    Raises:
        InvalidInputError: a change does not have this form.

    >>> overridden({"train": {"max_steps": 1000}}, ["max_steps=10"])
    {'train': {'max_steps': 10}}
    """
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise InvalidInputError(f"--train takes KEY=VALUE, such as gradient_accumulation_steps=1; got {change!r}.")
        values[key.strip()] = yaml.safe_load(text)
    return {**content, "train": {**(content.get("train") or {}), **values}} if values else content


def merged_model(folder: Path, into: Path) -> Path:
    """Return the folder of the whole trained model. An adapter is first merged with its base model.

    Merging rounds the weights to the dtype of the base model. With 16-bit weights, the merged model therefore differs
    slightly from the trained one.

    Args:
        folder: the folder of the trained model, or of an adapter.
        into: the folder that a merged model is written to. If it holds a complete merged model
            already, this model is returned.

    Raises:
        MissingExtraError: peft is not installed.
    """
    if not (folder / "adapter_config.json").is_file():
        return folder
    if (into / "merged.json").is_file():
        return into
    try:
        from peft import AutoPeftModelForCausalLM
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "train", "merging an adapter") from error
    from transformers import AutoTokenizer

    model: Any = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype="auto")
    model.merge_and_unload().save_pretrained(into)
    tokenizer: Any = AutoTokenizer
    tokenizer.from_pretrained(str(folder)).save_pretrained(into)
    (into / "merged.json").write_text(json.dumps({"adapter": str(folder)}) + "\n", encoding="utf-8")
    return into
