"""Check the arguments of a comparison. Only names and JSON files are read for this.

`compare` begins with `check_comparison`. The command line calls this function before it imports the slow packages
torch and pandas. So this module imports neither of them.
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
from antiphase.runs.launch import launch
from antiphase.runs.run_config import config_from
from antiphase.runs.run_request import with_rollouts

_NAMED = re.compile(r"([^=/\\,]+)=(.+)")


@dataclass(frozen=True)
class Options:
    """How entrants (models or methods with their seeds) are compared.

    Args:
        reference: the name of the entrant with which the others are compared; None takes the first one.
        paired_seeds: whether seed i of one entrant is paired with seed i of the other. Pair them if equal seeds mean
            the same order of the data and the same initial model.
        smallest: the smallest difference in accuracy that matters.
        allow_mismatch: whether evaluations with different prompts, budgets (numbers of samples and tokens), verifiers
            or estimators are compared too. If not, they are refused.
        num_resamples: the number of bootstrap resamples.
        seed: the seed of the random generator that draws the resamples.
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
    """One entry of the command line: the name and the runs of an entrant (a model, or a method with its seeds).

    Args:
        name: the entrant's name. It is None for a single run without a name. Each model of this run is then an entrant
            with the model's name.
        paths: the runs, which are folders of evaluations or models.
        folders: the elements of `paths` that are folders of evaluations, and not models.
    """

    name: str | None
    paths: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The elements of `paths` that are models. They must be evaluated before they can be compared."""
        return tuple(path for path in self.paths if path not in self.folders)


def check_comparison(
    entries: Sequence[str],
    options: Options,
    *,
    out: Path | None,
    estimator: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> list[Entry]:
    """Check the arguments of `compare`, and parse the entries. The docstring of `compare` explains the arguments.

    Returns:
        The parsed entries.

    Raises:
        InvalidInputError: an entry is malformed, `out` holds files that `compare` does not write, a folder is
            unfinished or of another kind, an option of an evaluation is wrong, two entrants have the same name, or the
            reference is unknown.
    """
    parsed = [_entry(text) for text in entries]
    if out is not None:
        _check_out(out)
    wanted = [path for entry in parsed for path in entry.models]
    if wanted:
        launch().refuse(
            "the evaluation of models by compare", "Evaluate them by antiphase eval first, and compare the folders."
        )
    asked = dict(evaluation or {})
    if wanted and not (asked.get("tasks") or asked.get("suite")):
        raise InvalidInputError(
            f"{wanted[0]!r} is no folder of an evaluation. If it is a model that should be evaluated first, name "
            "--tasks or a --suite."
        )
    # The folders are read before anything is evaluated, because an evaluation may take hours.
    ready: list[tuple[str, str]] = []
    for entry in parsed:
        summaries = []
        for folder in map(Path, entry.folders):
            read_marker(folder, EVALUATION)
            summaries.append(read_summary(folder, EVALUATION))
        if entry.models:
            ready.append((entry.name or entry.paths[0], "to be evaluated"))
        else:
            ready += entrant_keys(entry.name, summaries, estimator)
    _check_names(ready, options.reference)
    if wanted and out is None:
        raise InvalidInputError("to evaluate models, compare needs a folder for the results. Name it with --out.")
    if wanted:
        not_its = ("figures", "report", "progress", "rollouts")
        chosen = {name: value for name, value in asked.items() if name not in not_its}
        # The config is built only because its constructor checks the options. Each model is evaluated on its own.
        config_from("model", with_rollouts(chosen, asked.get("rollouts"))[0], EvalConfig)
    return parsed


def _entry(text: str) -> Entry:
    name, paths = parse_entry(text)
    return Entry(name, tuple(paths), tuple(path for path in paths if _is_folder(path)))


def entrant_keys(
    name: str | None, summaries: Sequence[Mapping[str, Any]], estimator: str | None = None
) -> list[tuple[str, str]]:
    """Return the name and the task of each entrant (model or method) in some evaluations.

    These are the entrants that `entrants.entrants_of` makes from the evaluations.

    Args:
        name: the name of a method. The evaluations are then its seeds. If it is None, each model is an entrant.
        summaries: the content of summary.json of each evaluation.
        estimator: only the results of this estimator are read; None reads those of all estimators.

    Raises:
        InvalidInputError: `name` is given, and an evaluation has several models.
    """
    keys: dict[tuple[str, str], None] = {}
    for summary in summaries:
        models = list(dict.fromkeys(result["model"] for result in summary["results"]))
        if name is not None and len(models) > 1:
            raise InvalidInputError(
                f"the name {name!r} is given to an evaluation of {len(models)} models ({', '.join(models)}). Give the "
                "folder without a name. Each model is then compared under its own name."
            )
        for result in summary["results"]:
            if estimator in (None, result["estimator"]):
                keys[name or result["model"], result["task"]] = None
    return list(keys)


def parse_entry(entry: str) -> tuple[str | None, list[str]]:
    """Parse `[NAME=]RUN[,RUN…]` into the name and the runs. A pattern is replaced by the runs that it matches.

    Without NAME, several runs get the name of the first run, and the name of a single run is None.

    Raises:
        InvalidInputError: the text of a run is empty, a run is named twice, or a pattern matches nothing.
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
    """Return a sort key that orders numbers in names by their value, so that `s2` comes before `s10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def _is_folder(path: str) -> bool:
    """Return whether a path is a folder that can only hold an evaluation, because it holds no saved model.

    If the folder holds no evaluation either, the caller refuses it.
    """
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
    """Raise InvalidInputError if two entrants have the same name and task, or if the reference is no entrant.

    Args:
        keys: the name and the task of each entrant (model or method).
        reference: the name of the reference; None for the first entrant.
    """
    twice = next((name for name, task in keys if keys.count((name, task)) > 1), None)
    if twice is not None:
        raise InvalidInputError(
            f"two entrants are called {twice!r}. Give them different names: compare first=RUN second=RUN. If they are "
            "seeds of one method, give them as NAME=RUN,RUN."
        )
    names = list(dict.fromkeys(name for name, _ in keys))
    if reference is not None and reference not in names:
        raise InvalidInputError(
            f"the reference {reference!r} is none of the compared models or methods: {', '.join(names)}."
        )


def _check_out(place: Path) -> None:
    """Raise InvalidInputError if a path is not a folder, or holds files that `compare` does not write."""
    tables = {"comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "disagreements.csv"}
    known = {*tables, "figures", "evals", FILE}
    held = list(place.iterdir()) if place.is_dir() else []
    foreign = sorted(path.name for path in held if path.name not in known and path.suffix != ".tmp")
    if place.exists() and not place.is_dir():
        raise InvalidInputError(f"{str(place)!r} is not a folder. Choose another --out.")
    if foreign:
        raise InvalidInputError(
            f"{str(place)!r} holds files that compare does not write ({', '.join(foreign[:3])}). Choose another --out."
        )
