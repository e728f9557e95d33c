"""The paper's claims about SFT, each with the paper's number and with what the stored cells of this study say."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from emergence_findings import LINKS, Cells, Value
from emergence_settings import ROLLOUTS
from finding import AGAINST, FOR, MIXED, NOT_RUN, ONE_SEED, UNDECIDED, Finding, counted, judged
from rl_claims import rl_findings

from antiphase.runs.table_text import signed

# The post's changes of ρ by type in the first 200 steps of SFT: Qwen and Llama.
SFT_STEPS, SFT_CHANGES = 200, (-0.137, -0.504)
# The post's ρ by type before SFT: Qwen and Llama.
BEFORE_SFT = (0.036, -0.171)
# What was trained in the two parts on emergence.
SCALE, LONG_SCALE = "SmolLM2-135M", "SmolLM2-135M, on a GPU"
_CAUSE = "It is the reasoning that does it"
# The units of ρ, with what is held fixed and the words for both.
_UNITS = (
    ("type", "none", "by type"),
    ("step", "none", "by sentence"),
    ("step", "length+position", "by sentence, with length and position held fixed,"),
)


def findings(folder: Path, rollouts: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Return all findings, in the order of the claims.

    Args:
        folder: the folder of the study, which holds its folders of results.
        rollouts: for each name in `SWEEPS`, the rollouts of the sweep, as `rollouts_of` returns them; an empty table
            if no cell is stored.
    """
    cells = Cells.read(folder / "results-emergence")
    found = [*_emergence(cells), *_cause(cells)]
    longer = folder / "results-emergence-long"
    more = Cells.read(longer)
    if longer.is_dir():
        found += [*_emergence(more, LONG_SCALE), *_cause(more, LONG_SCALE)]
        found.sort(key=lambda one: one.claim == _CAUSE)  # The rows of a claim stand together.
    # A second family was measured once, without a training.
    other = folder / "results-emergence-gemma"
    families = {SCALE: cells} | ({"Gemma 3 270M, base": Cells.read(other)} if other.is_dir() else {})
    for family, own in families.items():
        found += _level(own, family)
    # The longer training begins with the same model.
    for family, own in (families | ({LONG_SCALE: more} if longer.is_dir() else {})).items():
        found += _chain(own, family)
    return [*found, *rl_findings(folder, rollouts)]


def sft_changes(folder: Path) -> dict[str, dict[str, Value]]:
    """Return the change of ρ by sentence after SFT on every corpus, on held-out reasoning texts and rollouts.

    Of a corpus' steps, it is the last one that has the most seeds.

    Args:
        folder: the folder of the study.

    Returns:
        A mapping from a corpus, with its step and its number of seeds, to the changes on each kind of text.
    """
    found = {}
    for name, device in (("results-emergence", ""), ("results-emergence-long", ", GPU")):
        cells = Cells.read(folder / name)
        for corpus in cells.corpora:
            step = cells.last_step(corpus)
            changes = {texts: cells.change(corpus, step, texts) for texts in ("reasoning", ROLLOUTS)}
            counts = (changes["reasoning"].num_seeds, "seed"), (changes["reasoning"].num_texts, "text")
            found[f"{corpus}\n{step} steps, {', '.join(counted(*each) for each in counts)}{device}"] = changes
    return found


def _emergence(cells: Cells, where: str = SCALE) -> list[Finding]:
    """SFT on reasoning makes ρ negative."""
    claim = "SFT on reasoning turns ρ negative"
    paper = f"{signed(SFT_CHANGES[0])} and {signed(SFT_CHANGES[1])} by type after 200 steps (two models)"
    mind = "the same table for a base model of 1 B or more parameters and 1,000 steps"
    found = []
    for step in _steps(cells, "reasoning"):
        when = f" after {step} steps" if step else ""
        for texts, words in ((ROLLOUTS, "own rollouts"), ("reasoning", "held-out reasoning texts")):
            for unit, given, by in _UNITS:
                value = cells.change("reasoning", step, texts, unit=unit, given=given) if step else _NOTHING
                # The published numbers are by type and after 200 steps, so only that row is compared with them.
                size = SFT_CHANGES[0] if (unit, step) == ("type", SFT_STEPS) else None
                what = f"change of ρ {by} on {words}{when}"
                number = paper if size is not None else "—"
                found.append(_rho(claim, number, what, value, judged(value, -1, size), mind, where))
    return found


def _cause(cells: Cells, where: str = SCALE) -> list[Finding]:
    """It is the reasoning, and not the fit to any text."""
    claim = _CAUSE
    mind = "a training on reasoning and one on its control that differ on texts of both kinds"
    found = []
    controls = ("base", "sentences-shuffled", "words-shuffled")
    places = [(control, step) for control in controls for step in _steps(cells, "reasoning", control)]
    for other, step in places:
        when = f"after {step} steps of SFT on" if step else "after SFT on"
        for texts, words in ((ROLLOUTS, "own rollouts"), ("reasoning", "held-out reasoning texts")):
            for unit, given, by in _UNITS:
                value = cells.contrast("reasoning", other, step, texts, unit, given) if step else _NOTHING
                what = f"ρ {by} on {words} {when} reasoning, minus that after SFT on {other}"
                found.append(_rho(claim, "no control", what, value, judged(value, -1), mind, where))
    return found


def _steps(cells: Cells, *corpora: str) -> list[int]:
    """Return the steps in the table: `shown_steps`, and that of the published numbers; [0] if nothing is stored."""
    published = {SFT_STEPS} & set.intersection(*({*cells.steps(corpus)} for corpus in corpora))
    return sorted({*cells.shown_steps(*corpora)} | published) or [0]


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
            verdict += ONE_SEED if value.num_seeds == 1 else ""
            scale = f"{family}; {counted(value.num_seeds, 'seed')}, {counted(value.num_texts, 'text')}"
            paper = f"{signed(BEFORE_SFT[0])} and {signed(BEFORE_SFT[1])} by type (two models)"
            what = f"ρ {words} on own rollouts"
            found.append(Finding(claim, paper, scale, what, *value[:4], "ρ", verdict, mind))
    return found


def _chain(cells: Cells, family: str) -> list[Finding]:
    """The links of the paper's chain from entropy to strength."""
    claim = "Low entropy, large logit, large hidden state, large gradient"
    mind = "base models of several families in which all links have the needed sign on own rollouts"
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


_NOTHING = Value(math.nan, math.nan, math.nan, math.nan, 0, 0)


def _rho(claim: str, paper: str, what: str, value: Value, verdict: str, mind: str, where: str) -> Finding:
    scale = f"{where}; {counted(value.num_seeds, 'seed')}, {counted(value.num_texts, 'text')}"
    return Finding(claim, paper, scale, what, *value[:4], "ρ", verdict, mind)
