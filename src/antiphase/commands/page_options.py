"""The options that `antiphase report` and `antiphase view` share: the runs, and which tokens are marked."""

import argparse
from typing import Any


def add_runs(command: argparse.ArgumentParser) -> None:
    """Add the argument that names the folders of the runs."""
    command.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN[,RUN…]",
        help="folder of a probe, an evaluation, a comparison or a training run; several with commas are seeds: they "
        "are numbered, and training runs are drawn as one band",
    )


def add_kinds(command: argparse.ArgumentParser) -> None:
    """Add the options that say which tokens are marked on the page."""
    command.add_argument(
        "--markers",
        metavar="WORD[,…]",
        help="words that are marked as reasoning markers (default: wait, so, therefore, let and twenty others)",
    )
    command.add_argument(
        "--forking-share",
        type=float,
        default=0.2,
        help="share of tokens that are marked as forking tokens, which are those of the highest entropy",
    )


def kinds_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that say which tokens are marked, as keyword arguments of `write_report`."""
    from antiphase.page.defaults import MARKERS

    markers = options["markers"]
    return {
        "markers": MARKERS if markers is None else tuple(markers.split(",")),
        "forking_share": options["forking_share"],
    }
