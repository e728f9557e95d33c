"""Find the runs that a page shows, and check their folders, without importing torch or pandas.

`write_report` and `serving` start with these checks. The command line makes them before slow imports.
"""

import contextlib
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.evaluation.entries import parse_entry
from antiphase.page.defaults import FILE, FORKING_SHARE, check_share
from antiphase.runs.folder_kinds import EVALUATION, PROBE, SERIES

HOST = "127.0.0.1"
KINDS = "a probe, an evaluation, a comparison or a training run"


@dataclass(frozen=True)
class Source:
    """A run that the page shows.

    Args:
        path: the folder of the run.
        label: the user's name for the run; None if there is none.
        group: the name that the runs of one training recipe with different seeds share; None if there is no such name.
    """

    path: Path
    label: str | None = None
    group: str | None = None


def sources_of(entries: str | Path | Sequence[str | Path]) -> list[Source]:
    """Parse one entry or several, each of the form `[NAME=]RUN[,RUN…]`, into runs.

    Raises:
        InvalidInputError: there is no entry, an entry is malformed, a run is named twice, or two runs have one name.
    """
    found: list[Source] = []
    listed = [entries] if isinstance(entries, str | Path) else entries
    if not isinstance(listed, Sequence) or not all(isinstance(entry, str | Path) for entry in listed):
        raise InvalidInputError(f"runs must be a folder or a list of folders; got {entries!r}.")
    for entry in listed:
        # An existing path is never split, so that a folder's name may contain a comma or an equals sign.
        name, paths = (None, [str(entry)]) if os.path.exists(entry) else parse_entry(str(entry))
        if not str(entry).startswith(f"{name}="):
            name = None  # A run without a name is called after its folder.
        for place, path in enumerate(paths):
            label = f"{name} #{place + 1}" if name and len(paths) > 1 else name
            found.append(Source(Path(path), label, name if len(paths) > 1 else None))
    if not found:
        raise InvalidInputError("name at least one run.")
    twice = [path for path, count in Counter(source.path.resolve() for source in found).items() if count > 1]
    if twice:
        raise InvalidInputError(f"the run {str(twice[0])!r} is named twice.")
    labels = Counter(source.label for source in found if source.label is not None)
    shared = next((label for label, count in labels.items() if count > 1), None)
    if shared is not None:
        raise InvalidInputError(
            f"two runs are called {shared!r}. Give each run a name of its own, as NAME=RUN. If the runs are seeds of "
            "one training, name them together: NAME=RUN,RUN."
        )
    return found


def check_report(
    runs: str | Path | Sequence[str | Path], out: str | Path | None = None, *, forking_share: float = FORKING_SHARE
) -> tuple[list[Source], Path]:
    """Check the arguments of `write_report`.

    Args:
        runs: the runs of the page, each of the form `[NAME=]RUN[,RUN…]`.
        out: the file to write; None writes `report.html` into the folder of the run.
        forking_share: the share of forking tokens among all tokens.

    Returns:
        the runs, and the path of the file to write.

    Raises:
        InvalidInputError: an entry, the file or the share is invalid, or a folder is missing, is empty or holds no
            run.
    """
    found = sources_of(runs)
    if out is None and len(found) > 1:
        raise InvalidInputError("a report of several runs needs a file to write to. Name it with --out report.html.")
    path = Path(out) if out is not None else found[0].path / FILE
    if os.path.isdir(path):
        raise InvalidInputError(f"{str(path)!r} is a folder. Name a file, such as {path / FILE}.")
    check_share(forking_share)
    for source in found:
        check_run(source.path)
    return found, path


def check_view(
    runs: str | Path | Sequence[str | Path], port: int, *, forking_share: float = FORKING_SHARE
) -> list[Source]:
    """Check the arguments of `serving`.

    Args:
        runs: the runs of the page, each of the form `[NAME=]RUN[,RUN…]`. A run may have nothing to show yet.
        port: the port to listen on; 0 means any free port.
        forking_share: the share of forking tokens among all tokens.

    Returns:
        the runs.

    Raises:
        InvalidInputError: an entry or the share is invalid, a folder is missing, or the port is in use.
    """
    sources = sources_of(runs)
    check_share(forking_share)
    for source in sources:
        if not os.path.isdir(source.path):
            raise InvalidInputError(f"{str(source.path)!r} is not a folder. Start the run first, or check the path.")
    with listening(port), socket.socket() as probe:
        # The server sets the same option, so that this test has the same result.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
    return sources


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """Run a `with` block that listens on a port. If the port cannot be used, the error says what to do.

    Raises:
        InvalidInputError: the port is in use, or the number is not a port.
    """
    try:
        yield
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"cannot listen on port {port} ({reason}). Choose another --port.") from error


def check_run(path: Path) -> None:
    """Check that a path is the folder of a finished or unfinished run.

    Raises:
        InvalidInputError: the path does not exist, is a file, or is a folder that is empty or holds no run.
    """
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else "does not exist"
        raise InvalidInputError(f"{str(path)!r} {what}. Name the folder of {KINDS}.")
    try:
        if is_comparison(path) or is_training(path):
            return
        if not (path / "config.json").is_file():
            raise InvalidInputError(f"{str(path)!r} {_foreign(path)}")
    except OSError as error:
        raise InvalidInputError(f"{str(path)!r} cannot be read ({error.strerror or error}).") from error

    marker = read_object(path / "config.json")
    if marker.get("format") in (PROBE.format, SERIES.format, EVALUATION.format):
        return
    if "model_type" in marker or "architectures" in marker:
        raise InvalidInputError(f"{str(path)!r} is a saved model. Probe it first: antiphase probe {path}.")
    raise InvalidInputError(f"{str(path)!r} is not the folder of a run. Name the folder of {KINDS}.")


def is_comparison(path: Path) -> bool:
    """Return whether the folder holds a comparison."""
    return (path / "comparison.json").is_file() or any((path / "evals").glob("*/config.json"))


def is_training(path: Path) -> bool:
    """Return whether the folder holds a training run."""
    return (path / "trajectory.jsonl").is_file() or (path / "recipe.json").is_file()


def _foreign(path: Path) -> str:
    """Return the end of the error message about a folder that holds no run.

    It says what the folder is, and what the user can name instead.
    """
    if not any(path.iterdir()):
        return f"is empty. Name the folder of {KINDS}."
    if (path / "study.json").is_file() or (path / "cells.jsonl").is_file():
        return "is the folder of a study, whose report is report.md. Name the evaluations or training runs in it."
    if (path / "summary.json").is_file():
        return "holds a summary.json, but not the config.json or trajectory.jsonl of a run. Was it copied in part?"
    return f"is not the folder of a run. Name the folder of {KINDS}."


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InvalidInputError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value
