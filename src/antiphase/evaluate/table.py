"""The console table of an evaluation."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.evaluate.metrics import SCORES
from antiphase.probing.table import interval_text, signed

Entry = Mapping[str, Any]


def share_text(entry: Entry | None) -> str:
    """`0.431 [0.380, 0.484]`; a dash where there is none, `undefined` for null."""
    if entry is None:
        return "—"
    if entry["value"] is None:
        return "undefined"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def value_text(entry: Entry | None, digits: int = 3) -> str:
    """The value alone."""
    if entry is None:
        return "—"
    return "undefined" if entry["value"] is None else f"{entry['value']:.{digits}f}"


def largest(metrics: Entry, prefix: str) -> tuple[str, Entry | None]:
    """Name and entry of the metric with the largest k, as `pass@8`; (`pass@k`, None) where there is none."""
    names = [name for name in metrics if name.startswith(f"{prefix}@")]
    name = max(names, key=lambda name: int(name.partition("@")[2]), default=f"{prefix}@k")
    return name, metrics.get(name)


def new_table(columns: Sequence[str], left: int = 1) -> Any:
    """A rich table in the house's look; the first `left` columns are text."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        if place < left:
            table.add_column(name, overflow="fold", max_width=30, min_width=min(9, len(name)))
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def printed(parts: Sequence[Any], width: int = 118) -> str:
    """Tables and notes as text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    for part in parts:
        console.print(part, markup=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def render_evaluation(summary: Entry, width: int = 118) -> str:
    """The results of an evaluation as text: accuracy, signals, and what tells right from wrong, with notes."""
    results = summary["results"]
    parts: list[Any] = [_accuracies(results)]
    measured = [result for result in results if "signals" in result]
    if measured:
        parts += [_signals(measured), _inside(measured)]
    return printed([*parts, *_notes(results, measured)], width)


def _names(result: Entry) -> tuple[Any, Any]:
    from rich.text import Text

    return Text(result["model"]), Text(result["task"])


def _accuracies(results: Sequence[Entry]) -> Any:
    first = [result for place, result in enumerate(results) if _first(results, place)]
    samples = max(result["num_samples"] for result in first)
    table = new_table(
        [
            "model",
            "task",
            "problems",
            f"avg@{samples or 'k'} [95 %]",
            "pass@k",
            "maj@k",
            "greedy [95 %]",
            "cut",
            "form",
        ],
        left=2,
    )
    for result in first:
        metrics = result["metrics"]
        (_, average), (pass_name, passed), (vote_name, vote) = (largest(metrics, p) for p in ("avg", "pass", "maj"))
        table.add_row(
            *_names(result),
            str(result["num_problems"]),
            share_text(average),
            "—" if passed is None else f"{value_text(passed)} @{pass_name.partition('@')[2]}",
            "—" if vote is None else f"{value_text(vote)} @{vote_name.partition('@')[2]}",
            share_text(metrics.get("greedy")),
            value_text(metrics["truncated"], 2),
            value_text(metrics["well_formed"], 2),
        )
    return table


def _first(results: Sequence[Entry], place: int) -> bool:
    """Whether a result is the first of its model and task: accuracies do not depend on the estimator."""
    own = (results[place]["model"], results[place]["task"])
    return all((result["model"], result["task"]) != own for result in results[:place])


def _signals(results: Sequence[Entry]) -> Any:
    columns = ["model", "task", "estimator", "ρ pooled", "95 %", "ρ per rollout", "ρ control", "entropy", "strength"]
    table = new_table([*columns, "undefined"], left=3)
    for result in results:
        signals = result["signals"]
        mean = signals["strength_mean"]
        table.add_row(
            *_names(result),
            result["estimator"],
            signed(signals["spearman"]["value"]),
            interval_text(signals["spearman"]),
            signed(signals["spearman_within"]["value"]),
            signed(signals["logprob_control"]["value"]),
            "—" if signals["entropy_mean"] is None else f"{signals['entropy_mean']:.2f}",
            "—" if mean is None else f"{mean:.3g}",
            f"{signals['num_undefined']}/{signals['num_rollouts']}",
        )
    return table


def _inside(results: Sequence[Entry]) -> Any:
    table = new_table(["model", "task", "score of a rollout", "AUROC [95 %]", "problems", "best of k", "gain"], left=3)
    for result in results:
        inside = result["inside"]
        k = max(inside["best_of"], key=int, default=None)
        for place, name in enumerate(SCORES):
            area = inside["auroc"].get(name)
            picked = inside["best_of"][k][name] if k is not None else None
            table.add_row(
                *(_names(result) if place == 0 else ("", "")),
                f"{name} ({result['estimator']})" if name == "inversion" else name,
                share_text(area),
                "—" if area is None else str(area["num_problems"]),
                "—" if picked is None else f"{value_text(picked['accuracy'])} @{k}",
                "—" if picked is None else _gain_text(picked["gain"]),
            )
        if k is not None:
            for name in ("majority", "random", "oracle"):
                picked = inside["best_of"][k][name]
                table.add_row(
                    "", "", name, "", "", f"{value_text(picked['accuracy'])} @{k}", _gain_text(picked["gain"])
                )
    return table


def _gain_text(entry: Entry) -> str:
    return f"{signed(entry['value'])} {interval_text(entry)}"


def _notes(results: Sequence[Entry], measured: Sequence[Entry]) -> list[str]:
    notes = [
        "Intervals: 95 % over problems. cut: share of completions at the length limit. form: share that presents its "
        "answer as asked."
    ]
    if measured:
        notes += [
            "ρ: Spearman correlation of token entropy and gradient strength over the sampled rollouts; negative = "
            "inverted; ι = −ρ. control: the same with ‖∂ ln p/∂z‖, which follows entropy by construction.",
            "AUROC: does the score tell right from wrong rollouts of the same problem (0.5 is chance), over the "
            "problems that have both. gain: accuracy of picking by the score above picking at random.",
        ]
    if any(entry["num_rollouts"] and entry["num_problems"] < 30 for entry in results):
        notes.append("Fewer than 30 problems: the intervals are wide for a reason.")
    return notes
