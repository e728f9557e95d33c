"""The verdict of the second study: a table of the paper's claims with what was found, and one figure.

    python studies/second/verdict.py

It reads the folders of results beside it, and writes verdict.md and figures/verdict.png (and .svg) there. A part of
the study that was not run yet is called so.
"""

import argparse
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from finding import ONE_SEED, VERDICTS, Finding
from gain_split import PARTS, gain_split, rollouts_of
from rl_claims import SWEEPS, is_gain, is_signature
from verdict_claims import findings, sft_changes
from verdict_figure import verdict_figure

from antiphase.evaluation.comparison_formats import markdown_table
from antiphase.figures.style import styled

STUDIES = Path(__file__).parent
_REFERENCE = "grpo"
_HEADER = ("claim", "the paper's number", "ours [95 %]", "what our number is", "where", "detectable", "verdict")


def write_verdict(folder: Path) -> str:
    """Write FOLDER/verdict.md and the figure, and return the text.

    Args:
        folder: the folder of the study.
    """
    rollouts = {name: rollouts_of(STUDIES / f"{name}.yaml", folder / f"results-{name}") for name in SWEEPS}
    found = findings(folder, rollouts)
    text = _markdown(found, _splits(rollouts))
    (folder / "verdict.md").write_text(text, encoding="utf-8")
    (folder / "figures").mkdir(exist_ok=True)
    gains = [one for one in found if is_gain(one) and not math.isnan(one.value)]
    lowered = [one for one in found if is_signature(one) and not math.isnan(one.value)]
    figure = verdict_figure(sft_changes(folder), gains, lowered)
    with styled():
        for suffix in ("png", "svg"):
            figure.savefig(folder / "figures" / f"verdict.{suffix}", dpi=150, metadata={"Date": None})
    return text


def _splits(rollouts: Mapping[str, pd.DataFrame]) -> list[list[str]]:
    """Return a row for each group and method: what it changes in ι against GRPO, and the parts of this change."""
    rows = []
    for name, models in SWEEPS.items():
        for group, own in rollouts[name].groupby("group", sort=False) if len(rollouts[name]) else ():
            methods = list(dict.fromkeys(own.method))
            for method in methods if _REFERENCE in methods else ():
                if method != _REFERENCE and {*own[own.method == method].seed} & {*own[own.method == _REFERENCE].seed}:
                    parts = gain_split(own, method, _REFERENCE)
                    rows.append([f"{models}, {group}", method, *(str(parts[part]) for part in PARTS)])
    return rows


def _markdown(found: list[Finding], splits: list[list[str]]) -> str:
    """Return the text of verdict.md."""
    rows = [[one.claim, one.paper, one.text, one.what, one.scale, one.power, f"**{one.verdict}**"] for one in found]
    minds = dict.fromkeys((one.claim, one.mind) for one in found)
    parts = [
        "# The verdict",
        "This file is made by `python studies/second/verdict.py` from the stored cells.",
        "![the paper's claims and what we found](figures/verdict.png)",
        "## In short",
        _counts(found),
        "This table counts the rows of the next one. The rows of a claim are not independent: many come from the same "
        "training and the same texts. So the counts are no votes. A row with one seed says nothing about another "
        "training, and two seeds cannot show how much seeds differ.",
        "## Every number",
        markdown_table(_HEADER, rows),
        "**How the verdicts are made.** `for`: the interval lies on the claimed side of 0. `against`: it lies on the "
        "other side. `smaller than the paper's`: it contains 0, and does not contain the paper's number. `not enough "
        "data`: it contains both, or it contains 0 and the paper gives no number, or there is no interval. A link of "
        "the chain is `for` if more than 95 % of the checkpoints and texts have the claimed sign, `against` if fewer "
        "than 5 % have it, else `mixed`; its bracket is the range over them. ρ before SFT is `for` if its "
        "interval lies above −0.171, the lower one of the published values, and `against` if it lies below. No "
        "interval is corrected for the number of rows, so about one row in twenty is expected to exclude 0 by chance.",
        "**Detectable** is the smallest true value that so many seeds and texts (or problems) tell from 0 in 80 % of "
        "cases. A smaller effect may exist and stay unseen here.",
        *_split_section(splits),
        "## What would change our mind",
        markdown_table(("claim", "what would change our mind"), [list(pair) for pair in minds]),
    ]
    return "\n\n".join(parts) + "\n"


def _counts(found: list[Finding]) -> str:
    """Return a table with a row for each claim: how many findings have which verdict."""
    given = {one.verdict.removesuffix(ONE_SEED) for one in found}
    verdicts = [verdict for verdict in VERDICTS if verdict in given]
    rows = []
    for claim in dict.fromkeys(one.claim for one in found):
        own = [one.verdict for one in found if one.claim == claim]
        counts = Counter(verdict.removesuffix(ONE_SEED) for verdict in own)
        single = sum(verdict.endswith(ONE_SEED) for verdict in own)
        rows.append([claim, *(str(counts[verdict] or "–") for verdict in verdicts), str(single or "–")])
    return markdown_table(("claim", *verdicts, "of these, with one seed"), rows)


def _split_section(splits: list[list[str]]) -> list[str]:
    """Return the section on what the gain of ι consists of, as paragraphs."""
    if not splits:
        return []
    header = ("where", "method", "ι minus that of GRPO", "by entropy", "by length", "rest")
    return [
        "## What the gain of ι consists of",
        markdown_table(header, splits),
        "ι = −ρ over the sentences of a rollout. By entropy and by length: what the method's change of mean entropy "
        "and length would do to ι, by the slopes among GRPO's own rollouts of one problem. Rest: what these two do "
        "not explain. The number of texts is that of the problems.",
    ]


def main() -> None:
    """Write the verdict and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=STUDIES, help="the folder of the study")
    print(write_verdict(parser.parse_args().folder))


if __name__ == "__main__":
    main()
