"""For the tests of the page in a browser: the real runs that `page_fixtures` makes, and what the tests do."""

import csv
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.plan import plan_tasks
from antiphase.probing.probe import probe

TRAJECTORY = Path(__file__).parents[1] / "recipes" / "smollm2-sums" / "results" / "trajectory.jsonl"


def probed(place: Path) -> Path:
    """The folder in `place` of a real probe of the embedded model: 8 rollouts of 48 tokens, by three estimators.

    Steps have a known size, so that a rollout has six steps and a ρ of its own.
    """
    probe("demo", num_prompts=4, samples=2, max_new_tokens=48, estimators=("own", "last", "full:4"),
          splitter="fixed:8", out=place / "run", progress=False, figures=False)  # fmt: skip
    return place / "run"


def judged_rollouts(place: Path) -> Path:
    """The folder in `place` of an evaluation of the embedded model on given completions, some right and some wrong."""
    (plan,) = plan_tasks(EvalConfig(models=("demo",), tasks=("sums",), num_problems=4))
    rows = [
        {"problem_id": p.problem_id, "completion": text}
        for p in plan.problems
        for text in (
            f" {p.answer}, I think, since that is what the two add up to", " 7777, or so I would guess now",
        )
    ]  # fmt: skip
    out = place / "judged"
    evaluate("demo", tasks=("sums",), num_problems=4, rollouts=rows, out=out, by_projection=True, progress=False,
             figures=False)  # fmt: skip
    return out


def trained(place: Path) -> Path:
    """`place`, filled with two seeds of a real training run and one of other settings, with an alarm."""
    rows = [json.loads(line) for line in TRAJECTORY.read_text().splitlines()]
    for name, rate, shift in (("seed0", 1, 0.0), ("seed1", 1, 0.1), ("other", 2, -0.1)):
        (place / name).mkdir()
        moved = [
            {**row, **({"inversion/mean": row["inversion/mean"] + shift} if row["kind"] == "step" else {})}
            for row in rows
        ]
        moved += [{"kind": "alarm", "step": 12, "window": 5, "action": "warn"}] if name == "other" else []
        (place / name / "trajectory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))
        (place / name / "recipe.json").write_text(json.dumps({"learning_rate": rate, "seed": int(shift * 10)}))
    return place


def downloaded(page, name: str) -> list[dict]:
    with page.expect_download() as waiting:
        page.click(f'button[data-csv="{name}"]')
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text[1:])))


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Over the scatter, in shares of its width and height."""
    page.locator("#scatter-chart").scroll_into_view_if_needed()
    box = page.locator("#scatter-chart").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*[(a + b) / 2 for a, b in zip(*places, strict=True)], steps=4)
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()
    page.wait_for_timeout(400)


def until(page, condition: str) -> None:
    """Wait for a condition; Playwright's own wait would need eval, which the page forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {condition}")


def number_of(text: str) -> int:
    return int(re.match(r"([\d,]+)", text)[1].replace(",", ""))


def tokens_of(folder: Path, estimator: str = "own") -> pd.DataFrame:
    tokens = pd.read_parquet(folder / "tokens.parquet")
    return tokens[tokens.estimator == estimator].reset_index(drop=True)
