"""What a comparison is asked for, checked as far as that is possible from names and JSON files: no torch, no pandas.

`compare` begins with `check_comparison`; the command line calls it before it imports what compares.
"""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.page.defaults import FILE
from antiphase.runs.folder_kinds import EVALUATION, read_marker, read_summary
from antiphase.runs.run_config import config_from
from antiphase.runs.run_request import with_rollouts

_NAMED = re.compile(r"([^=/\\,]+)=(.+)")


@dataclass(frozen=True)
class Options:
    """How entrants are compared.

    Args:
        reference: name of the entrant that the others are compared with; by default the first.
        paired_seeds: seed i of every entrant shares its luck (data order, initial model).
        smallest: the smallest difference in accuracy that matters.
        allow_mismatch: compare what was asked, sampled, judged or measured differently.
        num_resamples: of the bootstraps.
        seed: of the bootstraps.
    """

    reference: str | None = None
    paired_seeds: bool = False
    smallest: float = 0.05
    allow_mismatch: bool = False
    num_resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.smallest < 1:
            raise InvalidInputError(
                f"smallest must be a difference between 0 and 1; got {self.smallest}. 0.05 is usual."
            )


@dataclass(frozen=True)
class Entry:
    """One entrant as it was named.

    Args:
        name: of the entrant; None leaves the models their own names.
        paths: folders of evaluations, or models.
        folders: those of the paths that are folders of evaluations.
    """

    name: str | None
    paths: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The paths that are to be evaluated first."""
        return tuple(path for path in self.paths if path not in self.folders)


def check_comparison(
    entries: Sequence[str],
    options: Options,
    *,
    out: Path | None,
    estimator: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> list[Entry]:
    """Check the arguments of `compare`; see there.

    Returns:
        the entries, taken apart.

    Raises:
        InvalidInputError: a malformed entry, an `out` that holds something else, an unfinished or foreign folder, an
            option of an evaluation that is to be made, two entrants of one name, or an unknown reference.
    """
    parsed = [_entry(text) for text in entries]
    if out is not None:
        _check_out(out)
    wanted = [path for entry in parsed for path in entry.models]
    asked = dict(evaluation or {})
    if wanted and not (asked.get("tasks") or asked.get("suite")):
        raise InvalidInputError(
            f"{wanted[0]!r} is no folder of an evaluation. To evaluate it as a model first, name --tasks or a --suite."
        )
    # Folders are read before anything is evaluated: a mistake in one of them must not cost hours.
    ready: list[tuple[str, str]] = []
    for entry in parsed:
        summaries = [_summary(Path(path)) for path in entry.folders]
        if entry.models:
            ready.append((entry.name or entry.paths[0], "to be evaluated"))
        else:
            ready += entrant_keys(entry.name, summaries, estimator)
    _check_names(ready, options.reference)
    if wanted and out is None:
        raise InvalidInputError("models are evaluated into the folder out; name one.")
    if wanted:
        not_its = ("figures", "report", "progress", "rollouts")
        chosen = {name: value for name, value in asked.items() if name not in not_its}
        # Built for its checks; each model is evaluated by itself.
        config_from("model", with_rollouts(chosen, asked.get("rollouts"))[0], EvalConfig)
    return parsed


def _entry(text: str) -> Entry:
    name, paths = parse_entry(text)
    return Entry(name, tuple(paths), tuple(path for path in paths if _is_folder(path)))


def _summary(path: Path) -> dict[str, Any]:
    read_marker(path, EVALUATION)
    return read_summary(path, EVALUATION)


def entrant_keys(
    name: str | None, summaries: Sequence[Mapping[str, Any]], estimator: str | None = None
) -> list[tuple[str, str]]:
    """Name and task of the entrants of some evaluations: one a task; without a name, one a model and task.

    Raises:
        InvalidInputError: a named evaluation holds several models.
    """
    keys: dict[tuple[str, str], None] = {}
    for summary in summaries:
        models = list(dict.fromkeys(result["model"] for result in summary["results"]))
        if name is not None and len(models) > 1:
            raise InvalidInputError(
                f"{name!r} names an evaluation of {len(models)} models ({', '.join(models)}). Give it without a name: "
                "each model then enters by its own."
            )
        for result in summary["results"]:
            if estimator in (None, result["estimator"]):
                keys[name or result["model"], result["task"]] = None
    return list(keys)


def parse_entry(entry: str) -> tuple[str | None, list[str]]:
    """Name and runs of `[NAME=]RUN[,RUN…]`, patterns resolved.

    Raises:
        InvalidInputError: an empty run, one named twice, or a pattern that matches nothing.
    """
    match = _NAMED.fullmatch(entry)
    name, rest = (match[1], match[2]) if match else (None, entry)
    paths: list[str] = []
    for part in rest.split(","):
        found = sorted(glob.glob(part), key=_natural) if glob.has_magic(part) else [part]
        if not found:
            raise InvalidInputError(f"the pattern {part!r} matches nothing.")
        paths += found
    if not all(paths):
        raise InvalidInputError(f"{entry!r} names an empty run; expected [NAME=]RUN[,RUN…].")
    places = [Path(path).resolve() if os.path.exists(path) else path for path in paths]
    twice = next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{entry!r} names the run {twice!r} twice; seeds must be different runs.")
    if name is None and len(paths) > 1:
        name = Path(paths[0]).name
    return name, paths


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts s2 before s10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def _is_folder(path: str) -> bool:
    """Whether a path is a folder that is no saved model; `read_marker` says what is wrong with a foreign one."""
    if not os.path.isdir(path):
        return False
    try:
        read_marker(Path(path), EVALUATION)
    except InvalidInputError:
        saved = (Path(path) / "config.json", Path(path) / "adapter_config.json")
        return not any(
            "model_type" in file.read_text() or "peft_type" in file.read_text() for file in saved if file.is_file()
        )
    return True


def _check_names(keys: Sequence[tuple[str, str]], reference: str | None) -> None:
    """Refuse two entrants of one name and task, and a reference that is none of them."""
    twice = next((name for name, task in keys if keys.count((name, task)) > 1), None)
    if twice is not None:
        raise InvalidInputError(
            f"two entrants are called {twice!r}. Name them: compare first=RUN second=RUN; or give the seeds of one as "
            "NAME=RUN,RUN."
        )
    names = list(dict.fromkeys(name for name, _ in keys))
    if reference is not None and reference not in names:
        raise InvalidInputError(f"the reference {reference!r} is no entrant; there are {', '.join(names)}.")


def _check_out(place: Path) -> None:
    known = {"comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "figures", "evals", FILE}
    foreign = (
        sorted(path.name for path in place.iterdir() if path.name not in known and path.suffix != ".tmp")
        if place.is_dir()
        else []
    )
    if foreign or (place.exists() and not place.is_dir()):
        raise InvalidInputError(
            f"{str(place)!r} holds something else ({', '.join(foreign[:3])}). Choose another --out."
        )
