"""Numbers, intervals and tables as the console shows them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.runs.units import by_unit

_WIDEST = 1000
_TEXTS = ("model", "checkpoint", "estimator")


def signed(value: float | None) -> str:
    """`+0.123` with a real minus sign; `undefined` for None."""
    return "undefined" if value is None else f"{value:+.3f}".replace("-", "−")


def interval_text(entry: Mapping[str, float | None]) -> str:
    """`[−0.20, −0.10]`, or nothing where there is no interval."""
    if entry["low"] is None:
        return "—"
    return f"[{signed(entry['low'])}, {signed(entry['high'])}]"


def with_interval(entry: Mapping[str, float | None] | None) -> str:
    """`−0.15 [−0.20, −0.10]`; a dash where nothing was measured."""
    if entry is None:
        return "—"
    return signed(entry["value"]) if entry["low"] is None else f"{signed(entry['value'])} {interval_text(entry)}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table without a limit on its width, so that every row has one line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name in _TEXTS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=_WIDEST, color_system=None, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().split("\n") if line.strip()]


def unit_note(result: Mapping[str, Any]) -> str:
    """A note that explains the units, with the splitter and the step strength of the result."""
    return (
        "by type: means over each distinct token id (the paper's fingerprint); by token: positions; by step: the "
        f"parts of a rollout ({result.get('splitter', 'sentence')}; strength: {result.get('step_strength', 'mean')})."
    )


def ends_note(result: Mapping[str, Any]) -> str | None:
    """A note that says how many given rollouts of a model lack an end token; None if none does."""
    count = result.get("num_without_end")
    if not count:
        return None
    return (
        f"{count:,} given {'rollout does' if count == 1 else 'rollouts do'} not end with an end token of the model, "
        "so where the model stops is not measured there."
    )


def undefined_note(result: Mapping[str, Any]) -> str | None:
    """A note that says how many rollouts have no ρ of their own by each unit; None if all have one."""
    units = {unit: entry["num_undefined"] for unit, entry in by_unit(result).items() if entry["num_undefined"]}
    if not units:
        return None
    counts = ", ".join(f"{count} of {result['num_rollouts']} by {unit}" for unit, count in units.items())
    return f"rollouts without a ρ of their own (too few items, or constant ones): {counts}."
