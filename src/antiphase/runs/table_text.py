"""Numbers, intervals and tables as the console shows them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.runs.units import by_unit
from antiphase.signal_spec import PARTS, Part

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


def shown_parts(results: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Return the segments, thought and answer, of which a table shows ρ; none if no rollout has a thought."""
    return [part for part in PARTS if any(part in (result.get("segments") or {}) for result in results)]


def of_part(result: Mapping[str, Any], part: Part, unit: str) -> str:
    """Return the value of ρ over a unit of one segment; a dash for a result that does not hold it."""
    entry = (result.get("segments") or {}).get(part)
    return "—" if entry is None or unit not in entry["units"] else signed(entry["units"][unit]["value"])


def parts_note(result: Mapping[str, Any], unit: str) -> str | None:
    """Return a note with ρ of each segment, its interval and what it is over; None for a result without thoughts."""
    texts = [
        f"ρ of the {part} by {unit} {with_interval(entry['units'].get(unit))} over {entry['num_tokens']:,} tokens of "
        f"{entry['num_rollouts']:,} of {result['num_rollouts']:,} rollouts"
        for part, entry in (result.get("segments") or {}).items()
    ]
    return f"{'; '.join(texts)}." if texts else None


def segment_note(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note on what is correlated and what a thought is; none if all tokens are, and there is no thought."""
    chosen, notes = results[0].get("segment", "all"), []
    if chosen != "all":
        notes.append(f"segment: only the tokens of the {chosen} are correlated. A rollout without them has no ρ.")
    if shown_parts(results):
        notes.append(
            "thought: from the beginning of a completion to the end of its last closing tag, such as </think>; "
            "answer: the rest. Their columns hold ρ by the first unit over the tokens of each alone."
        )
    return notes


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


def layers_note(result: Mapping[str, Any]) -> str | None:
    """Return a note that names the layers and projections that no measurement of a model covers; None without any."""
    found = result.get("left_out")
    if found is None:
        return None
    texts, total = [], found["num_layers"]
    kinds = found["without_attention"]
    if kinds:
        num = sum(map(len, kinds.values()))
        listed = "; ".join(f"{kind}: {ranges(numbers)}" for kind, numbers in kinds.items())
        texts.append(
            f"{total - num} of {total} layers have softmax attention and can be measured; {num} have none ({listed})"
        )
    absent = found["without_projection"]
    reusing = absent.get("K", [])
    joined = [number for number in absent.get("V", []) if number not in reusing]
    if reusing:
        texts.append(f"layers that use the keys and values of earlier layers have only Q and O: {ranges(reusing)}")
    if joined:
        texts.append(f"layers where one weight makes keys and values have it as K, and no V: {ranges(joined)}")
    return f"{'; '.join(texts)}."


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, with successive ones joined.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    groups: list[list[int]] = []
    for number in numbers:
        if groups and groups[-1][-1] + 1 == number:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)


def undefined_note(result: Mapping[str, Any]) -> str | None:
    """A note that says how many rollouts have no ρ of their own by each unit; None if all have one."""
    units = {unit: entry["num_undefined"] for unit, entry in by_unit(result).items() if entry["num_undefined"]}
    if not units:
        return None
    counts = ", ".join(f"{count} of {result['num_rollouts']} by {unit}" for unit, count in units.items())
    return f"rollouts without a ρ of their own (too few items, or constant ones): {counts}."
