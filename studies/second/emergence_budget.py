"""What the cells that are left cost, before anything runs: steps, tokens and hours."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from emergence_settings import UNTRAINED, Cell, Settings

from antiphase.errors import InvalidInputError

# A file with a line for each piece of work that was done, and its seconds.
SECONDS = "seconds.jsonl"


def note_seconds(out: Path, kind: str, cell: Cell, step: int, number: int, seconds: float) -> None:
    """Store how long a piece of work took.

    Args:
        out: the folder of the study.
        kind: `step`, `measurement` or `full`.
        cell: the cell.
        step: the training step after which it was done.
        number: how many steps or measurements it was.
        seconds: its seconds.
    """
    row = {"kind": kind, "cell": cell.name, "step": step, "number": number, "seconds": round(seconds, 2)}
    with (out / SECONDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rates(settings: Settings, out: Path) -> tuple[dict[str, float], list[str]]:
    """Return the seconds of a step, of a measurement and of a `full` measurement, and which of them are measured.

    A rate that no cell has measured is the one that the settings state.
    """
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    if (out / SECONDS).is_file():
        for line in (out / SECONDS).read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # A call was killed while it wrote this line.
                continue
            totals[row["kind"]][0] += row["seconds"]
            totals[row["kind"]][1] += row["number"]
    measured = {kind: seconds / number for kind, (seconds, number) in totals.items() if number}
    return {**settings.seconds, **measured}, sorted(measured)


def is_done(out: Path, cell: Cell, step: int) -> bool:
    """Return whether what is measured after a step is stored."""
    return (out / "cells" / cell.file(step)).is_file()


def check_stored(settings: Settings, out: Path) -> None:
    """Refuse a folder with measurements that were made with other settings.

    Raises:
        InvalidInputError: a stored measurement has other settings.
    """
    wanted = json.loads(json.dumps(settings.stored()))
    for cell in settings.cells():
        for path in (out / "cells" / cell.file(step) for step in cell.steps if is_done(out, cell, step)):
            stored = json.loads(path.read_text(encoding="utf-8"))["settings"]
            differing = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
            if differing:
                raise InvalidInputError(
                    f"{path} was measured with other settings ({', '.join(differing)}). Choose another --out, or "
                    "change the settings back."
                )


def describe(settings: Settings, cells: Sequence[Cell], out: Path) -> str:
    """Return the budget of the cells that are left, as text.

    Args:
        settings: the settings of the study.
        cells: the chosen cells.
        out: the folder of the study.
    """
    left = [cell for cell in cells if not all(is_done(out, cell, step) for step in cell.steps)]
    steps = sum(_steps_left(cell, out) for cell in left)
    points = [(cell, step) for cell in left for step in cell.steps if not is_done(out, cell, step)]
    full = sum(settings.is_full(cell, step) for cell, step in points)
    per, known = rates(settings, out)
    hours = (steps * per["step"] + len(points) * per["measurement"] + full * per["full"]) / 3600
    options = settings.measure
    texts = len(options["texts"]) * options["num_texts"] * options["text_tokens"]
    rollouts = options["num_rollouts"] * options["rollout_tokens"]
    tokens = steps * settings.train["rows"] * settings.train["answer_tokens"]
    rate = ", ".join(f"{per[kind]:.1f} s a {kind}" for kind in ("step", "measurement", "full"))
    return "\n".join(
        [
            f"study emergence of {settings.stored()['model']}: {len(cells)} cells, {len(cells) - len(left)} done",
            f"left: {steps:,} optimizer steps, at most {tokens:,} tokens trained on; {len(points)} measurements of at "
            f"most {texts + rollouts:,} tokens by {', '.join(options['estimators'])}, {full} of them also by full",
            f"about {hours:.1f} hours of one core ({rate}; measured here: {', '.join(known) or 'none'})",
        ]
    )


def _steps_left(cell: Cell, out: Path) -> int:
    """Return the number of steps that are still to be done, if the last stored measurement has its checkpoint."""
    if cell.corpus == UNTRAINED:
        return 0
    done = [step for step in cell.steps if is_done(out, cell, step)]
    return cell.steps[-1] - max(done, default=0)
