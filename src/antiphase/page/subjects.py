"""Make the subjects of a page (models with their rollouts) from the tables of a probe or an evaluation.

A page shows the rollouts that the numbers of the summary are about. For an evaluation, these are the sampled rollouts,
or the greedy ones if nothing was sampled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.models.fact_notes import model_notes
from antiphase.page.document import Subject
from antiphase.page.payload import finite
from antiphase.page.spacing import spaces_before
from antiphase.page.stepping import floats, steps_of
from antiphase.page.thoughts import thought_lengths
from antiphase.page.unit_correlations import NOTHING, units_of
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.types import cell_column

_ROLLOUT = ("rollout_id", "prompt_id", "prompt", "finish", "num_tokens")
_TOKEN = ("rollout", "position", "token", "token_id", "entropy", "logprob")
_VERDICT = ("correct", "outcome", "reason", "answer", "reference", "strict", "flexible")
_READING = (
    "estimator", "context", "layers", "projections", "norm", "target", "targets_per_rollout", "revision", "device",
    "dtype", "splitter", "step_strength",
)  # fmt: skip
_STATISTICS = (
    "spearman", "pearson", "spearman_unique", "pearson_unique", "spearman_within", "pearson_within",
    "logprob_control", "by_projection", "num_tokens", "num_unique_tokens", "num_rollouts", "num_prompts",
    "num_undefined", "entropy_mean", "strength_mean",
)  # fmt: skip
# The columns of the rollout table that hold a ρ of each rollout over another unit. Old tables lack them.
BY_UNIT = (
    "spearman_type", "spearman_step", "spearman_step_low", "spearman_step_high", "spearman_given_length",
)  # fmt: skip
_NEEDED = ("spearman", "logprob_control")
_INTERVALS = (*_NEEDED, "spearman_within", "accuracy")
_COUNTS = ("num_tokens", "num_rollouts", "num_prompts", "num_undefined")
_MEANS = ("entropy_mean", "strength_mean")


def subjects_of(
    tokens: pd.DataFrame,
    rollouts: pd.DataFrame,
    results: Sequence[Mapping[str, Any]],
    *,
    label: str | None = None,
    steps: pd.DataFrame | None = None,
    alternatives: pd.DataFrame | None = None,
    min_tokens: int = MIN_TOKENS,
    min_steps: int = MIN_STEPS,
) -> list[Subject]:
    """Make a `Subject` (what the page shows of a model) for each model; in an evaluation, for each model and task.

    Args:
        tokens, rollouts: the token table and the rollout table of a probe or an evaluation.
        results: the entries of `results` in the summary.
        label: the user's name for the run. If there is one model, it replaces the model's name. If there are several,
            it is put before each name.
        steps: the table of steps; None for an old run that did not measure steps.
        alternatives: the table of the most likely alternative tokens.
        min_tokens, min_steps: with fewer tokens or steps than these, a correlation over them is undefined.

    Raises:
        InvalidInputError: the tables do not match each other, or a result has something other than a number where a
            number must be.
    """
    cases = list(dict.fromkeys((str(entry["model"]), entry.get("task")) for entry in results))
    names, tasks = model_labels(results, label), {task for _, task in cases}
    subjects = []
    for model, task in cases:
        own = [entry for entry in results if entry["model"] == model and entry.get("task") == task]
        name = " · ".join([names[model], *([str(task)] if len(tasks) > 1 else [])])
        readings = [{"min_tokens": min_tokens, "min_steps": min_steps, **reading_of(entry)} for entry in own]
        rows = _of(rollouts, model, task)
        if "greedy" in rows and bool((~rows.greedy.astype(bool)).any()):
            rows = rows[~rows.greedy.astype(bool)]
        others = None if alternatives is None else alternatives[alternatives.model == model]
        parted = None if steps is None else _of(steps, model, task)
        subject = _subject(name, readings, rows, _of(tokens, model, task), parted, others, not tokens.empty)
        subjects.append(subject)
    return subjects


def model_labels(results: Sequence[Mapping[str, Any]], label: str | None) -> dict[str, str]:
    """Return the name that each model of the results has on the page.

    Args:
        results: the entries of `results` in the summary.
        label: the user's name for the run. If there is one model, it replaces the model's name. If there are several,
            it is put before each name.
    """
    models = dict.fromkeys(str(entry["model"]) for entry in results)
    if not label:
        return {model: model for model in models}
    return {model: f"{label} · {model}" if len(models) > 1 else label for model in models}


def reading_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of `results` in the form that the page uses for both a probe and an evaluation.

    Returns:
        a mapping with the statistics of the entry, its correlations over each unit (those that `units_of` returns),
        and `accuracy`, which is None for a probe.

    Raises:
        InvalidInputError: the entry has something other than a number where a number must be.
    """
    statistics = entry.get("signals", entry)
    reading = {name: entry.get(name) for name in _READING} | {name: statistics.get(name) for name in _STATISTICS}
    metrics = entry.get("metrics", {})
    name = next((name for name in metrics if name.startswith("avg@")), "greedy")
    if statistics.get("spearman") is None:  # nothing was measured
        reading |= {"num_tokens": 0, "num_undefined": 0}
        reading |= {"num_rollouts": entry.get("num_rollouts", 0), "num_prompts": entry.get("num_problems", 0)}
    reading |= {
        "temperature": entry.get("temperature", 1.0),
        "by_projection": reading["by_projection"] or [],
        "accuracy": metrics.get(name),
        "accuracy_name": name if name in metrics else None,
        "model_notes": model_notes(entry),
    }
    found: dict[str, Any] = finite(reading)
    for key in _INTERVALS:
        if found[key] is not None or key in _NEEDED:
            found[key] = {**NOTHING, **(found[key] or {})}
    values = [(key, found[key][end]) for key in _INTERVALS if found[key] for end in NOTHING]
    values += [(key, found[key]) for key in (*_COUNTS, *_MEANS)]
    for key, value in values:
        if not isinstance(value, int if key in _COUNTS else int | float | None):
            raise InvalidInputError(f"the result of {entry['model']!r}: {key} must be a number, got {value!r}.")
    return found | units_of(entry["model"], finite(statistics))


def _of(frame: pd.DataFrame, model: str, task: Any) -> pd.DataFrame:
    """Return the rows of a model and a task. A task of None stands for all tasks."""
    if frame.empty:
        return frame
    chosen = frame.model == model
    return frame[chosen] if task is None else frame[chosen & (frame.task == task)]


def _subject(
    label: str,
    readings: Sequence[Mapping[str, Any]],
    rollouts: pd.DataFrame,
    tokens: pd.DataFrame,
    steps: pd.DataFrame | None,
    alternatives: pd.DataFrame | None,
    complete: bool,
) -> Subject:
    by_estimator = dict(iter(rollouts.groupby("estimator", sort=False)))
    first = next(iter(by_estimator.values())) if by_estimator else rollouts
    columns = [*_ROLLOUT, *(name for name in _VERDICT if name in first)]
    shown = first[columns].reset_index(drop=True)
    order = pd.Series(np.arange(len(shown)), index=shown.rollout_id)
    if any(rows.rollout_id.duplicated().any() for rows in by_estimator.values()):
        raise InvalidInputError(f"{label}: two rollouts share an id; rollout ids must be distinct.")
    frames = {} if tokens.empty else _frames(label, tokens, order)
    base = next(iter(frames.values()), pd.DataFrame(columns=_TOKEN))
    counts = np.bincount(base.rollout.to_numpy(dtype=np.int64), minlength=len(shown))
    if complete:
        _check_counts(label, shown, counts)
    starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    spaced = _spaced(first, base, starts)
    shown["num_thought_tokens"] = thought_lengths(first, base, starts)
    strengths = {name: floats(frame, "strength") for name, frame in frames.items()}
    cells = {
        str(reading["estimator"]): found
        for reading in readings
        if (found := _cells(reading, frames.get(str(reading["estimator"])))) is not None
    }
    return Subject(
        label=label,
        run=0,
        readings=readings,
        rollouts=shown,
        correlations=_by_rollout(by_estimator, "spearman", order),
        by_unit={name: _by_rollout(by_estimator, name, order) for name in BY_UNIT if name in rollouts},
        shuffled=_by_rollout(by_estimator, "shuffled", order) if "shuffled" in rollouts else {},
        tokens=base[["token", "token_id"]]
        .assign(entropy=floats(base, "entropy"), logprob=floats(base, "logprob"), spaced=spaced)
        .reset_index(drop=True),
        starts=starts,
        strengths=strengths,
        cells=cells,
        alternatives=_alternatives(alternatives, base, order),
        steps=None if steps is None or not frames else steps_of(label, steps, order, starts, list(frames)),
    )


def _check_counts(label: str, rollouts: pd.DataFrame, counts: np.ndarray) -> None:
    """Raise InvalidInputError if a rollout has fewer or more rows in the token table than its number of tokens."""
    wanted = rollouts.num_tokens.to_numpy()
    if not np.array_equal(counts, wanted):
        place = int(np.argmax(counts != wanted))
        raise InvalidInputError(
            f"{label}: the tables do not match: rollout {rollouts.rollout_id[place]!r} has {wanted[place]} tokens in "
            f"the rollout table and {counts[place]} in the token table. Do both tables come from one run?"
        )


def _by_rollout(by_estimator: Mapping[Any, pd.DataFrame], name: str, order: "pd.Series[int]") -> dict[str, np.ndarray]:
    """Return, for each estimator, the values of the column `name` of its rollout table.

    The values have the order in which the page shows the rollouts.
    """
    return {
        str(estimator): rows.set_index("rollout_id")[name].reindex(order.index).to_numpy(dtype=np.float64)
        for estimator, rows in by_estimator.items()
    }


def _frames(label: str, tokens: pd.DataFrame, order: "pd.Series[int]") -> dict[str, pd.DataFrame]:
    """Return, for each estimator, the tokens of the shown rollouts. The order is the same for all estimators."""
    frames: dict[str, pd.DataFrame] = {}
    keys: np.ndarray | None = None
    for name, rows in tokens.groupby("estimator", sort=False):
        place = rows.rollout_id.map(order)
        shown = rows.assign(rollout=place)[place.notna()].sort_values(["rollout", "position"], kind="stable")
        found = shown[["rollout", "position"]].to_numpy(dtype=np.int64)
        if (np.diff(found, axis=0) == 0).all(axis=1).any():
            raise InvalidInputError(
                f"{label}: two rows of the estimator {name!r} have the same rollout and the same position."
            )
        if keys is not None and not np.array_equal(keys, found):
            raise InvalidInputError(f"{label}: the estimators were not measured on the same tokens.")
        keys, frames[str(name)] = found, shown
    return frames


def _cells(reading: Mapping[str, Any], frame: pd.DataFrame | None) -> np.ndarray | None:
    """Return the strength by layer and projection, `[token, layer * projection]`; None if it was not stored."""
    if frame is None or not reading["layers"]:
        return None
    names = [cell_column(layer, name) for layer in reading["layers"] for name in reading["projections"]]
    if not all(name in frame for name in names):
        return None  # an evaluation without --by-projection
    return np.stack([floats(frame, name) for name in names], axis=1)


def _spaced(rollouts: pd.DataFrame, tokens: pd.DataFrame, starts: np.ndarray) -> np.ndarray:
    """Return for each token whether its text lacks a space that stands before it in the completion, `[token]`."""
    texts = tokens.token.tolist()
    flags = np.zeros(len(texts), dtype=bool)
    for index, completion in enumerate(rollouts.completion.tolist() if "completion" in rollouts else []):
        low, high = int(starts[index]), int(starts[index + 1])
        flags[low:high] = spaces_before(str(completion), texts[low:high])
    return flags


def _alternatives(
    frame: pd.DataFrame | None, tokens: pd.DataFrame, order: "pd.Series[int]"
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the texts and the log-probabilities of the most likely tokens at each position, `[token, rank]` each.

    The result is None if they were not stored.
    """
    if frame is None or frame.empty or tokens.empty:
        return None
    places = pd.MultiIndex.from_frame(tokens[["rollout", "position"]].astype("int64"))
    rollout = frame.rollout_id.map(order)
    frame = frame.assign(rollout=rollout)[rollout.notna()]
    if frame.empty:
        return None
    row = places.get_indexer(pd.MultiIndex.from_frame(frame[["rollout", "position"]].astype("int64")))
    kept, rank = row >= 0, frame["rank"].to_numpy(dtype=np.int64)
    texts = np.full((len(tokens), int(rank.max()) + 1), "", dtype=object)
    logprobs = np.full(texts.shape, np.nan, dtype=np.float32)
    texts[row[kept], rank[kept]] = frame.token.to_numpy(dtype=object)[kept]
    logprobs[row[kept], rank[kept]] = floats(frame, "logprob")[kept]
    return texts, logprobs
