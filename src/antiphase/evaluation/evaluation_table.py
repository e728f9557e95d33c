"""Write the results of an evaluation as tables and notes for the console."""

from collections.abc import Callable, Sequence
from typing import Any

from antiphase.evaluation.benchmark_table import BENCHMARK_NOTE, benchmark_table
from antiphase.evaluation.rivals import rivals_note
from antiphase.evaluation.task_metrics import largest
from antiphase.evaluation.text_tables import WIDTH, Entry, new_table, printed, share_text, text_table, value_text
from antiphase.evaluation.two_scores import TWO_SCORES, TWO_SCORES_NOTE, differ_from_accuracy
from antiphase.models.fact_notes import layers_note, quantization_note
from antiphase.runs.rivals import LATER, SCORES
from antiphase.runs.table_text import (
    ends_note,
    interval_text,
    of_part,
    parts_note,
    segment_note,
    server_note,
    shown_parts,
    signed,
    unit_note,
    with_interval,
)
from antiphase.runs.units import by_unit, headline_of
from antiphase.tasks.suites import asked_entry


def render_evaluation(summary: Entry, width: int = WIDTH) -> str:
    """Return the results of an evaluation as one text for the console.

    The tables show the accuracies, the signals, and how well scores tell right rollouts from wrong ones. Notes follow.
    """
    results = summary["results"]
    parts: list[Any] = _accuracies(results, summary.get("config", {}))
    if summary.get("benchmark"):
        parts += [text_table(*benchmark_table(summary["benchmark"], "model"), left=2), BENCHMARK_NOTE]
    measured = [result for result in results if "signals" in result]
    if measured:
        parts += [_signals(measured), _counts(measured), _inside(measured)]
    return printed([*parts, *_notes(results, measured)], width)


def _names(result: Entry) -> tuple[Any, Any]:
    from rich.text import Text

    return Text(result["model"]), Text(result["task"])


def _accuracies(results: Sequence[Entry], config: Entry) -> list[Any]:
    """Make the tables of accuracies, one for each group of tasks with the same columns.

    The columns show every k that the user chose. If the user chose none, they show the largest k.
    """
    chosen = {entry.spec: entry.k for entry in map(asked_entry, config.get("tasks") or ())}
    # Accuracies do not depend on the estimator, so the first result of each model and task stands for all.
    first: dict[tuple[str, str], Entry] = {}
    for result in results:
        first.setdefault((result["model"], result["task"]), result)
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for result in first.values():
        ks = chosen.get(result["task"]) or config.get("k")
        groups.setdefault(_columns(result["metrics"], ks), []).append(result)
    return [_accuracy_table(names, group) for names, group in groups.items()]


def _columns(metrics: Entry, ks: Sequence[int] | None) -> tuple[str, ...]:
    """Return the names of the columns: the mean of the samples, then pass@k, then maj@k.

    Pass@1 has no column, because it equals the mean.
    """
    names = [largest(metrics, "avg")]
    for prefix in ("pass", "maj"):
        names += [largest(metrics, prefix)] if not ks else [f"{prefix}@{k}" for k in sorted(set(ks)) if k > 1]
    return tuple(name for name in names if name in metrics)


def _accuracy_table(names: Sequence[str], results: Sequence[Entry]) -> Any:
    """Make one table with the accuracies of some results. `names` are the names of the metrics in its columns."""
    average, others = names[:1], names[1:]
    two = TWO_SCORES if any(differ_from_accuracy(result["metrics"]) for result in results) else ()
    heads = [*(f"{name} [95 %]" for name in average), "greedy [95 %]", *two, *others, "cut", "form"]
    table = new_table(["model", "task", "problems", *heads], left=2)
    for result in results:
        metrics = result["metrics"]
        table.add_row(
            *_names(result),
            str(result["num_problems"]),
            *(share_text(metrics[name]) for name in average),
            share_text(metrics.get("greedy")),
            *(_of_some(metrics[name], result["num_problems"]) for name in two),
            *(value_text(metrics[name]) for name in others),
            value_text(metrics["truncated"], 2),
            value_text(metrics["well_formed"], 2),
        )
    return table


def _of_some(entry: Entry, problems: int) -> str:
    """Return the value of a metric as text; a dash if it is None.

    A metric is a mapping with `value` and `num_problems`. If the value is a mean over fewer than `problems` problems,
    the number of its problems follows in brackets.
    """
    if entry["value"] is None:
        return "—"
    number = entry["num_problems"]
    return value_text(entry) + ("" if number == problems else f" ({number})")


def _units(results: Sequence[Entry]) -> list[str]:
    """Return the units (`type`, `token`, `step`) in the order in which the tables show them.

    The first is the headline unit, whose correlation ρ is shown first.
    """
    first = headline_of(results[0]["signals"])
    return [first, *(unit for unit in ("type", "token", "step") if unit != first)]


def _of_estimators(results: Sequence[Entry], columns: Sequence[str], cells: Callable[[Entry], list[str]]) -> Any:
    """Make a table with a row for each model, task and estimator.

    If there are several estimators, a column names them. `cells` returns the other cells of a row from the signals of
    a result.
    """
    several = len({result["estimator"] for result in results}) > 1
    table = new_table(["model", "task", *(["estimator"] if several else []), *columns], left=2)
    for result in results:
        table.add_row(*_names(result), *([result["estimator"]] if several else []), *cells(result["signals"]))
    return table


def _signals(results: Sequence[Entry]) -> Any:
    first, *others = _units(results)
    parts = shown_parts([result["signals"] for result in results])

    def cells(signals: Entry) -> list[str]:
        return [
            with_interval(by_unit(signals).get(first)),
            *(of_part(signals, part, first) for part in parts),
            *(with_interval(by_unit(signals).get(unit)) for unit in others),
            signed(signals["logprob_control"]["value"]),
            "—" if signals["entropy_mean"] is None else f"{signals['entropy_mean']:.2f}",
        ]

    columns = [f"ρ by {first}", *parts, *(f"ρ by {unit}" for unit in others)]
    return _of_estimators(results, [*columns, "control", "entropy"], cells)


def _counts(results: Sequence[Entry]) -> Any:
    """Make the table of counts: how many rollouts have no ρ of their own, and over how many items ρ is computed.

    ρ is the correlation of entropy and strength. Both counts are given for each unit (type, token, step).
    """
    order, counts = _units(results), ("num_undefined", "num_items")

    def cells(signals: Entry) -> list[str]:
        units = [by_unit(signals).get(unit, {}) for unit in order]
        return [
            str(signals["num_rollouts"]),
            *("—" if unit.get(key) is None else f"{unit[key]:,}" for key in counts for unit in units),
        ]

    without = [f"no ρ by {order[0]}", *(f"by {unit}" for unit in order[1:])]
    return _of_estimators(results, ["rollouts", *without, *(f"{unit}s" for unit in order)], cells)


def _inside(results: Sequence[Entry]) -> Any:
    table = new_table(
        ["model", "task", "score", "AUROC [95 %]", "problems", f"best of {_best_k(results)}", "gain"], left=3
    )
    for result in results:
        inside = result["inside"]
        areas, k = inside["auroc"], max(inside["best_of"], key=int, default=None)
        names = _names(result)
        if all(area["value"] is None for area in areas.values()):
            table.add_row(*names, "—", "no mixed problem", "0", "", "")
            continue
        for name in (*(name for name in SCORES if name not in LATER), "majority", "random", "oracle"):
            area = areas.get(name)
            picked = inside["best_of"][k][name] if k is not None else None
            table.add_row(
                *names,
                f"{name} ({result['estimator']})" if name == "inversion" else name,
                "" if name not in SCORES else share_text(area),
                "" if area is None else str(area["num_problems"]),
                "—" if picked is None else value_text(picked["accuracy"]),
                "" if picked is None or name == "random" else _gain_text(picked["gain"]),
            )
            names = ("", "")
    return table


def _best_k(results: Sequence[Entry]) -> str:
    ks = {max(result["inside"]["best_of"], key=int, default="k") for result in results}
    return ks.pop() if len(ks) == 1 else "k"


def _gain_text(entry: Entry) -> str:
    return f"{signed(entry['value'])} {interval_text(entry)}"


def _notes(results: Sequence[Entry], measured: Sequence[Entry]) -> list[str]:
    notes = [
        "Intervals: 95 %, over problems. cut: share of the completions that reached the length limit. form: share of "
        "the completions that present their answer as the prompt asks."
    ]
    if any(differ_from_accuracy(result["metrics"]) for result in results):
        notes.append(TWO_SCORES_NOTE)
    if measured:
        estimators = dict.fromkeys(result["estimator"] for result in measured)
        notes += [
            "ρ: Spearman correlation of token entropy and gradient strength over the sampled rollouts; negative = "
            f"inverted; ι = −ρ. Estimator: {', '.join(estimators)}. control: the same with ‖∂ ln p/∂z‖, which follows "
            "entropy by construction.",
            unit_note(measured[0]),
            *segment_note([result["signals"] for result in measured]),
            "no ρ: number of rollouts without a ρ of their own over the unit, because they are too short or a signal "
            "is constant. Their items still count in the pooled ρ above. A rollout without a ρ over the first unit "
            "has no ι in the scores. types, tokens, steps: number of items of the pooled ρ.",
            "AUROC: how well the score tells right from wrong rollouts of the same problem (0.5 is chance), over the "
            "mixed problems, which have both right and wrong rollouts. gain: accuracy if the rollout with the best "
            "score is picked, minus the accuracy of a random pick.",
        ]
    for note in (quantization_note, layers_note, ends_note, server_note) if measured else (ends_note, server_note):
        by_model = {entry["model"]: note(entry) for entry in results}
        notes += [f"{model}: {text}" for model, text in by_model.items() if text is not None]
    for result in measured:
        said = (parts_note(result["signals"], headline_of(result["signals"])), rivals_note(result))
        case = f"{result['model']}, {result['task']}, {result['estimator']}"
        notes += [f"{case}: {text}" for text in said if text is not None]
    if any(entry["num_rollouts"] and entry["num_problems"] < 30 for entry in results):
        notes.append("There are fewer than 30 problems, so the intervals are wide.")
    return notes
