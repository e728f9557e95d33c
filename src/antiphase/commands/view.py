"""The command `antiphase view`, which serves the interactive page of runs that may still be in progress."""

import argparse
import time
import webbrowser
from pathlib import Path
from typing import Any

from antiphase.commands.options import Help, Parser
from antiphase.commands.page_options import add_kinds, add_runs, kinds_of

DEFAULT_PORT = 8517


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `view`, with its options, to the parser of `antiphase`."""
    view = commands.add_parser(
        "view",
        help="serve the page of report on localhost, also while a run is in progress",
        description="Serve the page on this machine, and update it when the run has new results.",
        formatter_class=Help,
    )
    add_runs(view)
    view.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the server; 0 takes a free port")
    view.add_argument("--no-browser", dest="browser", action="store_false", help="do not open a browser")
    add_kinds(view)


def run(options: dict[str, Any], _: Path | None) -> None:
    """Serve the interactive page until the user interrupts the command."""
    from antiphase.report.entries import check_view

    check_view(options["runs"], options["port"], forking_share=options["forking_share"])
    # This imports torch, so it comes after all checks.
    from antiphase.report.view import serving

    try:
        with serving(options["runs"], options["port"], **kinds_of(options)) as server:
            print(f"serving {', '.join(options['runs'])} on {server.address} (Ctrl-C stops)", flush=True)
            if options["browser"]:
                webbrowser.open(server.address)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("\nstopped.")
