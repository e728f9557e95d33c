"""Summarize an unfinished probe or evaluation from its finished batches."""

import dataclasses
from typing import Any

import pandas as pd

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.evaluation_summary import summarize_evaluation
from antiphase.probing.probe_config import ProbeConfig
from antiphase.probing.probe_summary import summarize
from antiphase.runs.run_config import config_from
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.unit_spec import BEFORE_UNITS

# The largest number of bootstrap resamples. It is small because the page of a running job is made again and again.
MOST_RESAMPLES = 200


def summarize_unfinished(folder: RunFolder, kind: str, tokens: pd.DataFrame, rollouts: pd.DataFrame) -> dict[str, Any]:
    """Summarize the finished batches in the form of summary.json, which summarizes a whole run.

    Args:
        folder: the folder of the run.
        kind: `probe` or `eval`.
        tokens: the table of tokens of the finished batches.
        rollouts: the table of rollouts of the finished batches.

    Returns:
        A summary with `config`, `results` and `num_resamples` (the number of bootstrap samples, at most
        `MOST_RESAMPLES`).

    Raises:
        InvalidInputError: this version of antiphase cannot read the config of the run.
    """
    stored = folder.read_json("config.json")["config"]
    owner: Any = EvalConfig if kind == "eval" else ProbeConfig
    known = {field.name for field in dataclasses.fields(owner)} - {"models"}
    # If the config is old and names no units, the correlations of the run are over tokens.
    given = {**BEFORE_UNITS, **{name: value for name, value in stored.items() if name in known}}
    options = {name: value for name, value in given.items() if value is not None}
    options["num_resamples"] = min(int(options.get("num_resamples", MOST_RESAMPLES)), MOST_RESAMPLES)
    config: Any = config_from(stored["models"], options, owner)
    steps = folder.read_parts("steps")
    begun = set(rollouts.model)
    keys = ["model", "rollout_id"]
    finished = rollouts[keys].drop_duplicates()
    # The tables of tokens and steps were read later and may hold more batches. If no signals were measured, they have
    # no column `rollout_id`.
    if "rollout_id" in tokens:
        tokens = tokens.merge(finished, on=keys)
    if steps is not None and "rollout_id" in steps:
        steps = steps.merge(finished, on=keys)
    models = {name: folder.read_model(place) for place, name in enumerate(config.models) if name in begun}
    if not models:
        raise InvalidInputError(f"{str(folder.path)!r}: its batches belong to models that config.json does not name.")
    results: list[dict[str, Any]] = []
    for name in models:
        alone = dataclasses.replace(config, models=(name,))
        if kind == "eval":
            tasks = set(rollouts[rollouts.model == name].task)
            identities = [entry for entry in stored["identities"] if entry["task"] in tasks]
            results += summarize_evaluation(tokens, rollouts, steps, models, alone, identities)["results"]
        else:
            results += summarize(tokens, rollouts, steps, models, alone)["results"]
    return {"config": stored, "results": results, "num_resamples": options["num_resamples"]}
