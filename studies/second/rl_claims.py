"""The paper's claims about CorR-PO, each with the paper's number and with what the stored cells of this study say."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from emergence_findings import Value
from finding import NOT_RUN, Finding, counted, judged, points
from gain_split import contrast

from antiphase.runs.table_text import signed

# CorR-PO minus GRPO in the paper's averages, in points.
GAINS = {"Qwen2.5-Math-7B": 2.4, "Qwen3-4B": 0.0, "Qwen3-1.7B": -1.5}
# What 1,000 steps of RL on Qwen2.5-Math-7B change ρ by, in the paper: GRPO and CorR-PO.
RL_CHANGES = {"grpo": -0.130, "corr-po": -0.192}
# The folders of the sweeps, each with what it trains.
SWEEPS = {"tiny": "tiny models", "tiny-long": "tiny models, 3× the steps", "smollm2": "SmolLM2-135M"}

_GAIN, _CONTROL = "CorR-PO solves more than GRPO", "A control of CorR-PO solves more than GRPO"
# The sweep in which CorR-PO and its control differ in the shuffled strengths alone. In the others, both have values of
# their own. The control's strengths are shuffled among the sentences of a rollout, so its reward says nothing.
_MATCHED = "smollm2"
_REWARDED, _SHUFFLED, _LAYER = "corr-po", "shuffled", "layer-"
# The methods that are compared with GRPO, each with the claim that it tests.
_COMPARED = {
    "corr-po": _GAIN, "corr-po-dapo": _GAIN, "corr-po-centered": _GAIN, "corr-po-gated": _GAIN,
    "shuffled": _CONTROL, "random": _CONTROL,
}  # fmt: skip
_LOWER = "CorR-PO makes ρ more negative than "


def rl_findings(folder: Path, rollouts: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Return the findings on CorR-PO, in the order of the claims.

    Args:
        folder: the folder of the study, which holds its folders of results.
        rollouts: for each name in `SWEEPS`, the rollouts of the sweep, as `rollouts_of` returns them.
    """
    matched = rollouts.get(_MATCHED, pd.DataFrame())
    found = [*_gains(folder), *_controlled(matched), *_signature(folder), *_layers(folder)]
    return [*found, *_all_layers(matched)]


def is_gain(finding: Finding) -> bool:
    """Return whether a finding is about the accuracy of CorR-PO or of one of its controls."""
    return finding.claim in (_GAIN, _CONTROL)


def is_signature(finding: Finding) -> bool:
    """Return whether a finding is about ρ after CorR-PO against ρ after GRPO, or after the control."""
    return finding.claim.startswith(_LOWER)


def _gains(folder: Path) -> list[Finding]:
    """CorR-PO is better than GRPO, and its controls are not."""
    paper = ", ".join(f"{points(gain / 100)} ({model})" for model, gain in GAINS.items())
    mind = "three seeds of studies/paper/qwen3-1.7b.yaml"
    found = []
    for name, models in SWEEPS.items():
        if not _tasks(folder, name):
            found.append(_nothing(_GAIN, paper, models, "accuracy", mind))
        for task, group in _tasks(folder, name).items():
            for method, claim in _COMPARED.items():
                value = _difference(group, method, "accuracy")
                if value.num_seeds:
                    number = "no control" if claim == _CONTROL else paper
                    scale = f"{_place(models, task)}; {counted(value.num_seeds, 'seed')}"
                    what = f"accuracy of {method} minus grpo"
                    verdict = judged(value, 1, max(GAINS.values()) / 100)
                    found.append(Finding(claim, number, scale, what, *value[:4], "points", verdict, mind))
    return found


def _controlled(rollouts: pd.DataFrame) -> list[Finding]:
    """CorR-PO solves more than its control, and lowers ρ further."""
    mind = "three seeds of studies/paper/qwen3-1.7b.yaml, with the control"
    accuracy, inversion = (_contrast(rollouts, _REWARDED, _SHUFFLED, name) for name in ("correct", "iota"))
    found = []
    for claim, number, value, sign, unit in (
        ("CorR-PO solves more than its control", "accuracy", accuracy, 1, "points"),
        (f"{_LOWER}its control", "ρ by sentence", _minus(inversion), -1, "ρ"),
    ):
        what = f"{number} of {_REWARDED} minus {_SHUFFLED}"
        scale = f"{SWEEPS[_MATCHED]}; {counted(value.num_seeds, 'seed')}"
        found.append(Finding(claim, "no control", scale, what, *value[:4], unit, judged(value, sign), mind))
    return found


def _all_layers(rollouts: pd.DataFrame) -> list[Finding]:
    """A reward from all layers solves more than one from a single layer."""
    claim, mind = "A reward from all layers solves more than one from a single layer", "studies/paper/layers.yaml"
    found = []
    for method in dict.fromkeys(rollouts.method) if len(rollouts) else ():
        value = _contrast(rollouts, _REWARDED, method, "correct")
        if method.startswith(_LAYER) and value.num_seeds:
            scale = f"{SWEEPS[_MATCHED]}; {counted(value.num_seeds, 'seed')}"
            what, paper = f"accuracy of {_REWARDED} minus {method}", "all layers highest (one run each)"
            found.append(Finding(claim, paper, scale, what, *value[:4], "points", judged(value, 1), mind))
    return found


def _contrast(rollouts: pd.DataFrame, method: str, other: str, column: str) -> Value:
    return contrast(rollouts, method, other, column) if len(rollouts) else _NOTHING


def _signature(folder: Path) -> list[Finding]:
    """RL moves ρ down, and CorR-PO moves it further."""
    mind = "ρ of the rollouts along studies/paper/qwen3-1.7b.yaml"
    found = []
    for name, models in SWEEPS.items():
        for task, group in _tasks(folder, name).items():
            before, corr = _difference(group, "base", "inversion"), _difference(group, "corr-po", "inversion")
            extra = RL_CHANGES["corr-po"] - RL_CHANGES["grpo"]
            for claim, what, paper, value in (
                ("RL makes ρ more negative", "ρ by sentence after grpo, minus before", RL_CHANGES["grpo"], before),
                (
                    f"{_LOWER}GRPO",
                    "ρ by sentence of corr-po minus grpo",
                    extra,
                    _minus(corr),
                ),
            ):
                scale = f"{_place(models, task)}; {counted(value.num_seeds, 'seed')}"
                verdict = judged(value, -1, paper)
                found.append(Finding(claim, signed(paper), scale, what, *value[:4], "ρ", verdict, mind))
    return found


def _layers(folder: Path) -> list[Finding]:
    """A reward from one layer helps, and so does one from all layers."""
    one, every = "A reward from one layer solves more than GRPO", "A reward from all layers solves more than GRPO"
    paper, mind = "each layer above GRPO (one run each)", "studies/paper/layers.yaml"
    found = []
    for name, models in {"tiny-layers": "a tiny model with 6 layers", "smollm2": "SmolLM2-135M"}.items():
        if not _tasks(folder, name):
            found.append(_nothing(one, paper, models, "accuracy", mind))
        for task, group in _tasks(folder, name).items():
            for method in (entrant["name"] for entrant in group["entrants"]):
                value = _difference(group, method, "accuracy")
                # SmolLM2's method for all layers is `corr-po`, which stands among the gains.
                claim = one if method.startswith(_LAYER) else every if method == "all-layers" else None
                if value.num_seeds and claim:
                    scale = f"{_place(models, task)}; {counted(value.num_seeds, 'seed')}"
                    what = f"accuracy of {method} minus grpo"
                    found.append(Finding(claim, paper, scale, what, *value[:4], "points", judged(value, 1), mind))
    return found


_NOTHING = Value(math.nan, math.nan, math.nan, math.nan, 0, 0)


def _nothing(claim: str, paper: str, scale: str, what: str, mind: str) -> Finding:
    return Finding(claim, paper, scale, what, *_NOTHING[:4], "points", NOT_RUN, mind)


def _place(models: str, task: str) -> str:
    """Return the words for a sweep and the task, without saying the same name twice."""
    return models if task.lower() == models.lower() else f"{models}, {task}"


def _tasks(folder: Path, name: str) -> Mapping[str, Any]:
    """Return the comparisons of a sweep by model and task; empty if it has none yet."""
    path = folder / f"results-{name}" / "tables" / "findings.json"
    return json.loads(path.read_text(encoding="utf-8"))["groups"]["tasks"] if path.is_file() else {}


def _difference(group: Mapping[str, Any], method: str, metric: str) -> Value:
    """Return how a method differs from the sweep's reference; nothing if it was not run, or is the reference."""
    rows = [entrant for entrant in group["entrants"] if entrant["name"] == method]
    found = rows[0]["differences"].get(metric) if rows else None
    if found is None:
        return _NOTHING
    keys = ("difference", "low", "high", "minimum_detectable")
    numbers = [math.nan if found[key] is None else float(found[key]) for key in keys]
    return Value(*numbers, min(found["num_seeds_left"], found["num_seeds_right"]), found["num_problems"])


def _minus(value: Value) -> Value:
    """Return the value with the opposite sign, such as that of ρ = −ι."""
    return value._replace(value=-value.value, low=-value.high, high=-value.low)
