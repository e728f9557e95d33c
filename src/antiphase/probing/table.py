"""The console table of a run."""

import io
from collections.abc import Mapping
from typing import Any

from antiphase.probing.units import by_unit, headline_of

# The links of the paper's own argument, as the notes name them.
_CHAIN = {"entropy–logit": "H and logit", "logit–hidden": "logit and ‖h‖", "hidden–strength": "‖h‖ and strength"}
_ESTIMATES = {
    "own": "own-position term, every chosen layer",
    "oracle-own": "own-position term by its definition",
    "last": "full context, last layer",
    "full": "full context, every chosen layer",
    "oracle": "full context by its definition",
}


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


def render_table(summary: Mapping[str, Any], width: int = 118) -> str:
    """The results of a run as text: one line per model and estimator, then notes on how to read them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold", max_width=24)
    table.add_column("estimator")
    first = headline_of(summary["results"][0])
    order = [first, *(unit for unit in ("type", "token", "step") if unit != first)]
    for name in (*(f"ρ by {unit}" for unit in order), "control", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in summary["results"]:
        units = by_unit(result)
        table.add_row(
            Text(result["model"]),
            result["estimator"],
            *(with_interval(units.get(unit)) for unit in order),
            signed(result["logprob_control"]["value"]),
            f"{result['num_tokens']:,}",
        )
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(table)
    for note in _notes(summary):
        console.print(note, markup=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def unit_note(result: Mapping[str, Any]) -> str:
    """What the units of a result are, with the splitter and the step strength that it was measured by."""
    return (
        "by type: means over each distinct token id (the paper's fingerprint); by token: positions; by step: the "
        f"parts of a rollout ({result.get('splitter', 'sentence')}; strength: {result.get('step_strength', 'mean')})."
    )


def _counted(num: int, noun: str) -> str:
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def undefined_note(result: Mapping[str, Any]) -> str | None:
    """How many rollouts have no ρ of their own over each unit; None where all have one."""
    units = {unit: entry["num_undefined"] for unit, entry in by_unit(result).items() if entry["num_undefined"]}
    if not units:
        return None
    counts = ", ".join(f"{count} of {result['num_rollouts']} by {unit}" for unit, count in units.items())
    return f"rollouts without a ρ of their own (too few items, or constant ones): {counts}."


def _of_result(result: Mapping[str, Any]) -> list[str]:
    units, undefined = by_unit(result), undefined_note(result)
    texts = [] if undefined is None else [undefined]
    if "step" in units:
        step = units["step"]
        windows = ", ".join(f"{name} {with_interval(value)}" for name, value in step["windows"].items())
        texts.append(
            f"{_counted(step['num_items'], 'step')}; ρ with their lengths and places held fixed "
            f"{with_interval(step['given']['both'])}; over windows of tokens instead: {windows}."
        )
    if "chain" in result:
        links = [link for link in result["chain"] if link["link"] in _CHAIN]
        texts.append("the paper's chain: " + "; ".join(f"{_CHAIN[k['link']]} {_verdict(k)}" for k in links) + ".")
    return texts


def _verdict(link: Mapping[str, Any]) -> str:
    return f"{signed(link['value'])} ({link['verdict']})"


def _notes(summary: Mapping[str, Any]) -> list[str]:
    first = summary["results"][0]
    notes = [
        f"ρ: Spearman correlation of token entropy and gradient strength ({first['norm']} norm of the "
        f"{first['target']} gradient); negative = inverted. In brackets 95 % intervals over prompts.",
        unit_note(first),
        *(f"{name}: {_ESTIMATES[name]}." for name in dict.fromkeys(r["estimator"] for r in summary["results"])),
        "control: the same with ‖∂ ln p/∂z‖, which follows entropy by construction; it is no fingerprint.",
    ]
    for result in summary["results"]:
        notes += [f"{result['model']}, {result['estimator']}: {text}" for text in _of_result(result)]
    for entry in summary["agreement"]:
        left, right = entry["estimators"]
        notes.append(
            f"{entry['model']}: ρ(strength by {left}, strength by {right}) = {signed(entry['spearman']['value'])} "
            f"{interval_text(entry['spearman'])}, {_counted(entry['num_tokens'], 'token')}."
        )
    return notes
