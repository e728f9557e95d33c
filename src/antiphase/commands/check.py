"""The command `antiphase check`, which verifies the answers in a file and prints the verdicts."""

import argparse
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphase.commands.options import Help, Parser, add_think_tags

if TYPE_CHECKING:
    from antiphase.tasks.checking import Checked

_WIDEST_ANSWER = 32


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `check`, with its options, to the parser of `antiphase`."""
    command = commands.add_parser(
        "check",
        help="the verdict on each answer of a file, with its reason",
        description="Verify rows with 'reference' and 'completion' (optional: 'id', 'finish', 'task', 'expected'), "
        "and show where math-verify alone, or lm-eval's rule for GSM8K, gives another verdict.",
        formatter_class=Help,
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a .jsonl, .json or .parquet file")
    command.add_argument(
        "--task", help="task whose rules verify the rows that name no task (default: rules for mathematical answers)"
    )
    command.add_argument("--timeout", type=float, default=5.0, help="seconds that one verification may take")
    add_think_tags(command)
    command.add_argument("--json", action="store_true", dest="as_json", help="print a JSON object for each row")


def run(options: dict[str, Any], out: Path | None) -> None:
    """Verify the completions in the file, and print the verdicts."""
    del out
    from antiphase.tasks.checking import check_rows, read_rows

    # Without --task, the rows are verified as mathematical answers.
    spec = options["task"] or f"{options['file']}:answer_column=reference"
    checked = check_rows(read_rows(options["file"], spec), options["timeout"], options["think_tags"])
    if options["as_json"]:
        print("\n".join(json.dumps(one.to_dict(), ensure_ascii=False) for one in checked))
    else:
        print(table(checked))


def table(checked: "Sequence[Checked]") -> str:
    """Return the verdicts as text.

    The text has a line for each row, the number of rows of each outcome, and how often the verdicts of math-verify and
    of lm-eval's rule differ from ours.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    stated = ("expected",) if any(one.expected is not None for one in checked) else ()
    for name in ("id", "answer", "outcome", *stated, "reason", "math-verify", "lm-eval"):
        lines.add_column(name, no_wrap=name != "reason")
    for one in checked:
        answer = "" if one.extracted is None else one.extracted.replace("\n", " ")
        answer = answer if len(answer) <= _WIDEST_ANSWER else f"{answer[: _WIDEST_ANSWER - 1]}…"
        others = (_other(one.math_verify, one.correct), _other(one.lm_eval, one.correct))
        wanted = [_other(one.expected, one.correct)] if stated else []
        lines.add_row(*map(Text, (one.id, answer, one.outcome, *wanted, one.reason, *others)))
    console = Console(file=io.StringIO(), width=118, color_system=None, highlight=False)
    console.print(lines)
    assert isinstance(console.file, io.StringIO)
    counts = Counter(one.outcome for one in checked)
    notes = [
        f"{len(checked)} rows: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) + ".",
        _disagreements("math-verify alone", [one.math_verify != one.correct for one in checked]),
        _disagreements(
            "lm-eval's rule for GSM8K", [one.lm_eval != one.correct for one in checked if one.lm_eval is not None]
        ),
    ]
    expected = [one.expected == one.correct for one in checked if one.expected is not None]
    if expected:
        marked = "" if all(expected) else " The other rows are marked with the expected verdict."
        notes.append(f"{sum(expected)} of {len(expected)} verdicts are as the column 'expected' says.{marked}")
    return "\n".join([*(line.rstrip() for line in console.file.getvalue().rstrip().split("\n")), "", *notes])


def _other(verdict: bool | None, ours: bool) -> str:
    """Return another rule's verdict as `right` or `wrong`; an empty text if it is None or equal to `ours`."""
    return "" if verdict is None or verdict == ours else "right" if verdict else "wrong"


def _disagreements(rule: str, differs: Sequence[bool]) -> str:
    if not differs:
        return f"{rule}: no row has a number as its reference."
    return f"{rule} disagrees on {sum(differs)} of {len(differs)} rows (marked with its own verdict)."
