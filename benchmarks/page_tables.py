"""Tables in Markdown, and times, ratios and sizes as words, for benchmarks/page.py."""

import re
from collections.abc import Callable, Sequence
from typing import Any

WORKS = {"plain": "plain pass", "own": "`own`", "last": "`last`", "full": "`full`, one token"}
Row = dict[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]


def time_of(seconds: float) -> str:
    """Return a time with two or three digits.

    >>> time_of(0.0123), time_of(1.234), time_of(432.1)
    ('12.3 ms', '1.23 s', '432 s')
    """
    if seconds < 0.0995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 99.5 else f"{seconds:.0f} s"


def times_of(ratio: float) -> str:
    """Return a ratio.

    >>> times_of(1.284), times_of(45.23), times_of(0.00371)
    ('1.28×', '45×', '0.0037×')
    """
    return f"{ratio:.2f}×" if 0.1 <= ratio < 9.95 else f"{ratio:.2g}×" if ratio < 99.5 else f"{ratio:,.0f}×"


def small(number: float) -> str:
    return "0" if number == 0 else f"{number:.1e}"


def cells_of(rows: Sequence[Row], shown: Callable[[Row, int], str]) -> list[list[str]]:
    """Return one line for each length, with a cell for every work; `full` counts for one of its targets."""
    lengths = sorted({row["tokens"] for row in rows})
    found = {(row["tokens"], row["work"]): row for row in rows}
    return [
        [f"{length:,}", *(shown(found[length, work], found[length, work]["targets"] if work == "full" else 1)
                          for work in WORKS)]
        for length in lengths
    ]  # fmt: skip


# Columns of rows that are no sizes.
_FACTS = re.compile(
    r"case|work|device|rounds|beside|dtype|about|targets|difference.*|same_answer|peak_mib|low|high|"
    r"(seconds|ratio|seconds_per_target|speedup)(_.*)?"
)


def sizes_of(row: Row) -> str:
    """Return the sizes of a row as words.

    >>> sizes_of({"case": "head", "tokens": 4096, "vocab": 49152, "ratio_p50": 1.0})
    'tokens 4,096, vocab 49,152'
    """
    numbers = {key: value for key, value in row.items() if isinstance(value, int) and not _FACTS.fullmatch(key)}
    return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in numbers.items())


def in_turns(rows: Sequence[Row]) -> list[str]:
    """Return a table for each case of rows in the form of benchmarks/rows.py."""
    lines: list[str] = []
    for case in dict.fromkeys((row["case"], sizes_of(row)) for row in rows if "seconds_p50" in row):
        some = [row for row in rows if row["case"] == case[0] and sizes_of(row) in (case[1], "")]
        per = "seconds_per_target" if "seconds_per_target_p50" in some[0] else "seconds"
        beside = some[0]["beside"]
        memory = any("peak_mib" in row for row in some)
        answers = any("same_answer" in row for row in some)
        header = ["", "CPU time" + (" for one token" if per != "seconds" else ""), f"÷ {beside}"]
        header += ["peak memory"] * memory + ["same answer", "greatest difference"] * answers
        body = []
        for row in some:
            timed = "seconds_p50" in row
            cells = [row["work"], time_of(row[f"{per}_p50"]) if timed else "–",
                     times_of(row["ratio_p50"]) if timed else "–"]  # fmt: skip
            cells += [f"{row['peak_mib']:,.0f} MiB" if "peak_mib" in row else "–"] * memory
            cells += [str(row.get("same_answer", "–")), difference_of(row)] * answers
            body.append(cells)
        title = f"**{case[0]}**" + (f" ({case[1]})" if case[1] else "")
        lines += ["", f"{title}:", "", *table(header, body)]
    return lines


def difference_of(row: Row) -> str:
    if "difference" not in row:
        return "–"
    if "difference_from_own_definition" in row:
        return f"{small(row['difference'])}; from its own definition {small(row['difference_from_own_definition'])}"
    return small(row["difference"])
