"""Does inversion emerge with SFT on reasoning, and does the paper's chain hold on the way? The second study, 1 and 2.

    python studies/second/emergence.py studies/second/emergence.yaml --out studies/second/results-emergence

The command prints its budget first. What is measured is stored at once in OUT/cells, so it can be stopped at any time,
and the same command goes on. Several processes may run at once; each takes cells that no other one runs. At its end,
and with --tables at once, it writes OUT/report.md, OUT/tables and OUT/figures from what is stored.
"""

import argparse
import sys
from pathlib import Path

from emergence_budget import check_stored, describe
from emergence_report import write_findings
from emergence_settings import read_settings

from antiphase.errors import AntiphaseError


def parsed() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path, help="the YAML file of the study")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--work", type=Path, help="the folder of unfinished trainings, 1.6 GB each (OUT/work)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cells, corpora or patterns: '*.s0'")
    parser.add_argument("--model", help="a hub id, a folder or a GGUF file, in place of the model of the settings")
    parser.add_argument("--dry-run", action="store_true", help="print the budget, and stop")
    parser.add_argument("--tables", action="store_true", help="run no cell; make the tables of what is stored")
    return parser.parse_args()


def main() -> None:
    """Check, print the budget, and run what is left."""
    options = parsed()
    settings = read_settings(options.settings, options.model)
    cells = settings.chosen(options.only)
    check_stored(settings, options.out)
    print(describe(settings, cells, options.out), flush=True)
    if options.dry_run:
        return
    if not options.tables:
        # This imports torch, which the tables do not need.
        from emergence_cells import Study

        study = Study(settings, options.out, options.work or options.out / "work")
        left = [cell for cell in cells if not study.is_done(cell)]
        if left:
            study.check(left)
            study.run(left)
    print(write_findings(options.out, sum(len(cell.steps) for cell in settings.cells())))


if __name__ == "__main__":
    try:
        main()
    except AntiphaseError as error:
        sys.exit(f"error: {error}")
