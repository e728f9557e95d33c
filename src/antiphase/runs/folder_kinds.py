"""Find out from config.json which kind of run a folder holds, and whether a run may write there.

These checks come before a run begins. So this module imports no torch and no pandas. The module `run_folder` reads and
writes the tables of a folder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.runs.folder_lock import LOCK
from antiphase.runs.run_config import BEFORE_THE_OPTION, FREE_ON_RESUME


@dataclass(frozen=True)
class FolderKind:
    """A kind of run folder.

    Args:
        format, version: the values of `format` and `format_version` in config.json. A folder of this kind has them.
        owner: what error messages call a run of this kind, such as `an evaluation`.
    """

    format: str
    version: int
    owner: str


PROBE = FolderKind("antiphase-probe", 1, "a probe")
SERIES = FolderKind("antiphase-checkpoints", 1, "a probe of checkpoints")
EVALUATION = FolderKind("antiphase-eval", 1, "an evaluation")


def check_out(path: Path, kind: FolderKind, config: Mapping[str, Any], *, resume: bool) -> None:
    """Raise an error if a run can neither begin nor continue in a folder. Nothing is written.

    Args:
        path: the folder.
        kind: the kind of run that will write there.
        config: the options of that run, with their defaults filled in.
        resume: whether the folder may hold an interrupted run, which is then continued.

    Raises:
        InvalidInputError: without `resume`, the folder is not empty. With `resume`, the folder holds something that
            cannot be continued. This is something other than a run of this kind, or a run with other options (the
            message names some of them). Or it is an unfinished run of an earlier version of antiphase, in which the
            seeds of the rollouts were made in another way.
    """
    if is_free(path):
        return
    if not resume:
        raise InvalidInputError(
            f"{str(path)!r} exists and is not an empty folder. Choose another --out. If the folder holds an earlier "
            "run, --resume continues it."
        )
    stored = read_marker(path, kind)["config"]
    keys = [key for key in {**stored, **config} if key not in (*FREE_ON_RESUME, "draws")]
    before = {**BEFORE_THE_OPTION, **stored}
    # An earlier version did not write the digest of the weights to config.json, but only to model.json.
    keys = [key for key in keys if key != "weights_sha256" or key in stored]
    check_same(path, "a run", {key: before.get(key) for key in keys}, {key: config.get(key) for key in keys})
    # The other options are the same. So a run that stored no number of draws is older than this number.
    if stored.get("draws") != config.get("draws") and not (path / "summary.json").is_file():
        raise InvalidInputError(
            f"{str(path)!r} holds an unfinished run that was begun by an earlier version of antiphase. There, the "
            "seeds of sampled rollouts belonged to batches; now each rollout has a seed of its own. So the run cannot "
            "be continued: start it again with a new --out."
        )


def check_same(folder: Path, what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InvalidInputError if the content of a folder was made with options that differ from those now.

    The message names some of the differences.

    Args:
        folder: the folder.
        what: words for the content of the folder in the message, such as `a checkpoint`.
        before: the options with which the content was made.
        now: the options now.
    """
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        places = [place for key in differing for place in _differences(key, before.get(key), now.get(key))]
        texts = dict.fromkeys(f"{name} was {was!r}, is {is_now!r}" for name, was, is_now in places)
        shown = "; ".join(list(texts)[:3])
        raise InvalidInputError(
            f"{str(folder)!r} holds {what} that was made with other options, so it cannot be continued: {shown}. Undo "
            "these changes, or start a new run in another folder."
        )


def _differences(key: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Return the differences between two values of an option, each as (name, value before, value now).

    Usually there is one difference, and its name is `key`. If both values are lists of equally many mappings, the
    mappings are compared in pairs. Then each key KEY with different values is one difference, with the name `key.KEY`.
    """
    lists = isinstance(before, list) and isinstance(now, list) and len(before) == len(now)
    if not lists or not all(isinstance(one, dict) for one in (*before, *now)):
        return [(key, before, now)]
    return [
        (f"{key}.{name}", was.get(name), is_now.get(name))
        for was, is_now in zip(before, now, strict=True)
        for name in {**was, **is_now}
        if was.get(name) != is_now.get(name)
    ]


def is_free(path: Path) -> bool:
    """Return whether the path does not exist or is an empty folder.

    A folder that holds only a lock file is empty in this sense. A killed process may have left this file behind.
    """
    return not path.exists() or (path.is_dir() and all(entry.name == LOCK for entry in path.iterdir()))


def read_marker(path: Path, kind: FolderKind) -> dict[str, Any]:
    """Read the config.json of a run folder, after a check that it belongs to a run of this kind.

    Raises:
        InvalidInputError: the folder belongs to another kind of run, or its format has another version.
    """
    if not (path / "config.json").is_file():
        raise InvalidInputError(f"{str(path)!r} is not the folder of {kind.owner} (it has no config.json).")
    marker = read_json(path / "config.json")
    if marker.get("format") != kind.format or marker.get("format_version") != kind.version:
        raise InvalidInputError(
            f"{str(path)!r} is not the folder of {kind.owner} that this version of antiphase can read. "
            f"{_formats(marker, 'config.json', kind)}"
        )
    return marker


def _formats(found: Mapping[str, Any], name: str, kind: FolderKind) -> str:
    """Return two sentences that compare the format of a file with that of a kind of run."""
    return (
        f"Its {name} should say format {kind.format!r} and format_version {kind.version!r}. "
        f"It says format {found.get('format')!r} and format_version {found.get('format_version')!r}."
    )


def read_summary(path: Path, kind: FolderKind) -> dict[str, Any]:
    """Read the summary.json of a finished run.

    Raises:
        InvalidInputError: the run is unfinished, or the format of its summary has another version.
    """
    if not (path / "summary.json").is_file():
        raise InvalidInputError(
            f"{str(path)!r} holds an unfinished run of {kind.owner}. To continue it, repeat its command with --resume."
        )
    summary = read_json(path / "summary.json")
    if summary.get("format") != kind.format or summary.get("format_version") != kind.version:
        raise InvalidInputError(
            f"this version of antiphase cannot read {str(path / 'summary.json')!r}. "
            f"{_formats(summary, 'summary.json', kind)}"
        )
    return summary


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        InvalidInputError: the file cannot be read, or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object.")
    return value
