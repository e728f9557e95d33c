"""Make the texts that the console shows of a run: numbers, intervals, tables, and notes on how to read them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.runs.units import by_unit
from antiphase.signal_spec import PARTS, Part

_WIDEST = 1000
_TEXTS = ("model", "checkpoint", "estimator")


def signed(value: float | None) -> str:
    """Return a number as `+0.123` or `−0.123`, with a real minus sign; `undefined` for None."""
    return "undefined" if value is None else f"{value:+.3f}".replace("-", "−")


def interval_text(entry: Mapping[str, float | None]) -> str:
    """Return the interval of an entry (a mapping with `low` and `high`) as `[−0.200, −0.100]`; a dash for None."""
    if entry["low"] is None:
        return "—"
    return f"[{signed(entry['low'])}, {signed(entry['high'])}]"


def with_interval(entry: Mapping[str, float | None] | None) -> str:
    """Return the value of an entry with its interval, as `−0.150 [−0.200, −0.100]`; a dash for None.

    An entry is a mapping with `value`, `low` and `high`. It is None if nothing was measured.
    """
    if entry is None:
        return "—"
    return signed(entry["value"]) if entry["low"] is None else f"{signed(entry['value'])} {interval_text(entry)}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. The width has no limit, so that every row is one line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name in _TEXTS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return [line for line in _printed([table], _WIDEST) if line]


def wrapped(notes: Sequence[str], width: int) -> list[str]:
    """Return the lines of some notes. Each note begins on a new line and is wrapped at `width`."""
    return _printed(notes, width)


def _printed(parts: Sequence[Any], width: int) -> list[str]:
    """Return the lines that rich prints, without trailing spaces."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, highlight=False)
    for part in parts:
        console.print(part, markup=False)
    return [line.rstrip() for line in file.getvalue().rstrip().split("\n")]


def shown_parts(results: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Return the segments (thought, answer) whose correlation ρ a table shows in a column of its own.

    The list is empty if no rollout has a thought.
    """
    return [part for part in PARTS if any(part in (result.get("segments") or {}) for result in results)]


def of_part(result: Mapping[str, Any], part: Part, unit: str) -> str:
    """Return the correlation ρ of one segment (thought or answer) as text; a dash if the result lacks it.

    `unit` is the unit over which ρ is computed: `type`, `token` or `step`.
    """
    entry = (result.get("segments") or {}).get(part)
    return "—" if entry is None or unit not in entry["units"] else signed(entry["units"][unit]["value"])


def parts_note(result: Mapping[str, Any], unit: str) -> str | None:
    """Return a note with the correlation ρ of thoughts and that of answers; None if no rollout has a thought.

    The note also gives the interval and the number of tokens of each ρ.
    """
    texts = [
        f"ρ of the {part} by {unit} {with_interval(entry['units'].get(unit))} over {entry['num_tokens']:,} tokens of "
        f"{entry['num_rollouts']:,} of {result['num_rollouts']:,} rollouts"
        for part, entry in (result.get("segments") or {}).items()
    ]
    return f"{'; '.join(texts)}." if texts else None


def segment_note(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes that explain the segments: which one is correlated, and what a thought is.

    The list is empty if all tokens are correlated and no rollout has a thought.
    """
    chosen, notes = results[0].get("segment", "all"), []
    if chosen != "all":
        notes.append(f"segment: only the tokens of the {chosen} are correlated. A rollout without them has no ρ.")
    if shown_parts(results):
        notes.append(
            "thought: from the beginning of a completion to the end of its last closing tag, such as </think>; "
            "answer: the rest. The columns of these names show ρ by the first unit for each of the two alone."
        )
    return notes


def unit_note(result: Mapping[str, Any]) -> str:
    """Return a note that explains the units (type, token, step), and how steps were split and measured."""
    return (
        "by type: means over each distinct token id (the paper's fingerprint); by token: positions; by step: the "
        f"parts of a rollout ({result.get('splitter', 'sentence')}; strength: {result.get('step_strength', 'mean')})."
    )


def ends_note(result: Mapping[str, Any]) -> str | None:
    """Return a note that says how many given rollouts of a model lack an end token; None if all have one."""
    count = result.get("num_without_end")
    if not count:
        return None
    return (
        f"{count:,} given {'rollout does' if count == 1 else 'rollouts do'} not end with an end token of the model, "
        "so where the model stops is not measured there."
    )


def server_note(result: Mapping[str, Any]) -> str | None:
    """Return a note on how many rollouts a server returned as text, not as token ids; None if there are none."""
    count = result.get("num_retokenised")
    if not count:
        return None
    texts, lengths = result["num_other_text"], result["num_other_length"]
    return (
        f"the server returned {count:,} {'rollout' if count == 1 else 'rollouts'} as text, which was tokenised again "
        f"here. Of these, {texts:,} do not decode to the server's text, and {lengths:,} do not have the number of "
        "tokens that the server counted: there, the measured tokens are not those that were sampled."
    )


def subsampling_note(result: Mapping[str, Any]) -> str | None:
    """Return a note on the error of ρ that arises because only some tokens, drawn at random, were measured.

    ρ is the correlation of entropy and strength, and the note gives its standard error. The note is None if all tokens
    were measured, or if the error is unknown. If the unit that is shown first is `step`, the note gives the error of
    the ρ over tokens.
    """
    units, targets = by_unit(result), result.get("targets_per_rollout")
    unit = "token" if result.get("headline") == "step" else result.get("headline", "token")
    error = units.get(unit, {}).get("subsampling_error")
    if not error or targets is None:
        return None
    return (
        f"at most {targets:,} tokens of each rollout were drawn and measured. The draw alone gives ρ by {unit} a "
        f"standard error of {error:.3f}, which is a part of its interval."
    )


def undefined_note(result: Mapping[str, Any]) -> str | None:
    """Return a note that says how many rollouts have no correlation ρ of their own; None if all have one.

    The number is given for each unit (type, token, step).
    """
    units = {unit: entry["num_undefined"] for unit, entry in by_unit(result).items() if entry["num_undefined"]}
    if not units:
        return None
    counts = ", ".join(f"{count} of {result['num_rollouts']} by {unit}" for unit, count in units.items())
    return f"rollouts without a ρ of their own (too few items, or constant ones): {counts}."
