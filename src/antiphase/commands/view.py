"""`antiphase view`: its options, and what it prints."""

import argparse
import time
import webbrowser
from pathlib import Path
from typing import Any

from antiphase.commands.options import Help, Parser
from antiphase.commands.page_options import add_kinds, add_runs, kinds_of

DEFAULT_PORT = 8517


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command."""
    view = commands.add_parser(
        "view",
        help="the same page on localhost, of a run that is still being written",
        description="Serve the page on this machine, and make it again whenever the run has grown.",
        formatter_class=Help,
    )
    add_runs(view)
    view.add_argument("--port", type=int, default=DEFAULT_PORT, help="to listen on; 0 takes a free one")
    view.add_argument("--no-browser", dest="browser", action="store_false", help="do not open a browser")
    add_kinds(view)


def run(options: dict[str, Any], _: Path | None) -> None:
    """Serve the page until interrupted."""
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
