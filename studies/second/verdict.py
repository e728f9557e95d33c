"""The verdict of the second study: a table of the paper's claims with what was found, and one figure.

    python studies/second/verdict.py

It reads the folders of results beside it, and writes verdict.md and figures/verdict.png (and .svg) there. A part of
the study that was not run yet is called so.
"""

import argparse
from pathlib import Path

from verdict_claims import Finding, findings
from verdict_figure import verdict_figure

from antiphase.evaluation.comparison_formats import markdown_table
from antiphase.figures.style import styled

_HEADER = ("claim", "the paper's number", "ours [95 %]", "what our number is", "where", "detectable", "verdict")


def write_verdict(folder: Path) -> str:
    """Write FOLDER/verdict.md and the figure, and return the text.

    Args:
        folder: the folder of the study.
    """
    found = findings(folder)
    text = _markdown(found)
    (folder / "verdict.md").write_text(text, encoding="utf-8")
    (folder / "figures").mkdir(exist_ok=True)
    figure = verdict_figure(found)
    with styled():
        for suffix in ("png", "svg"):
            figure.savefig(folder / "figures" / f"verdict.{suffix}", dpi=150, metadata={"Date": None})
    return text


def _markdown(found: list[Finding]) -> str:
    """Return the text of verdict.md."""
    rows = [[one.claim, one.paper, one.text, one.what, one.scale, one.power, f"**{one.verdict}**"] for one in found]
    minds = dict.fromkeys((one.claim, one.mind) for one in found)
    parts = [
        "# The verdict",
        "This file is made by `python studies/second/verdict.py` from the stored cells.",
        "![the paper's claims and what we found](figures/verdict.png)",
        markdown_table(_HEADER, rows),
        "**How the verdicts are made.** `for`: the interval lies on the claimed side of 0. `against`: it lies on the "
        "other side. `smaller than the paper's`: it contains 0, and does not contain the paper's number. `not enough "
        "data`: it contains both, or it contains 0 and the paper gives no number, or there is no interval. A link of "
        "the chain is `for` if more than 95 % of the checkpoints and texts have the claimed sign, `against` if fewer "
        "than 5 % have it, else `mixed`; its bracket is the range over them. No interval is corrected for the number "
        "of rows, so about one row in twenty is expected to exclude 0 by chance.",
        "**Detectable** is the smallest true value that so many seeds and texts (or problems) tell from 0 in 80 % of "
        "cases. A smaller effect may exist and stay unseen here.",
        "## What would change our mind",
        markdown_table(("claim", "what would change our mind"), [list(pair) for pair in minds]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the verdict and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent, help="the folder of the study")
    print(write_verdict(parser.parse_args().folder))


if __name__ == "__main__":
    main()
