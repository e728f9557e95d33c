"""Make the overview, which the page and notebooks show: one line for each model and estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antiphase.page.document import Document, Subject
from antiphase.page.wording import ESTIMATORS, signed, verdict, warnings_of


@dataclass(frozen=True)
class Line:
    """One line of the overview: a model, measured with one estimator.

    Args:
        label: the name of the model or checkpoint.
        reading: the numbers of the model and estimator, in the form that `reading_of` returns.
        verdict: words that say whether the correlation ρ is inverted (negative), such as `not inverted`. They are
            about ρ over the headline unit, the unit that is shown first.
        warnings: reasons to trust the numbers less.
        unfinished: whether the run is still going on or was interrupted.
    """

    label: str
    reading: Mapping[str, Any]
    verdict: str
    warnings: Sequence[str]
    unfinished: bool


def lines_of(document: Document) -> list[Line]:
    """Return the lines of the overview, one for each model and estimator.

    If an evaluation measured no signals, each model has one line.
    """
    return [
        Line(
            subject.label, reading, verdict(reading), _warnings(subject, reading),
            not document.runs[subject.run].finished,
        )
        for subject in document.subjects
        for reading in subject.readings
    ]  # fmt: skip


def _warnings(subject: Subject, reading: Mapping[str, Any]) -> list[str]:
    if str(reading["estimator"]) not in ESTIMATORS:
        return ["no signals were measured"]
    return warnings_of(reading, subject.shuffled.get(str(reading["estimator"]), np.zeros(0)))


def estimators_of(document: Document) -> dict[str, str]:
    """Return a mapping from the name of each estimator on the page to a text that explains it."""
    names = dict.fromkeys(str(reading["estimator"]) for subject in document.subjects for reading in subject.readings)
    return {name: ESTIMATORS[name] for name in names if name in ESTIMATORS}


def model_notes_of(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return a mapping from a note (on layers left out, or on quantisation) to the names of the models concerned."""
    found: dict[str, list[str]] = {}
    for line in lines:
        for note in line.reading.get("model_notes", ()):
            found[note] = list(dict.fromkeys([*found.get(note, []), line.label]))
    return found


def measured_of(lines: Sequence[Line]) -> list[str]:
    """Return one text for each way in which signals were measured: norm, target, projections and temperature.

    Numbers that were measured in different ways are not comparable.
    """
    found: dict[str, None] = {}
    for line in lines:
        r = line.reading
        if str(r["estimator"]) in ESTIMATORS:
            projections = "".join(map(str, r["projections"] or []))
            found[f"{r['norm']} norm of the {r['target']} gradient, projections {projections}, temperature "
                  f"{r['temperature']:g}"] = None  # fmt: skip
    return list(found)


def interval(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return the interval of an entry as text, such as `[−0.200, −0.100]`; a dash if there is none.

    The entry is a mapping with `low` and `high`.
    """
    if entry is None or entry.get("low") is None or entry.get("high") is None:
        return "—"
    return f"[{signed(entry['low'], digits)}, {signed(entry['high'], digits)}]"


def share(entry: Mapping[str, Any] | None) -> str:
    """Return a share with its interval as text, such as `0.612 [0.540, 0.679]`; a dash if the value is unknown.

    The entry is a mapping with `value`, `low` and `high`.
    """
    if entry is None or entry.get("value") is None:
        return "—"
    known = entry.get("low") is not None and entry.get("high") is not None
    return f"{entry['value']:.3f}" + (f" [{entry['low']:.3f}, {entry['high']:.3f}]" if known else "")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text with `digits` decimals; a dash for None.

    If all digits would be 0, scientific notation is used.

    >>> number(0.25), number(0.00005)
    ('0.250', '5.00e−05')
    """
    if value is None:
        return "—"
    small = 0 < abs(value) < 0.5 * 10**-digits
    return (f"{value:.2e}" if small else f"{value:.{digits}f}").replace("-", "−")
