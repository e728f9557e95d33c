"""Make the table of a probe for the console, with notes on how to read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.models.fact_notes import layers_note, quantization_note
from antiphase.runs.table_text import (
    aligned,
    ends_note,
    interval_text,
    of_part,
    parts_note,
    segment_note,
    server_note,
    shown_parts,
    signed,
    subsampling_note,
    undefined_note,
    unit_note,
    with_interval,
    wrapped,
)
from antiphase.runs.units import by_unit, headline_of

# The links of the paper's argument, and their names in the notes. H is the entropy, h the hidden state.
_CHAIN = {"entropy–logit": "H and logit", "logit–hidden": "logit and ‖h‖", "hidden–strength": "‖h‖ and strength"}
_ESTIMATES = {
    "own": "own-position term, every chosen layer",
    "oracle-own": "own-position term by its definition",
    "last": "full context, last layer",
    "full": "full context, every chosen layer",
    "oracle": "full context by its definition",
}


def render_table(summary: Mapping[str, Any], width: int = 118) -> str:
    """Return the results of a probe as text: one line for each model and estimator, then notes on how to read them."""
    first, parts = headline_of(summary["results"][0]), shown_parts(summary["results"])
    others = [unit for unit in ("type", "token", "step") if unit != first]
    header = ["model", "estimator", f"ρ by {first}", *parts, *(f"ρ by {unit}" for unit in others)]
    header += ["control", "tokens"]
    rows = [
        [
            result["model"],
            result["estimator"],
            with_interval(by_unit(result).get(first)),
            *(of_part(result, part, first) for part in parts),
            *(with_interval(by_unit(result).get(unit)) for unit in others),
            signed(result["logprob_control"]["value"]),
            f"{result['num_tokens']:,}",
        ]
        for result in summary["results"]
    ]
    lines = aligned(header, rows)
    if max(map(len, lines)) > width:
        lines = _under_names(header, rows)
    return "\n".join(["", *lines, "", *wrapped(_notes(summary), width)])


def _under_names(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table that has no column for the models.

    The name of a model has its own line, above the lines of its estimators. So the table is narrower.
    """
    head, rule, *lines = aligned(header[1:], [row[1:] for row in rows])
    named = []
    for place, (row, line) in enumerate(zip(rows, lines, strict=True)):
        if place == 0 or row[0] != rows[place - 1][0]:
            named.append(f" {row[0]}")
        named.append(f"  {line}")
    return [f"  {head}", f" {rule[1]}{rule[1]}{rule[1:]}", *named]


def _counted(num: int, noun: str) -> str:
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def _of_result(result: Mapping[str, Any]) -> list[str]:
    """Return the notes on the result of one model and estimator. They are printed below the table."""
    units = by_unit(result)
    notes = (undefined_note(result), subsampling_note(result), parts_note(result, headline_of(result)))
    texts = [note for note in notes if note is not None]
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
        *segment_note(summary["results"]),
        *(
            f"{name}: {_ESTIMATES.get(name, 'an estimator that was added')}."
            for name in dict.fromkeys(r["estimator"] for r in summary["results"])
        ),
        "control: the same with ‖∂ ln p/∂z‖, which follows entropy by construction; it is no fingerprint.",
    ]
    for note in (quantization_note, layers_note, ends_note, server_note):
        by_model = {result["model"]: note(result) for result in summary["results"]}
        notes += [f"{model}: {text}" for model, text in by_model.items() if text is not None]
    for result in summary["results"]:
        notes += [f"{result['model']}, {result['estimator']}: {text}" for text in _of_result(result)]
    for entry in summary["agreement"]:
        left, right = entry["estimators"]
        notes.append(
            f"{entry['model']}: ρ(strength by {left}, strength by {right}) = {signed(entry['spearman']['value'])} "
            f"{interval_text(entry['spearman'])}, {_counted(entry['num_tokens'], 'token')}."
        )
    return notes
