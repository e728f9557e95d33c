"""The console table of a run."""

import io
from collections.abc import Mapping
from typing import Any

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


def render_table(summary: Mapping[str, Any], width: int = 118) -> str:
    """The results of a run as text: one line per model and estimator, then notes on how to read them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold", max_width=30)
    table.add_column("estimator")
    for name in ("ρ pooled", "95 % interval", "ρ per rollout", "ρ control", "tokens", "rollouts", "undefined"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in summary["results"]:
        table.add_row(
            Text(result["model"]),
            result["estimator"],
            signed(result["spearman"]["value"]),
            interval_text(result["spearman"]),
            signed(result["spearman_within"]["value"]),
            signed(result["logprob_control"]["value"]),
            f"{result['num_tokens']:,}",
            str(result["num_rollouts"]),
            str(result["num_undefined"]),
        )
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(table)
    for note in _notes(summary):
        console.print(note, markup=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def _notes(summary: Mapping[str, Any]) -> list[str]:
    first = summary["results"][0]
    notes = [
        f"ρ: Spearman correlation of token entropy and gradient strength ({first['norm']} norm of the "
        f"{first['target']} gradient); negative = inverted. Intervals over prompts.",
        *(f"{name}: {_ESTIMATES[name]}." for name in dict.fromkeys(r["estimator"] for r in summary["results"])),
        "control: the same with ‖∂ ln p/∂z‖, which follows entropy by construction; it is no fingerprint.",
    ]
    if any(result["num_undefined"] for result in summary["results"]):
        notes.append(
            f"undefined: rollouts with fewer than {summary['config']['min_tokens']} measured tokens, or with a "
            "constant series."
        )
    for entry in summary["agreement"]:
        left, right = entry["estimators"]
        notes.append(
            f"{entry['model']}: ρ(strength by {left}, strength by {right}) = {signed(entry['spearman']['value'])} "
            f"{interval_text(entry['spearman'])}, {entry['num_tokens']:,} tokens."
        )
    return notes
