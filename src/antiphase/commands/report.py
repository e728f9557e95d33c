"""`antiphase report` and `antiphase view`: their options, and what they print."""

import argparse
import time
import webbrowser
from pathlib import Path
from typing import Any

from antiphase.commands.options import Help, Parser

DEFAULT_PORT = 8517


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add both commands."""
    report = commands.add_parser(
        "report",
        help="one interactive page of one run or several, in one file",
        description="Write a self-contained HTML page: overview, scatter, token microscope, layer map, kinds of "
        "tokens, training curves. It opens from disk and loads nothing.",
        formatter_class=Help,
    )
    _add_runs(report)
    report.add_argument("--out", type=Path, help="file to write (default: report.html in the folder of the only run)")
    _add_kinds(report)
    view = commands.add_parser(
        "view",
        help="the same page on localhost, of a run that is still being written",
        description="Serve the page on this machine, and make it again whenever the run has grown.",
        formatter_class=Help,
    )
    _add_runs(view)
    view.add_argument("--port", type=int, default=DEFAULT_PORT, help="to listen on; 0 takes a free one")
    view.add_argument("--no-browser", dest="browser", action="store_false", help="do not open a browser")
    _add_kinds(view)


def _add_runs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN[,RUN…]",
        help="folder of a probe, an evaluation, a comparison or a training run; several under one name are its seeds, "
        "numbered, or one band for training runs",
    )


def _add_kinds(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--markers", metavar="WORD[,…]", help="reasoning markers (default: wait, so, therefore, let and twenty others)"
    )
    command.add_argument(
        "--forking-share", type=float, default=0.2, help="share of tokens of the highest entropy that count as forking"
    )


def _kinds(options: dict[str, Any]) -> dict[str, Any]:
    from antiphase.page.document import MARKERS

    markers = options["markers"]
    return {
        "markers": MARKERS if markers is None else tuple(markers.split(",")),
        "forking_share": options["forking_share"],
    }


def run_report(options: dict[str, Any], out: Path | None) -> None:
    """Write the page."""
    from antiphase.report.writing import write_report

    path = write_report(options["runs"], out, **_kinds(options))
    print(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


def run_view(options: dict[str, Any], _: Path | None) -> None:
    """Serve the page until interrupted."""
    from antiphase.report.view import serving

    try:
        with serving(options["runs"], options["port"], **_kinds(options)) as server:
            print(f"serving {', '.join(options['runs'])} on {server.address} (Ctrl-C stops)", flush=True)
            if options["browser"]:
                webbrowser.open(server.address)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("\nstopped.")
