"""A cell's training under a launcher (several GPUs), and its adapter merged where an engine takes no adapters."""

import contextlib
import json
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

_PROCESSES = re.compile(r"--(?:num_processes|nproc[-_]per[-_]node)[ =](\d+)")


class LaunchError(AntiphaseError, RuntimeError):
    """A launched training did not come to its end."""


def processes_of(launch: str | None) -> int:
    """How many processes a launcher's command starts, as far as it says so.

    >>> [processes_of(text) for text in ("accelerate launch --num_processes 8", "torchrun --nproc-per-node=2", None)]
    [8, 2, 1]
    """
    found = _PROCESSES.search(launch or "")
    return int(found[1]) if found else 1


def train_under(launch: str, recipe: Path) -> None:
    """Run `antiphase train --config RECIPE --resume` under a launcher, such as `accelerate launch --num_processes 8`.

    Raises:
        LaunchError: the launcher is not there, or ended with another status than 0.
    """
    words = [*shlex.split(launch), "-m", "antiphase", "train", "--config", str(recipe), "--resume"]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    try:
        # In this process's group, so that it ends with the sweep.
        process = subprocess.Popen(words)
    except OSError as error:
        raise LaunchError(f"{words[0]!r} cannot be run ({error.strerror or error}); see --launch.") from error
    with process, _passed_on(process):
        status = process.wait()
    if status != 0:
        raise LaunchError(f"the launched training ended with status {status}: {shlex.join(words)}")


@contextlib.contextmanager
def _passed_on(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Hand the request to end on to a process; a training then saves a checkpoint first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def overridden(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A study whose shared `train` keys are changed.

    Args:
        content: of STUDY.yaml.
        changes: each `KEY=VALUE`, the value as in YAML.

    Raises:
        InvalidInputError: not of this form.

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
    """The trained model in one piece: an adapter is merged with its base, into a folder of its own.

    The sum is rounded to the base's dtype, so with weights of 16 bits the merged model is not bitwise the trained one.

    Raises:
        MissingExtraError: peft is absent.
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
