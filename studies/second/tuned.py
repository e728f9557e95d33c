"""The best trials of each method of the tuning, by mean accuracy over seeds.

    python studies/second/tuned.py studies/second/results-tiny-tuning    # the first round
    python studies/second/tuned.py studies/second/results-tiny-tuning studies/second/results-tiny-finals

A second folder holds a second round, with other seeds, of the two best trials of each method. The winner of a method
is the better one of the two, over the seeds of both rounds. A trial is named METHOD-lrRATE or METHOD-lrRATE-wWEIGHT.
If two trials are equally good, the one with the lower learning rate comes first, then the one with the lower weight. A
method whose best learning rate is the highest or the lowest that was tried may have a better one outside.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_TRIAL = re.compile(r"(?P<method>.+?)-lr(?P<rate>[\d_e+-]+?)(?:-w(?P<weight>\d+))?")


class Trial(NamedTuple):
    """What one method got in one trial.

    Args:
        method: the method.
        learning_rate: its learning rate.
        weight: λ, or the weight of the other reward, as it stands in the trial's name; empty if there is none.
        accuracy: the mean accuracy over the seeds.
        num_seeds: the number of seeds.
    """

    method: str
    learning_rate: float
    weight: str
    accuracy: float
    num_seeds: int


def trials_of(records: Iterable[Mapping[str, Any]]) -> list[Trial]:
    """Return the trials of a study.

    Args:
        records: the records of its cells, as in cells.jsonl. Cells that are only evaluated are left out.

    Raises:
        ValueError: the name of a method says no learning rate.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record["trained"]:
            found[record["method"]].append(_accuracy(record))
    trials = []
    for name, accuracies in found.items():
        match = _TRIAL.fullmatch(name)
        if match is None:
            raise ValueError(f"the method {name!r} is not named METHOD-lrRATE or METHOD-lrRATE-wWEIGHT.")
        mean = sum(accuracies) / len(accuracies)
        trials.append(
            Trial(
                match["method"], float(match["rate"].replace("_", ".")), match["weight"] or "", mean, len(accuracies)
            )
        )
    return trials


def best_of(trials: Sequence[Trial], num: int = 1) -> list[Trial]:
    """Return the best trials of each method, the methods in their order, and the best trial of a method first.

    Args:
        trials: all trials.
        num: how many of each method.

    Raises:
        ValueError: the methods have unequal numbers of trials, or the trials unequal numbers of seeds. Then the sweep
            is not finished, and some methods would have had better chances.
    """
    numbers = {trial.method: sum(each.method == trial.method for each in trials) for trial in trials}
    if len(set(numbers.values())) > 1 or len({trial.num_seeds for trial in trials}) > 1:
        raise ValueError(f"every method needs equally many trials, with equally many seeds each; got {numbers}.")
    best = []
    for method in numbers:
        mine = [trial for trial in trials if trial.method == method]
        best += sorted(mine, key=lambda one: (-one.accuracy, one.learning_rate, one.weight))[:num]
    return best


def both_rounds(first: Sequence[Trial], second: Sequence[Trial]) -> list[Trial]:
    """Return the trials of the second round, with their accuracies over the seeds of both rounds.

    Args:
        first: all trials of the first round.
        second: those of the second round.

    Raises:
        ValueError: the second round does not hold the two best trials of each method of the first round.
    """
    before = {trial[:3]: trial for trial in best_of(first, 2)}
    if {trial[:3] for trial in second} != set(before):
        missing = sorted(_name(key) for key in set(before) - {trial[:3] for trial in second})
        extra = sorted(_name(key) for key in {trial[:3] for trial in second} - set(before))
        raise ValueError(
            "the second round must hold the two best trials of each method of the first one. "
            f"Missing: {', '.join(missing) or 'none'}. Not among the two best: {', '.join(extra) or 'none'}."
        )
    joined = []
    for late in second:
        early = before[late[:3]]
        num = early.num_seeds + late.num_seeds
        mean = (early.accuracy * early.num_seeds + late.accuracy * late.num_seeds) / num
        joined.append(late._replace(accuracy=mean, num_seeds=num))
    return joined


def _name(key: tuple[str, float, str]) -> str:
    return f"{key[0]} with {key[1]:g}{f' and weight {key[2]}' if key[2] else ''}"


def _accuracy(record: Mapping[str, Any]) -> float:
    """Return the mean pass@1 over a cell's tasks."""
    values = [entry["metrics"]["pass@1"]["value"] for entry in record["results"]]
    return sum(values) / len(values)


def _trials(results: Path) -> list[Trial]:
    """Read the trials of a folder of results."""
    text = (results / "cells.jsonl").read_text(encoding="utf-8")
    return trials_of(json.loads(line) for line in text.split("\n") if line)


def main() -> None:
    """Print all trials of each method as a Markdown table, the best ones in bold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="the folder of the first round")
    parser.add_argument("finals", type=Path, nargs="?", help="the folder of the second round, if there is one")
    args = parser.parse_args()
    trials = _trials(args.results)
    best = best_of(trials, 2)
    if args.finals is not None:
        trials = both_rounds(trials, _trials(args.finals))
        best = best_of(trials)
    print("| method | learning rate | weight | mean accuracy | seeds |\n|---|---|---|---|---|")
    for trial in trials:
        mark = "**" if trial in best else ""
        # A name has no point: w02 is a weight of 0.2.
        weight = trial.weight.replace("0", "0.", 1) or "—"
        print(
            f"| {trial.method} | {trial.learning_rate:g} | {weight} | {mark}{trial.accuracy:.3f}{mark} "
            f"| {trial.num_seeds} |"
        )


if __name__ == "__main__":
    main()
