"""The paper's claims, each with the paper's number and with what the stored cells of this study say."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from emergence_findings import LINKS, Cells, Value
from emergence_settings import ROLLOUTS
from finding import AGAINST, FOR, MIXED, NOT_RUN, UNDECIDED, Finding, judged, points
from gain_split import contrast

from antiphase.runs.table_text import signed

# The post's changes of ρ by type in the first 200 steps of SFT: Qwen and Llama.
SFT_STEPS, SFT_CHANGES = 200, (-0.137, -0.504)
# The post's ρ by type before SFT: Qwen and Llama.
BEFORE_SFT = (0.036, -0.171)
# CorR-PO minus GRPO in the paper's averages, in points.
GAINS = {"Qwen2.5-Math-7B": 2.4, "Qwen3-4B": 0.0, "Qwen3-1.7B": -1.5}
# What 1,000 steps of RL on Qwen2.5-Math-7B change ρ by, in the paper: GRPO and CorR-PO.
RL_CHANGES = {"grpo": -0.130, "corr-po": -0.192}
# The folders of the sweeps, each with what it trains.
SWEEPS = {"tiny": "tiny models", "tiny-long": "tiny models, 3× the steps", "smollm2": "SmolLM2-135M"}
# What was trained in the two parts on emergence.
SCALE, LONG_SCALE = "SmolLM2-135M", "SmolLM2-135M, on a GPU"
_CAUSE = "It is the reasoning that does it"
# The units of ρ, with what is held fixed and the words for both.
_UNITS = (
    ("type", "none", "by type"),
    ("step", "none", "by sentence"),
    ("step", "length+position", "by sentence, with length and position held fixed,"),
)
_GAIN, _CONTROL = "CorR-PO solves more than GRPO", "A control of CorR-PO solves more than GRPO"
# The control's strengths are shuffled among the sentences of a rollout, so its reward says nothing.
_REWARDED, _SHUFFLED, _LAYER = "corr-po", "shuffled", "layer-"
# The methods that are compared with GRPO, each with the claim that it tests.
_COMPARED = {
    "corr-po": _GAIN, "corr-po-dapo": _GAIN, "corr-po-centered": _GAIN, "corr-po-gated": _GAIN,
    "shuffled": _CONTROL, "random": _CONTROL,
}  # fmt: skip


def is_gain(finding: Finding) -> bool:
    """Return whether a finding is about the accuracy of CorR-PO or of one of its controls."""
    return finding.claim in (_GAIN, _CONTROL)


def findings(folder: Path, rollouts: Mapping[str, pd.DataFrame] | None = None) -> list[Finding]:
    """Return all findings, in the order of the claims.

    Args:
        folder: the folder of the study, which holds its folders of results.
        rollouts: for each name in `SWEEPS`, the rollouts of the sweep, as `rollouts_of` returns them.
    """
    cells = Cells.read(folder / "results-emergence")
    found = [*_emergence(cells), *_cause(cells)]
    longer = folder / "results-emergence-long"
    if longer.is_dir():
        more = Cells.read(longer)
        found += [*_emergence(more, LONG_SCALE), *_cause(more, LONG_SCALE)]
        found.sort(key=lambda one: one.claim == _CAUSE)  # The rows of a claim stand together.
    # A second family was measured once, without a training.
    other = folder / "results-emergence-gemma"
    families = {"SmolLM2-135M": cells} | ({"Gemma 3 270M, base": Cells.read(other)} if other.is_dir() else {})
    for family, own in families.items():
        found += [*_level(own, family), *_chain(own, family)]
    found += [*_gains(folder), *_controlled(rollouts or {}), *_signature(folder), *_layers(folder)]
    return [*found, *_single_layers(rollouts or {})]


def sft_changes(folder: Path) -> dict[str, dict[str, Value]]:
    """Return the change of ρ by sentence after SFT on every corpus, on held-out reasoning texts and rollouts.

    Of a corpus' steps, it is the last one that has the most seeds.

    Args:
        folder: the folder of the study.

    Returns:
        A mapping from a corpus, with its step and its number of seeds, to the changes on each kind of text.
    """
    found = {}
    for name in ("results-emergence", "results-emergence-long"):
        cells = Cells.read(folder / name)
        for corpus in cells.corpora:
            step = cells.last_step(corpus)
            changes = {texts: cells.change(corpus, step, texts) for texts in ("reasoning", ROLLOUTS)}
            counts = (changes["reasoning"].num_seeds, "seed"), (changes["reasoning"].num_texts, "text")
            found[f"{corpus}\n{step} steps, {', '.join(_counted(*each) for each in counts)}"] = changes
    return found


def _emergence(cells: Cells, where: str = SCALE) -> list[Finding]:
    """SFT on reasoning makes ρ negative."""
    claim = "SFT on reasoning turns ρ negative"
    paper = f"{signed(SFT_CHANGES[0])} and {signed(SFT_CHANGES[1])} by type after 200 steps (two models)"
    mind = "the same table for a base model of 1 B or more parameters and 1,000 steps"
    found = []
    for step in cells.shown_steps("reasoning") or [0]:
        when = f" after {step} steps" if step else ""
        for texts, words in ((ROLLOUTS, "own rollouts"), ("reasoning", "held-out reasoning texts")):
            for unit, given, by in _UNITS:
                value = cells.change("reasoning", step, texts, unit=unit, given=given) if step else _NOTHING
                # The published numbers are by type and after 200 steps, so only that row is compared with them.
                size = SFT_CHANGES[0] if (unit, step) == ("type", SFT_STEPS) else None
                what = f"change of ρ {by} on {words}{when}"
                found.append(_rho(claim, paper, what, value, judged(value, -1, size), mind, where))
    return found


def _cause(cells: Cells, where: str = SCALE) -> list[Finding]:
    """It is the reasoning, and not the fit to any text."""
    claim = _CAUSE
    mind = "a training on reasoning and one on its control that differ on texts of both kinds"
    found = []
    for other in ("base", "sentences-shuffled", "words-shuffled"):
        step = cells.last_step("reasoning", other)
        when = f"after {step} steps of SFT on" if step else "after SFT on"
        for texts, words in ((ROLLOUTS, "own rollouts"), ("reasoning", "held-out reasoning texts")):
            for unit, given, by in _UNITS:
                value = cells.contrast("reasoning", other, step, texts, unit, given) if step else _NOTHING
                what = f"ρ {by} on {words} {when} reasoning, minus that after SFT on {other}"
                found.append(_rho(claim, "no control", what, value, judged(value, -1), mind, where))
    return found


def _level(cells: Cells, family: str) -> list[Finding]:
    """A model that was not trained to reason has a ρ near zero, or above it."""
    claim, mind = (
        "Before SFT on reasoning, ρ is near zero or positive",
        "the same numbers for base models of 1 B or more",
    )
    found = []
    for unit, words in (("type", "by type"), ("step", "by sentence")):
        value = cells.level("reasoning", 0, ROLLOUTS, unit=unit)
        if value.num_seeds:
            lowest = min(BEFORE_SFT)
            verdict = AGAINST if value.high < lowest else FOR if value.low > lowest else UNDECIDED
            verdict += " (one seed)" if value.num_seeds == 1 else ""
            scale = f"{family}; {_counted(value.num_seeds, 'seed')}, {_counted(value.num_texts, 'text')}"
            paper = f"{signed(BEFORE_SFT[0])} and {signed(BEFORE_SFT[1])} by type (two models)"
            what = f"ρ {words} on own rollouts"
            found.append(Finding(claim, paper, scale, what, *value[:4], "ρ", verdict, mind))
    return found


def _chain(cells: Cells, family: str) -> list[Finding]:
    """The links of the paper's chain from entropy to strength."""
    claim = "Low entropy, large logit, large hidden state, large gradient"
    mind = "a model without RMSNorm before its head, in which the last link is positive"
    found = []
    for link, (sign, words) in LINKS.items():
        values = cells.link_values(link)
        if values:
            held = sum(sign * value > 0 for value in values) / len(values)
            mean = sum(values) / len(values)
            verdict = FOR if held > 0.95 else AGAINST if held < 0.05 else MIXED
            what = f"rank correlation of {words}; its range over {len(values)} checkpoints and texts"
            ends = (min(values), max(values))
        else:
            mean, ends, verdict, what = math.nan, (math.nan, math.nan), NOT_RUN, f"rank correlation of {words}"
        paper = "positive, by argument" if sign > 0 else "negative, by argument"
        found.append(Finding(claim, paper, family, what, mean, *ends, math.nan, "ρ", verdict, mind))
    return found


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
                    scale = f"{models}, {task}; {_counted(value.num_seeds, 'seed')}"
                    what = f"accuracy of {method} minus grpo"
                    verdict = judged(value, 1, max(GAINS.values()) / 100)
                    found.append(Finding(claim, number, scale, what, *value[:4], "points", verdict, mind))
    return found


def _controlled(rollouts: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """CorR-PO solves more than its control, and lowers ρ further."""
    mind = "three seeds of studies/paper/qwen3-1.7b.yaml, with the control"
    found = []
    for models, group, own in _groups(rollouts):
        accuracy, inversion = (contrast(own, _REWARDED, _SHUFFLED, name) for name in ("correct", "iota"))
        for claim, number, value, sign, unit in (
            ("CorR-PO solves more than its control", "accuracy", accuracy, 1, "points"),
            ("CorR-PO makes ρ more negative than its control", "ρ by sentence", _minus(inversion), -1, "ρ"),
        ):
            if value.num_seeds:
                scale = f"{models}, {group}; {_counted(value.num_seeds, 'seed')}"
                what = f"{number} of {_REWARDED} minus {_SHUFFLED}"
                found.append(Finding(claim, "no control", scale, what, *value[:4], unit, judged(value, sign), mind))
    return found


def _single_layers(rollouts: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """A reward from one layer solves more than one from all layers."""
    claim, mind = "A reward from one layer solves more than one from all layers", "studies/paper/layers.yaml"
    found = []
    for models, group, own in _groups(rollouts):
        for method in dict.fromkeys(own.method):
            value = contrast(own, method, _REWARDED, "correct")
            if method.startswith(_LAYER) and value.num_seeds:
                scale = f"{models}, {group}; {_counted(value.num_seeds, 'seed')}"
                what = f"accuracy of {method} minus {_REWARDED}, which measures all layers"
                found.append(Finding(claim, "—", scale, what, *value[:4], "points", judged(value, 1), mind))
    return found


def _groups(rollouts: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the rollouts of each group of each sweep, with the words for the sweep and the name of the group."""
    for name, own in rollouts.items():
        for group, rows in own.groupby("group", sort=False) if len(own) else ():
            yield SWEEPS[name], str(group), rows


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
                    "CorR-PO makes ρ more negative than GRPO",
                    "ρ by sentence of corr-po minus grpo",
                    extra,
                    _minus(corr),
                ),
            ):
                scale = f"{models}, {task}; {_counted(value.num_seeds, 'seed')}"
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
                    scale = f"{models}, {task}; {_counted(value.num_seeds, 'seed')}"
                    what = f"accuracy of {method} minus grpo"
                    found.append(Finding(claim, paper, scale, what, *value[:4], "points", judged(value, 1), mind))
    return found


_NOTHING = Value(math.nan, math.nan, math.nan, math.nan, 0, 0)


def _rho(claim: str, paper: str, what: str, value: Value, verdict: str, mind: str, where: str) -> Finding:
    scale = f"{where}; {_counted(value.num_seeds, 'seed')}, {_counted(value.num_texts, 'text')}"
    return Finding(claim, paper, scale, what, *value[:4], "ρ", verdict, mind)


def _nothing(claim: str, paper: str, scale: str, what: str, mind: str) -> Finding:
    return Finding(claim, paper, scale, what, *_NOTHING[:4], "points", NOT_RUN, mind)


def _counted(num: int, what: str) -> str:
    return f"{num} {what}{'' if num == 1 else 's'}"


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
