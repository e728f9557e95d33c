"""Turn the rows of `run.py` into a stored result, a picture and the tables of docs/performance-gpu.md.

    python benchmarks/gpu/render.py OUT [--note TEXT]    store the run in OUT, then draw and write
    python benchmarks/gpu/render.py                      draw and write again what is stored

Results are benchmarks/results/gpu-DEVICE.json and .png: all runs on a device, with every row. A table shows, cell by
cell, the newest run that has the cell. It needs matplotlib (antiphase's extra `report`) and no GPU.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))
Row = dict[str, Any]
# Operation of a `speed` row → how the table names it, in its order. Rows of earlier kits have other names.
OPERATIONS = {
    "forward": "forward",
    "forward+backward": "forward and backward through activations",
    "head": "the head alone (entropy)",
    "own": "`own`, all tokens",
    "own, steps": "`own`, all tokens, and their steps of 32 jointly",
    "last": "`last`, 128 tokens of each row",
    "full": "`full`, 4 tokens, or one of each of 8 rows",
    "full, steps": "`full`, 4 steps, or one of each of 8 rows, jointly",
}
WELL = ("ok", "skipped")
# What tells one check of an estimator from another.
_RIGHT_KEYS = ("architecture", "dtype", "attention", "padding", "estimator", "traces")


def stored(results: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every device's file and what it holds."""
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(results.glob("gpu-*.json"))]


def encoded(found: dict[str, Any]) -> str:
    """JSON with a line for every row, so that differences can be read."""
    runs = []
    for run in found["runs"]:
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in run["rows"])
        head = json.dumps({key: value for key, value in run.items() if key != "rows"}, ensure_ascii=False)
        runs.append(f'{head[:-1]}, "rows": [\n{rows}\n]}}')
    body = ",\n".join(runs)
    return f'{{"device": {json.dumps(found["device"])}, "runs": [\n{body}\n]}}\n'


def add(out: Path, note: str, results: Path) -> Path:
    """Store the runs in the folder `out`; the file of their device."""
    lines = (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    places = [place for place, row in enumerate(rows) if row["part"] == "environment"]
    if not places:
        raise SystemExit(f"{out} has no row of its environment, so it was not made by run.py.")
    path = results / "gpu-.json"
    for start, stop in zip(places, [*places[1:], len(rows)], strict=True):
        environment = {key: value for key, value in rows[start].items() if key not in ("part", "case")}
        device = environment.get("device", "cpu")
        if environment.get("dry") or device == "cpu":
            raise SystemExit(f"{out} holds a dry run, or one without a GPU. That is no result.")
        path = results / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"device": device, "runs": []}
        run = {"note": note, "environment": environment, "rows": rows[start + 1 : stop]}
        known["runs"] = [*(each for each in known["runs"] if each["rows"] != run["rows"]), run]
        path.write_text(encoded(known), encoding="utf-8")
    return path


def rows_of(found: dict[str, Any], part: str, case: str) -> Iterator[Row]:
    """Of all runs, the oldest first; each with the number of its run, from 1."""
    for number, run in enumerate(found["runs"], 1):
        for row in run["rows"]:
            if row["part"] == part and row["case"] == case:
                yield {**row, "run": number}


def newest(rows: Iterator[Row], *keys: str) -> dict[tuple[Any, ...], Row]:
    """The newest good row of every cell."""
    return {tuple(row.get(key) for key in keys): row for row in rows if row.get("status") == "ok"}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]


def right_table(found: dict[str, Any]) -> list[str]:
    """Largest errors of the strengths, on the device and on the CPU."""
    errors: dict[str, list[Row]] = {}
    cells: dict[tuple[Any, ...], Row] = {}
    for row in rows_of(found, "right", "estimator"):
        cells[tuple(str(row.get(name)) for name in _RIGHT_KEYS)] = row
    for row in cells.values():
        if "strength_error" in row:
            errors.setdefault(row["dtype"], []).append(row)
    body = [
        [
            dtype,
            str(len(rows)),
            f"{max(row['strength_error'] for row in rows):.1e}",
            f"{max(row['strength_error_cpu'] for row in rows):.1e}",
            str(sum(row["status"] != "ok" for row in rows)),
        ]
        for dtype, rows in sorted(errors.items(), reverse=True)
    ]
    header = [
        "weights",
        "checks",
        "largest relative error of a strength, on the GPU",
        "largest relative error of a strength, on the CPU",
        "wrong checks",
    ]
    return table(header, body) if body else ["Not run."]


def speeds(found: dict[str, Any]) -> tuple[list[tuple[Any, ...]], dict[tuple[Any, ...], Row]]:
    """The cells (model, tokens, batch) in the order of their runs, and the rows of their operations."""
    rows = newest(rows_of(found, "fast", "speed"), "model", "tokens", "batch", "operation")
    rows = {key: row for key, row in rows.items() if key[3] in OPERATIONS}
    return list(dict.fromkeys(key[:3] for key in rows)), rows


def cell_name(model: str, tokens: int, batch: int) -> str:
    return f"{model}, {batch} × {tokens:,} tokens" if batch > 1 else f"{model}, {tokens:,} tokens"


def speed_table(found: dict[str, Any]) -> list[str]:
    """Seconds and peak memory of every operation."""
    cells, rows = speeds(found)

    def shown(key: tuple[Any, ...]) -> str:
        if key not in rows:
            return "–"
        row = rows[key]
        once = "*" if row["rounds"] == 0 else ""
        return f"{row['seconds_p50']:.3f}{once} ({row['peak_gib']:.1f})"

    body = [[title, *(shown((*cell, name)) for cell in cells)] for name, title in OPERATIONS.items()]
    return table(["", *(cell_name(*cell) for cell in cells)], body) if cells else ["Not run."]


def train_table(found: dict[str, Any]) -> list[str]:
    """Seconds of a GRPO step, what of it is measuring, and peak memory."""
    body = []
    for (name,), row in newest(rows_of(found, "train", "step"), "name").items():
        steps, measuring = row["step_seconds"], row["measuring_seconds"]
        middle = sorted(range(len(steps)), key=lambda place: steps[place])[len(steps) // 2]
        body.append(
            [name, f"{steps[middle]:.2f}", f"{measuring[middle]:.2f}", f"{row['share']:.0%}", f"{row['peak_gib']:.1f}"]
        )
    header = ["case", "median step, s", "measuring in it, s", "share of measuring, all steps", "peak memory, GiB"]
    return table(header, body) if body else ["Not run."]


def learn_lines(found: dict[str, Any]) -> list[str]:
    """Held-out pass@1 along the tiny recipe."""
    found_evals = [f"{row['heldout/pass@1']:.2f} at step {row['step']}" for row in rows_of(found, "learn", "eval")]
    return [f"Held-out pass@1: {', '.join(found_evals)}."] if found_evals else ["Not run."]


def real_lines(found: dict[str, Any]) -> list[str]:
    """The commands on the embedded model: ρ, and held-out accuracy along the trainings."""

    def shown(value: float, low: float, high: float) -> str:
        return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")

    lines = []
    for row in [*rows_of(found, "real", "probe"), *rows_of(found, "agree", "probe")]:
        body = [
            [f"`{estimator}`", *(shown(*unit[:3]) for unit in units.values())]
            for estimator, units in row["correlation"].items()
        ]
        names = next(iter(row["correlation"].values()))
        lines += [f"Run {row['run']}: `antiphase probe {row['model']}` with the options of `make demo`:", ""]
        lines += [*table(["pooled ρ", *(f"by {name}" for name in names)], body), ""]
    evals = newest(rows_of(found, "real", "heldout"), "run", "method", "seed", "step")
    steps = sorted({key[3] for key in evals})
    curves = dict.fromkeys(key[:3] for key in evals)
    if evals:
        body = [
            [
                f"`{method}`, seed {seed}",
                *(
                    f"{row['heldout/pass@1']:.3f} [{row['heldout/pass@1_low']:.3f}, {row['heldout/pass@1_high']:.3f}]"
                    if (row := evals.get((number, method, seed, step)))
                    else "–"
                    for step in steps
                ),
            ]
            for number, method, seed in curves
        ]
        title = "The recipe `smollm2-sums` by `antiphase train`: held-out pass@1 on 64 sums, with 4 samples each."
        lines += [title, ""]
        lines += table(["preset", *(f"step {step}" for step in steps)], body)
    return lines or ["Not run."]


def unwell(found: dict[str, Any]) -> list[str]:
    """What failed, was wrong or too slow, or did not fit, in any run, and has no good row in the same run."""
    named: dict[tuple[str, str, str], dict[tuple[str, str], list[str]]] = {}
    cell = ("part", "case", "name", "way", "operation", "model", "tokens", "batch", "rows", "columns", "dtype")
    for number, run in enumerate(found["runs"], 1):
        good = {tuple(row.get(key) for key in cell) for row in run["rows"] if row.get("status") == "ok"}
        for row in run["rows"]:
            status = str(row.get("status", "ok"))
            if status.partition(":")[0] in WELL or tuple(row.get(key) for key in cell) in good:
                continue
            fact = " ".join(str(row[key]) for key in ("name", "operation", "dtype") if key in row)
            fact = fact.replace(", steps", " with steps")
            # The facts about one cell stand together.
            place = fact
            if "tokens" in row:
                place = "of " + cell_name(row.get("model", "tiny"), row["tokens"], row.get("batch", 1))
            same = named.setdefault((str(number), row["part"], status), {}).setdefault((row["case"], place), [])
            if fact not in same:
                same.append(fact)
    body = []
    for key, places in named.items():
        what = [
            " ".join(word for word in (case, " and ".join(facts), place if place not in facts else "") if word)
            for (case, place), facts in places.items()
        ]
        body.append([*key, "; ".join(what)])
    return table(["run", "part of the kit", "how it ended", "what"], body) if body else ["Nothing."]


def runs_table(found: dict[str, Any]) -> list[str]:
    body = []
    for number, run in enumerate(found["runs"], 1):
        about = run["environment"]
        versions = ", ".join(
            f"{package} {about[package]}" for package in ("torch", "cuda", "transformers", "trl") if about.get(package)
        )
        skipped = sum(str(row.get("status", "")).startswith("skipped") for row in run["rows"])
        body.append(
            [
                str(number),
                (about.get("commit") or "–")[:8],
                versions,
                str(len(run["rows"])),
                str(skipped),
                run["note"] or "–",
            ]
        )
    return table(["run", "commit", "versions", "results", "skipped for time", "note"], body)


def section(found: dict[str, Any], name: str) -> str:
    """The generated part of the docs for one device."""
    parts = [
        [f"## Tables: {found['device']}"],
        [f"Made from [every row](../benchmarks/results/{name}.json) by `benchmarks/gpu/render.py`."],
        runs_table(found),
        ["**Right numbers:**"],
        right_table(found),
        ["**Times:** seconds, and in brackets GiB."],
        speed_table(found),
        [f"![Seconds of every operation](../benchmarks/results/{name}.png)"],
        ["**A training step:**"],
        train_table(found),
        ["**The recipe `tiny`** (the part `learn`).", "", *learn_lines(found)],
        [
            "**The commands** (`agree` and `real`) on SmolLM2-135M-Instruct, in float32.",
            "",
            *real_lines(found),
        ],
        ["**What did not end well,** in all runs:"],
        unwell(found),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def with_section(text: str, name: str, content: str) -> str:
    """The page with the device's section replaced, or added at its end."""
    first, last = f"<!-- {name}: made by benchmarks/gpu/render.py -->", f"<!-- end of {name} -->"
    block = f"{first}\n{content}\n{last}"
    if first in text:
        before, rest = text.split(first, 1)
        return before + block + rest.split(last, 1)[1]
    return f"{text.rstrip()}\n\n{block}\n"


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds of every operation in every cell, on a logarithmic axis, and the share of a training step."""
    from antiphase.figures.style import BLUE, FAINT, GREY, INK, ORANGE, canvas

    cells, rows = speeds(found)
    steps = newest(rows_of(found, "train", "step"), "name")
    sizes = sorted({cell[0] for cell in cells}, key=lambda model: float(model.rsplit("-", 1)[1].rstrip("B")))
    with canvas(10.5, 4.4) as (_, figure):
        left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
        names = list(OPERATIONS)[::-1]
        markers = "osD^vPX*"
        for number, cell in enumerate(cells):
            here = {names.index(key[3]): row["seconds_p50"] for key, row in rows.items() if key[:3] == cell}
            colour = (BLUE, ORANGE, GREY, INK)[sizes.index(cell[0]) % 4]
            left.scatter(
                [*here.values()], [*here], color=colour, marker=markers[number % 8], s=26, label=cell_name(*cell)
            )
        left.set_yticks(range(len(names)), [OPERATIONS[name].replace("`", "") for name in names])
        left.set_xscale("log")
        left.xaxis.set_major_formatter("{x:g}")
        left.grid(axis="x", color=FAINT, linewidth=0.6)
        left.set_axisbelow(True)
        left.set_xlabel("seconds (median)")
        left.set_title(f"{found['device']}, bfloat16, random weights")
        left.legend(loc="upper center", bbox_to_anchor=(0.3, -0.16), ncols=3, fontsize=7)
        titles = [name for (name,) in steps][::-1]
        shares = [100 * row["share"] for row in steps.values()][::-1]
        right.barh(titles, shares, color=BLUE, height=0.5)
        for place, share in enumerate(shares):
            right.text(share + 1.5, place, f"{share:.0f} %", va="center", color=INK, fontsize=8)
        right.set_xlim(0, 100)
        right.tick_params(axis="y", length=0)
        right.set_xlabel("of a GRPO step, %", color=GREY)
        right.set_title("Measuring")
        figure.savefig(path, dpi=160, metadata={"Software": None})


def write(results: Path, page: Path, *, pictures: bool = True) -> None:
    """Tables and pictures of every stored device."""
    text = page.read_text(encoding="utf-8")
    for path, found in stored(results):
        text = with_section(text, path.stem, section(found, path.stem))
        if pictures:
            draw(found, path.with_suffix(".png"))
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="a folder of run.py")
    parser.add_argument("--note", default="", help="what is special about this run")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance-gpu.md")
    options = parser.parse_args()
    if options.out is not None:
        print(add(options.out, options.note, options.results))
    write(options.results, options.page)


if __name__ == "__main__":
    main()
