"""The command `antiphase report`, which writes the interactive page of runs."""

import argparse
from pathlib import Path
from typing import Any

from antiphase.commands.options import Help, Parser
from antiphase.commands.page_options import add_kinds, add_runs, kinds_of


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `report`, with its options, to the parser of `antiphase`."""
    report = commands.add_parser(
        "report",
        help="write an interactive page about one or several runs, in one file",
        description="Write a self-contained HTML page: overview, scatter, token microscope, layer map, kinds of "
        "tokens, training curves. The page opens from disk and loads nothing.",
        formatter_class=Help,
    )
    add_runs(report)
    report.add_argument("--out", type=Path, help="file to write (default: report.html in the folder of the only run)")
    add_kinds(report)


def run(options: dict[str, Any], out: Path | None) -> None:
    """Write the interactive page, and print the path of its file."""
    from antiphase.report.entries import check_report

    check_report(options["runs"], out, forking_share=options["forking_share"])
    # This imports torch, so it comes after all checks.
    from antiphase.report.writing import write_report

    path = write_report(options["runs"], out, **kinds_of(options))
    print(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB)")
