"""The paper's claims, each with the paper's number and with what the stored cells of this study say."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emergence_findings import Cells, Value
from emergence_settings import ROLLOUTS
from finding import AGAINST, FOR, NOT_RUN, UNDECIDED, Finding, judged, points

from antiphase.runs.table_text import signed

# The post's changes of ρ by type in the first 200 steps of SFT: Qwen and Llama.
SFT_CHANGES = (-0.137, -0.504)
# CorR-PO minus GRPO in the paper's averages, in points.
GAINS = {"Qwen2.5-Math-7B": 2.4, "Qwen3-4B": 0.0, "Qwen3-1.7B": -1.5}
# What 1,000 steps of RL on Qwen2.5-Math-7B change ρ by, in the paper: GRPO and CorR-PO.
RL_CHANGES = {"grpo": -0.130, "corr-po": -0.192}
# The folders of the sweeps, each with what it trains.
SWEEPS = {"tiny": "tiny models", "tiny-long": "tiny models, 3× the steps", "smollm2": "SmolLM2-135M"}


_GAIN, _CONTROL = "CorR-PO solves more than GRPO", "A control of CorR-PO solves more than GRPO"
# The methods that are compared with GRPO, each with the claim that it tests.
_COMPARED = {
    "corr-po": _GAIN, "corr-po-dapo": _GAIN, "corr-po-centered": _GAIN, "corr-po-gated": _GAIN,
    "shuffled": _CONTROL, "random": _CONTROL,
}  # fmt: skip


def is_gain(finding: Finding) -> bool:
    """Return whether a finding is about the accuracy of CorR-PO or of one of its controls."""
    return finding.claim in (_GAIN, _CONTROL)


def findings(folder: Path) -> list[Finding]:
    """Return all findings, in the order of the claims.

    Args:
        folder: the folder of the study, which holds its folders of results.
    """
    cells = Cells.read(folder / "results-emergence")
    found = [*_emergence(cells), *_cause(cells)]
    # A second family was measured once, without a training.
    other = folder / "results-emergence-gemma"
    families = {"SmolLM2-135M": cells} | ({"Gemma 3 270M, base": Cells.read(other)} if other.is_dir() else {})
    for family, own in families.items():
        found += [*_level(own, family), *_chain(own, family)]
    return [*found, *_gains(folder), *_signature(folder), *_layers(folder)]


def sft_changes(folder: Path) -> dict[str, dict[str, Value]]:
    """Return the change of ρ by sentence after SFT on every corpus, on held-out reasoning texts and rollouts.

    Of a corpus' steps, it is the last one that has the most seeds.

    Args:
        folder: the folder of the study.

    Returns:
        A mapping from a corpus, with its step and its number of seeds, to the changes on each kind of text.
    """
    cells = Cells.read(folder / "results-emergence")
    found = {}
    for corpus in cells.corpora:
        changes = {texts: _last_change(cells, corpus, texts, "step", "none") for texts in ("reasoning", ROLLOUTS)}
        seeds = _counted(changes["reasoning"].num_seeds, "seed")
        found[f"{corpus}\n{cells.last_step(corpus)} steps, {seeds}"] = changes
    return found


def _emergence(cells: Cells) -> list[Finding]:
    """SFT on reasoning makes ρ negative."""
    claim = "SFT on reasoning turns ρ negative"
    paper = f"{signed(SFT_CHANGES[0])} and {signed(SFT_CHANGES[1])} by type after 200 steps (two models)"
    mind = "the same table for a base model of 1 B or more parameters and 1,000 steps"
    step = cells.last_step("reasoning")
    when = f" after {step} steps" if step else ""
    found = []
    for texts, unit, given, what in (
        (ROLLOUTS, "type", "none", "own rollouts, by type"),
        (ROLLOUTS, "step", "none", "own rollouts, by sentence"),
        ("reasoning", "step", "none", "held-out reasoning texts, by sentence"),
        ("reasoning", "step", "length+position", "the same, length and position held fixed"),
    ):
        value = _last_change(cells, "reasoning", texts, unit, given)
        # The published numbers are by type, so only that row is compared with them.
        verdict = judged(value, -1, SFT_CHANGES[0] if unit == "type" else None)
        found.append(_rho(claim, paper, f"change of ρ{when}, {what}", value, verdict, mind))
    return found


def _cause(cells: Cells) -> list[Finding]:
    """It is the reasoning, and not the fit to any text."""
    claim = "It is the reasoning that does it"
    mind = "a training on reasoning and one on its control that differ on texts of both kinds"
    found = []
    for other in ("base", "sentences-shuffled", "words-shuffled"):
        step = cells.last_step("reasoning", other)
        when = f"after {step} steps of SFT on" if step else "after SFT on"
        for texts, words in (("reasoning", "held-out reasoning texts"), (ROLLOUTS, "own rollouts")):
            for unit, by in (("step", "sentence"), ("type", "type")):
                value = cells.contrast("reasoning", other, step, texts, unit) if step else _NOTHING
                what = f"ρ by {by} on {words} {when} reasoning, minus that after SFT on {other}"
                found.append(_rho(claim, "no control", what, value, judged(value, -1), mind))
    return found


def _level(cells: Cells, family: str) -> list[Finding]:
    """A model that was not trained to reason has a ρ near zero or above it."""
    claim, mind = "Before SFT on reasoning, ρ is zero or positive", "the same numbers for base models of 1 B or more"
    found = []
    for unit, words in (("type", "by type"), ("step", "by sentence")):
        value = cells.level("reasoning", 0, ROLLOUTS, unit=unit)
        if value.num_seeds:
            verdict = AGAINST if value.high < 0 else FOR if value.low > -0.1 else UNDECIDED
            scale = f"{family}; {_counted(value.num_seeds, 'seed')}, {_counted(value.num_texts, 'text')}"
            paper = "+0.036 and −0.171 by type (two models)"
            what = f"ρ {words} on own rollouts"
            found.append(Finding(claim, paper, scale, what, *value[:4], "ρ", verdict, mind))
    return found


def _chain(cells: Cells, family: str) -> list[Finding]:
    """The links of the paper's chain from entropy to strength."""
    claim = "Low entropy, large logit, large hidden state, large gradient"
    mind = "a model without RMSNorm before its head, in which the last link is positive"
    found = []
    for link, sign, words in (
        ("entropy–logit", -1, "entropy and the token's logit"),
        ("logit–hidden", 1, "the logit and ‖h‖ after the last norm"),
        ("hidden–strength", 1, "‖h‖ after the last norm and the strength"),
        ("hidden_before–strength", 1, "‖h‖ before the last norm and the strength"),
    ):
        values = [value for row in cells.rows for value in _link(row, link)]
        if values:
            held = sum(sign * value > 0 for value in values) / len(values)
            mean = sum(values) / len(values)
            verdict = FOR if held > 0.95 else AGAINST if held < 0.05 else "mixed"
            what = f"rank correlation of {words}; its range over {len(values)} checkpoints and texts"
            ends = (min(values), max(values))
        else:
            mean, ends, verdict, what = math.nan, (math.nan, math.nan), NOT_RUN, f"rank correlation of {words}"
        paper = "positive, by argument" if sign > 0 else "negative, by argument"
        found.append(Finding(claim, paper, family, what, mean, *ends, math.nan, "ρ", verdict, mind))
    return found


def _link(row: Mapping[str, Any], link: str) -> list[float]:
    """Return the value of a link by `own` for each set of texts of a measurement."""
    entries = [entry for entry in row["entries"] if entry["estimator"] == "own" and link in entry.get("chain", {})]
    return [entry["chain"][link]["value"] for entry in entries if entry["chain"][link]["value"] is not None]


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
    """Each single layer helps, deeper ones more, all together most."""
    claim, mind = "Each single layer helps, deeper ones more, all most", "studies/paper/layers.yaml"
    paper = "each layer above GRPO (one run each)"
    found = []
    # In SmolLM2's sweep, the method `corr-po` measures all layers.
    for name, (models, every) in {
        "tiny-layers": ("a tiny model with 6 layers", "all-layers"), "smollm2": ("SmolLM2-135M", "corr-po"),
    }.items():  # fmt: skip
        if not _tasks(folder, name):
            found.append(_nothing(claim, paper, models, "accuracy", mind))
        for task, group in _tasks(folder, name).items():
            for entrant in group["entrants"]:
                value = _difference(group, entrant["name"], "accuracy")
                if value.num_seeds and (entrant["name"].startswith("layer-") or entrant["name"] == every):
                    scale = f"{models}, {task}; {_counted(value.num_seeds, 'seed')}"
                    what = f"accuracy of {entrant['name']} minus grpo"
                    found.append(Finding(claim, paper, scale, what, *value[:4], "points", judged(value, 1), mind))
    return found


_NOTHING = Value(math.nan, math.nan, math.nan, math.nan, 0, 0)


def _last_change(cells: Cells, corpus: str, texts: str, unit: str, given: str) -> Value:
    """Return the change of ρ since step 0 at one step of a corpus; nothing if it was not trained on yet."""
    step = cells.last_step(corpus)
    return cells.change(corpus, step, texts, unit=unit, given=given) if step else _NOTHING


def _rho(claim: str, paper: str, what: str, value: Value, verdict: str, mind: str) -> Finding:
    scale = f"SmolLM2-135M; {_counted(value.num_seeds, 'seed')}, {_counted(value.num_texts, 'text')}"
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
