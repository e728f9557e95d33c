"""The overview: one line for each model and estimator, as ready text. The page, notebooks and the CSV share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from antiphase.page.document import Document, Subject
from antiphase.page.wording import ESTIMATORS, verdict, warnings_of


@dataclass(frozen=True)
class Line:
    """One model and estimator.

    Args:
        subject: its place in the document.
        label: the model.
        reading: the numbers, as in summary.json.
        verdict: of the pooled ρ.
        warnings: what weakens it.
        unfinished: the run goes on, or was cut.
    """

    subject: int
    label: str
    reading: Mapping[str, Any]
    verdict: str
    warnings: Sequence[str]
    unfinished: bool


def lines_of(document: Document) -> list[Line]:
    """The lines, subject by subject; an evaluation without signals has one."""
    lines = []
    for place, subject in enumerate(document.subjects):
        unfinished = not document.runs[subject.run].finished
        for reading in subject.readings:
            warned = _warnings(subject, reading)
            lines.append(Line(place, subject.label, reading, verdict(reading), warned, unfinished))
    return lines


def _warnings(subject: Subject, reading: Mapping[str, Any]) -> list[str]:
    if str(reading["estimator"]) not in ESTIMATORS:
        return ["no signals were measured"]
    return warnings_of(reading, subject.shuffled.get(str(reading["estimator"]), np.zeros(0)))


def estimators_of(document: Document) -> dict[str, str]:
    """The estimators on the page, and what each is and is not."""
    names = dict.fromkeys(str(reading["estimator"]) for subject in document.subjects for reading in subject.readings)
    return {name: ESTIMATORS[name] for name in names if name in ESTIMATORS}


def measured_of(lines: Sequence[Line]) -> list[str]:
    """What was measured, one text for every way that occurs; more than one are not alike."""
    found: dict[str, None] = {}
    for line in lines:
        r = line.reading
        if str(r["estimator"]) in ESTIMATORS:
            projections = "".join(map(str, r["projections"] or []))
            found[f"{r['norm']} norm of the {r['target']} gradient, projections {projections}, temperature "
                  f"{r['temperature']:g}"] = None  # fmt: skip
    return list(found)


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.123` with a real minus sign; `undefined` for None.

    >>> signed(-0.12345)
    '−0.123'
    """
    return "undefined" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def interval(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """`[−0.20, −0.10]`; a dash where there is none."""
    if entry is None or entry.get("low") is None or entry.get("high") is None:
        return "—"
    return f"[{signed(entry['low'], digits)}, {signed(entry['high'], digits)}]"


def share(entry: Mapping[str, Any] | None) -> str:
    """`0.612 [0.540, 0.679]`; a dash where unknown."""
    if entry is None or entry.get("value") is None:
        return "—"
    known = entry.get("low") is not None and entry.get("high") is not None
    return f"{entry['value']:.3f}" + (f" [{entry['low']:.3f}, {entry['high']:.3f}]" if known else "")


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or in scientific notation where they would all be 0; a dash for None.

    >>> number(0.25), number(0.00005)
    ('0.250', '5.00e−05')
    """
    if value is None:
        return "—"
    small = 0 < abs(value) < 0.5 * 10**-digits
    return (f"{value:.2e}" if small else f"{value:.{digits}f}").replace("-", "−")
