"""The tables and figures of a study."""

from collections.abc import Sequence
from pathlib import Path

from antiphase.study.definition import Study
from antiphase.study.store import DoneCell


def write_report(study: Study, cells: Sequence[DoneCell], folder: Path) -> str:
    """Write the report."""
    return f"{study.name}: {len(cells)} cells in {folder}"
