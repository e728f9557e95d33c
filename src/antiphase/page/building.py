"""Make the content of a page (a `Document`) from data in memory: tables and a summary, or a training trajectory."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from antiphase.inversion.step_times import BETWEEN_STEPS, OF_A_STEP, time_table
from antiphase.models.fact_notes import model_notes
from antiphase.page.document import Document, Run, Table, Training
from antiphase.page.kept_rollouts import kept_subject
from antiphase.page.subjects import subjects_of
from antiphase.page.wording import signed
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS

_SAMPLING = (
    "tasks", "samples", "k", "max_new_tokens", "temperature", "top_p", "num_prompts", "num_problems", "prompts",
    "rollouts",
)  # fmt: skip
_OF_A_RECIPE = (
    "model", "preset", "tasks", "inversion_combine", "inversion_weight", "inversion_estimator", "loss_type",
)  # fmt: skip
_LEAST = {"min_tokens": MIN_TOKENS, "min_steps": MIN_STEPS}
# The settings in which the seeds of one recipe differ.
_OF_A_SEED = ("seed", "data_seed", "output_dir", "run_name", "logging_dir", "tasks_seed")


def signals_document(
    kind: str,
    name: str,
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    summary: Mapping[str, Any],
    *,
    label: str | None = None,
    steps: pd.DataFrame | None = None,
    alternatives: pd.DataFrame | None = None,
    finished: bool = True,
    notes: Sequence[str] = (),
) -> Document:
    """Make the content of the page (a `Document`) about a probe or an evaluation.

    Args:
        kind: `probe` or `eval`.
        name: the name of the run's folder.
        tokens, rollouts: the tables of the run. If there are no tokens, the page shows only the overview.
        summary: the content of summary.json.
        label: the user's name for the run; None shows `name`.
        steps: the table of steps; None for an old run that did not measure steps.
        alternatives: the table of the most likely alternative tokens.
        finished: whether the run has its final summary.
        notes: sentences about the run, shown on the page.

    Raises:
        InvalidInputError: the tables do not match, or two models would have one name.
    """
    config = summary["config"]
    least = {name: int(config.get(name, default)) for name, default in _LEAST.items()}
    subjects = subjects_of(
        tokens, rollouts, summary["results"], label=label, steps=steps, alternatives=alternatives, **least
    )
    names = dict.fromkeys(str(entry["model"]) for entry in summary["results"])
    title = " · ".join([*names][:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    run = Run(label or name, kind, finished, facts_of(summary))
    return Document(title or name, [run], subjects, notes=list(notes), created=str(summary.get("created", "")))


def training_document(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    *,
    group: str | None = None,
    kept: pd.DataFrame | None = None,
    times: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Document:
    """Make the content of the page (a `Document`) about a training run.

    Args:
        name: the name of the run.
        rows: the rows of the run's trajectory.jsonl.
        settings: the settings of the run's recipe. Runs whose settings differ only in the seed are drawn as one band
            around their mean.
        summary: the content of summary.json; None while the run is unfinished.
        group: the name of the band that the run belongs to. If it is given, the settings do not decide the band.
        kept: the rollouts that the training stored with the signals of each token; None if it stored none.
        times: the rows of the run's times.jsonl; empty for a run of an older version.
        notes: sentences about the run, shown on the page.
    """
    shared = {key: value for key, value in settings.items() if key not in _OF_A_SEED}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True, default=str).encode()).hexdigest()[:12]
    facts = facts_of(summary or {}) + _known(settings, _OF_A_RECIPE)
    # Without settings, it is unknown whether two runs are seeds of one recipe. Each of them is then its own band.
    done = None if summary is None else summary.get("num_steps")
    band = group or (digest if shared else f"run {name}")
    training = Training(name, band, 0, list(rows), done, model_notes(summary or {}))
    run = Run(name, "train", summary is not None, facts)
    created = str((summary or {}).get("created", ""))
    subjects = [] if kept is None else [kept_subject(f"{name} · sampled rollouts", kept)]
    tables = _times(name, times)
    return Document(name, [run], subjects, trainings=[training], tables=tables, notes=list(notes), created=created)


def _times(name: str, times: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return a list with one table, which shows how long each part of a training took.

    The list is empty if the times were not recorded.
    """
    found = {entry["part"]: entry for entry in time_table(times)}
    if not found:
        return []
    cells = [f"{found[part]['median_seconds']:.2f} s ({found[part]['share'] or 0.0:.1%})" for part in OF_A_STEP]
    cells += [f"{found[part]['total_seconds']:.1f} s in all" for part in BETWEEN_STEPS]
    note = (
        "Median seconds of each part in an optimizer step; in brackets, its share of all steps together. Evaluation, "
        "saving and logging are not part of a step: the table has their seconds in the whole run. The times are those "
        "of the main process."
    )
    return [
        Table("Where the time went", ["run", *OF_A_STEP.values(), *BETWEEN_STEPS.values()], [[name, *cells]], [note])
    ]


def facts_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how a run was made, as pairs of label and text: its time, seed, sampling, versions and commit."""
    facts = _known(summary, ("created", "seed", "device", "commit")) + _known(summary.get("config", {}), _SAMPLING)
    facts += [(f"{name} version", _text(version)) for name, version in summary.get("versions", {}).items()]
    for entry in summary.get("agreement", []):
        left, right = entry["estimators"]
        value = entry["spearman"]["value"]
        said = signed(value) + ("" if value is None else f", {entry['num_tokens']:,} tokens")
        facts.append((f"{entry['model']}: ρ(strength by {left}, strength by {right})", said))
    return facts


def _known(values: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, _text(values[key])) for key in keys if values.get(key) not in (None, [], ())]


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
