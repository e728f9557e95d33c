"""Make the models of a study: run the command that makes a model, once for each model.

OUT/models/NAME/           the model; it contains made.json once it is complete
OUT/models/NAME.log        the output of the command

A model that is made again, such as after its folder was removed, may have other weights. Cells of two models must not
be compared, so such a model is refused if cells of the former one are stored.
"""

import hashlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.runs.folder_lock import locked
from antiphase.study.grid import Made
from antiphase.study.records import model_lock, weights_of_cells
from antiphase.training.out_folder import write_whole

_WEIGHTS = ("*.safetensors", "*.bin")


class CellError(AntiphaseError, RuntimeError):
    """Raised when a cell of a study (one model, setting, method and seed) could not be run to its end."""


def is_made(made: Made, out: Path) -> bool:
    """Return whether the model exists in the study's folder `out`, and the command in `made` made it."""
    marker = out / "models" / made.name / "made.json"
    return marker.is_file() and json.loads(marker.read_text(encoding="utf-8"))["command"] == list(made.command)


def make_model(made: Made, out: Path, *, wait: bool = True) -> Path:
    """Run the command that makes a model, unless the model exists already, and return the model's folder.

    The output of the command goes to a log beside the folder.

    Args:
        made: the model's name and command.
        out: the study's folder.
        wait: whether to wait while another process makes the model. If not, an error is raised.

    Raises:
        CellError: the command failed, or did not make a model; or cells of a model with other weights are stored.
        InvalidInputError: the model exists, but another command made it.
        InUseError: another process makes the model, and `wait` is False.
    """
    lock = model_lock(made, out)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, f"the model {made.name} is being made", wait=wait):
        return _make(made, out)


def _make(made: Made, out: Path) -> Path:
    """Make the model as `make_model` explains, while this process holds the model's lock."""
    folder = out / "models" / made.name
    marker = folder / "made.json"
    command = [word.replace("{out}", str(folder)) for word in made.command]
    if is_made(made, out):
        return folder
    if marker.is_file():
        raise InvalidInputError(f"{folder} was made by another command. Remove it, or choose another --out.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if command[0] in ("python", "python3"):
        command[0] = sys.executable
    log = out / "models" / f"{made.name}.log"
    status = _call(command, log)
    if status == 0 and not any(folder.rglob("config.json")):
        raise CellError(f"making {made.name} left no model in {folder} (no config.json): {shlex.join(command)}.")
    if status != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise CellError(
            f"making {made.name} failed with status {status} ({shlex.join(command)}). The log {log} ends with: {last}"
        )
    digest = _digest(folder)
    others = [cell for cell, weights in weights_of_cells(out, made.name).items() if weights != digest]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise CellError(
            f"the weights of {made.name}, which was made again, differ from those of the model that the stored cell "
            f"{others[0]} began with{more}. Cells of two models must not be compared. Choose another --out, or remove "
            "the files of these cells."
        )
    write_whole(marker, json.dumps({"command": list(made.command), "weights_sha256": digest}) + "\n")
    return folder


def made_weights(made: Made, out: Path) -> str | None:
    """Return the digest of the weights of a model that was made; None if an earlier version of antiphase made it."""
    content = json.loads((out / "models" / made.name / "made.json").read_text(encoding="utf-8"))
    digest: str | None = content.get("weights_sha256")
    return digest


def _digest(folder: Path) -> str:
    """Return a checksum of all files of weights in a folder and below it."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _WEIGHTS for path in folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _call(command: Sequence[str], log: Path) -> int:
    """Run a command with its output in a log, and return its exit status.

    If this process ends, also by SIGTERM, the command is ended too.
    """
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:

        def end(*_: Any) -> None:
            process.kill()
            raise KeyboardInterrupt

        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, end) if main else None
        try:
            return process.wait()
        finally:
            process.kill()
            if main:
                signal.signal(signal.SIGTERM, before)
