"""The best trial of each method of the tuning study, by mean accuracy over its seeds.

    python studies/second/tuned.py studies/second/results-tiny-tuning

A trial is named METHOD-lrRATE or METHOD-lrRATE-wWEIGHT. If two trials are equally good, the one with the lower
learning rate wins, then the one with the lower weight. A method whose best learning rate is the highest or the lowest
that was tried may have a better one outside.
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


def best_of(trials: Sequence[Trial]) -> list[Trial]:
    """Return the best trial of each method, in the order of the methods.

    Raises:
        ValueError: the methods have unequal numbers of trials, or the trials unequal numbers of seeds. Then the sweep
            is not finished, and some methods would have had better chances.
    """
    numbers = {trial.method: sum(each.method == trial.method for each in trials) for trial in trials}
    if len(set(numbers.values())) > 1 or len({trial.num_seeds for trial in trials}) > 1:
        raise ValueError(f"every method needs equally many trials, with equally many seeds each; got {numbers}.")
    best: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda one: (one.learning_rate, one.weight)):
        if trial.method not in best or trial.accuracy > best[trial.method].accuracy:
            best[trial.method] = trial
    return [best[method] for method in dict.fromkeys(trial.method for trial in trials)]


def _accuracy(record: Mapping[str, Any]) -> float:
    """Return the mean pass@1 over a cell's tasks."""
    values = [entry["metrics"]["pass@1"]["value"] for entry in record["results"]]
    return sum(values) / len(values)


def main() -> None:
    """Print all trials of each method as a Markdown table, the best one in bold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="the folder of the tuning study")
    file = parser.parse_args().results / "cells.jsonl"
    trials = trials_of(json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
    best = set(best_of(trials))
    print("| method | learning rate | weight | mean accuracy | seeds |\n|---|---|---|---|---|")
    for trial in trials:
        mark = "**" if trial in best else ""
        weight = trial.weight or "—"
        print(
            f"| {trial.method} | {trial.learning_rate:g} | {weight} | {mark}{trial.accuracy:.3f}{mark} "
            f"| {trial.num_seeds} |"
        )


if __name__ == "__main__":
    main()
