"""The console table of an evaluation."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from antiphase.evaluation.task_metrics import SCORES
from antiphase.runs.table_text import (
    ends_note,
    interval_text,
    layers_note,
    of_part,
    parts_note,
    segment_note,
    shown_parts,
    signed,
    unit_note,
    with_interval,
)
from antiphase.runs.units import by_unit, headline_of
from antiphase.tasks.specs import parse_spec
from antiphase.tasks.suites import asked_entry

Entry = Mapping[str, Any]
WIDTH = 120
TWO_SCORES = ("strict", "flexible")
TWO_SCORES_NOTE = (
    "strict: the answer counts only in tags, in a box or where it is announced. flexible: the last number counts, "
    "wherever it stands; only problems whose reference is a number have it, and their number stands in brackets where "
    "it is not all."
)
_WIDEST = 240


def share_text(entry: Entry | None) -> str:
    """A share with its interval, such as `0.431 [0.380, 0.484]`; a dash for None, `undefined` for a null value."""
    if entry is None:
        return "—"
    if entry["value"] is None:
        return "undefined"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def value_text(entry: Entry | None, digits: int = 3) -> str:
    """The value of an entry without its interval; a dash for None, `undefined` for a null value."""
    if entry is None:
        return "—"
    return "undefined" if entry["value"] is None else f"{entry['value']:.{digits}f}"


def largest(metrics: Entry, prefix: str) -> tuple[str, Entry | None]:
    """Name and entry of the metric with the largest k, such as `pass@8`; (`pass@k`, None) where there is none."""
    names = [name for name in metrics if name.startswith(f"{prefix}@")]
    name = max(names, key=lambda name: int(name.partition("@")[2]), default=f"{prefix}@k")
    return name, metrics.get(name)


def new_table(columns: Sequence[str], left: int = 1) -> Any:
    """A rich table with these columns in the style of all tables here. The first `left` columns are text."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        if place < left:
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=24 if place else 44)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def printed(parts: Sequence[Any], width: int = WIDTH) -> str:
    """Tables and notes as text. Tables keep their width, and notes are wrapped at `width`."""
    from rich.console import Console
    from rich.table import Table

    file = io.StringIO()
    for part in parts:
        wide = _WIDEST if isinstance(part, Table) else width
        Console(file=file, width=wide, color_system=None, highlight=False).print(part, markup=False)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().split("\n"))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Any:
    """A rich table whose cells are texts."""
    from rich.text import Text

    table = new_table(list(header), left)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


BENCHMARK_NOTE = (
    "Pass@1: mean accuracy of the samples. Pass@k: some of k samples is right. Major@k: majority vote of k. mean: of "
    "these three. average: every task has the same weight, whatever its number of problems. Intervals: 95 % over "
    "problems, and over seeds where there are several."
)


def benchmark_table(table: Entry, what: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several tasks and their average. `what` heads the names: model or method."""
    header = [what, "task", *(f"{metric_title(metric)} [95 %]" for metric in table["metrics"])]
    short = [parse_spec(task).name for task in table["tasks"]]
    shown = dict(zip(table["tasks"], short, strict=True)) if len(set(short)) == len(short) else {}
    rows = [
        [
            row["name"],
            shown.get(row["task"], row["task"]),
            *(share_text(row["values"][metric]) for metric in table["metrics"]),
        ]
        for row in table["rows"]
    ]
    return header, rows


def metric_title(metric: str) -> str:
    """The heading of a metric in tables of several tasks.

    >>> [metric_title(metric) for metric in ("accuracy", "pass@16", "maj@16", "three@16")]
    ['Pass@1', 'Pass@16', 'Major@16', 'mean']
    """
    kind, _, k = metric.partition("@")
    return {"accuracy": "Pass@1", "pass": f"Pass@{k}", "maj": f"Major@{k}", "three": "mean"}[kind]


def render_evaluation(summary: Entry, width: int = WIDTH) -> str:
    """The results of an evaluation as text: accuracy, signals, how well scores tell right from wrong, and notes."""
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
    """A table for each group of tasks with the same columns: every k that the user chose, else the largest k."""
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
    """The names of the mean of the samples, then of pass@k and of maj@k. Pass@1 is that mean."""
    names = [largest(metrics, "avg")[0]]
    for prefix in ("pass", "maj"):
        names += [largest(metrics, prefix)[0]] if not ks else [f"{prefix}@{k}" for k in sorted(set(ks)) if k > 1]
    return tuple(name for name in names if name in metrics)


def _accuracy_table(names: Sequence[str], results: Sequence[Entry]) -> Any:
    """The accuracies of results that all have the metrics `names`: the mean of the samples, then pass@k and maj@k."""
    average, others = names[:1], names[1:]
    two = TWO_SCORES if any(_parted(result["metrics"]) for result in results) else ()
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


def headline_accuracy(metrics: Entry) -> Entry:
    """The accuracy of the samples, or of the greedy completions where nothing was sampled."""
    found: Entry = metrics.get(largest(metrics, "avg")[0]) or metrics["greedy"]
    return found


def _parted(metrics: Entry) -> bool:
    """Whether a strict or flexible score is known and differs from the accuracy."""
    scores = [metrics[name]["value"] for name in TWO_SCORES if name in metrics]
    return any(score not in (None, headline_accuracy(metrics)["value"]) for score in scores)


def _of_some(entry: Entry, problems: int) -> str:
    """The value of an entry, with the number of its problems where it is not over all of them."""
    if entry["value"] is None:
        return "—"
    number = entry["num_problems"]
    return value_text(entry) + ("" if number == problems else f" ({number})")


def _units(results: Sequence[Entry]) -> list[str]:
    """The units in the order of the tables: the headline comes first."""
    first = headline_of(results[0]["signals"])
    return [first, *(unit for unit in ("type", "token", "step") if unit != first)]


def _of_estimators(results: Sequence[Entry], columns: Sequence[str], cells: Callable[[Entry], list[str]]) -> Any:
    """A table with a row for each model, task and, where there are several, estimator."""
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
    """The number of rollouts without a ρ of their own, and the number of items of the pooled ρ."""
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
        for name in (*SCORES, "majority", "random", "oracle"):
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
        "Intervals: 95 % over problems. cut: share of the completions that reached the length limit. form: share of "
        "the completions that present their answer as asked."
    ]
    if any(_parted(result["metrics"]) for result in results):
        notes.append(TWO_SCORES_NOTE)
    if measured:
        estimators = dict.fromkeys(result["estimator"] for result in measured)
        notes += [
            "ρ: Spearman correlation of token entropy and gradient strength over the sampled rollouts; negative = "
            f"inverted; ι = −ρ. Estimator: {', '.join(estimators)}. control: the same with ‖∂ ln p/∂z‖, which follows "
            "entropy by construction.",
            unit_note(measured[0]),
            *segment_note([result["signals"] for result in measured]),
            "no ρ: number of rollouts that are too short or constant for a ρ of their own over the unit. Their items "
            "still count in the pooled ρ above. A rollout without a ρ over the first unit has no ι in the scores. "
            "types, tokens, steps: number of items of the pooled ρ.",
            "AUROC: how well the score tells right from wrong rollouts of the same problem (0.5 is chance), over the "
            "mixed problems, which have both. gain: accuracy of picking by the score, minus that of random picking.",
        ]
    for note in (layers_note, ends_note) if measured else (ends_note,):
        by_model = {entry["model"]: note(entry) for entry in results}
        notes += [f"{model}: {text}" for model, text in by_model.items() if text is not None]
    for result in measured:
        said = parts_note(result["signals"], headline_of(result["signals"]))
        notes += [] if said is None else [f"{result['model']}, {result['task']}, {result['estimator']}: {said}"]
    if any(entry["num_rollouts"] and entry["num_problems"] < 30 for entry in results):
        notes.append("There are fewer than 30 problems, so the intervals are wide.")
    return notes
