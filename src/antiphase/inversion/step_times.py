"""Make the table that shows how long each part of a training took, such as generation, measuring and updates.

A trainer measures the seconds of each part between two optimizer steps. `time_table` sums them up over a run. Every
summary of a training holds this table, and the console and the page show it. Nothing here measures time.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

# The parts of an optimizer step, with the text that names each of them.
OF_A_STEP: Final[Mapping[str, str]] = {
    "generation": "generation",
    "reward": "reward functions",
    "measuring": "measuring inversion",
    "logprobs": "old and reference log-probabilities",
    "update": "update",
    "other": "other",
}
# What a training does between steps.
BETWEEN_STEPS: Final[Mapping[str, str]] = {"evaluation": "evaluation", "saving": "saving", "logging": "logging"}
PARTS: Final[tuple[str, ...]] = (*OF_A_STEP, *BETWEEN_STEPS)
PREFIX: Final = "seconds/"


def time_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how much time each part of a training took: one entry for each part, in the order of `PARTS`.

    The parts are, for example, the generation of rollouts and the update of the model.

    Args:
        rows: the rows of the run's file times.jsonl.

    Returns:
        Entries with four keys. The list is empty if there are no rows, as in runs of older versions.

        * `part`: the name of the part.
        * `median_seconds`: the median over the optimizer steps in which the part ran; 0 if it never ran.
        * `total_seconds`: the sum over the whole run.
        * `share`: the part's time divided by that of all optimizer steps; None for a part outside steps (evaluation).

    >>> rows = [{"num_steps": 1, "seconds/generation": 3.0, "seconds/update": 1.0}]
    >>> [entry for entry in time_table(rows) if entry["part"] == "update"]
    [{'part': 'update', 'median_seconds': 1.0, 'total_seconds': 1.0, 'share': 0.25}]
    """
    if not rows:
        return []
    totals = {part: sum(_seconds(row, part) for row in rows) for part in PARTS}
    of_steps = [row for row in rows if row.get("num_steps")]
    in_steps = {part: sum(_seconds(row, part) for row in of_steps) for part in OF_A_STEP}
    whole = sum(in_steps.values())
    return [
        {
            "part": part,
            "median_seconds": statistics.median([s for row in of_steps if (s := _seconds(row, part)) > 0] or [0.0]),
            "total_seconds": totals[part],
            "share": in_steps[part] / whole if part in in_steps and whole > 0 else None,
        }
        for part in PARTS
    ]


def table_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Return the result of `time_table` as a text table for the console; an empty text for an empty result."""
    if not table:
        return ""
    names = {**OF_A_STEP, **BETWEEN_STEPS}
    width = max(map(len, names.values()))
    lines = [f"{'where the time went':{width}}  seconds a step  share of a step  seconds in all"]
    for entry in table:
        share = "" if entry["share"] is None else f"{entry['share']:.1%}"
        lines.append(
            f"{names[entry['part']]:{width}}  {entry['median_seconds']:>14.2f}  {share:>15}  "
            f"{entry['total_seconds']:>14.1f}"
        )
    return "\n".join(lines)


def _seconds(row: Mapping[str, Any], part: str) -> float:
    return float(row.get(PREFIX + part) or 0.0)
