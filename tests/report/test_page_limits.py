"""The page at its limits, in a browser: 655,360 tokens of 20 models, and hostile text."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from antiphase.page.building import signals_document, training_document
from antiphase.page.document import Document, Table, joined
from antiphase.page.html import write_page
from browser import Watched
from page_cases import by_unit, in_units, result, stepped, synthetic, tables

LONG = "x" * 100_000
HOSTILE = [
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 2'>",
    '"><svg onload=window.hit=3>',
    "' onmouseover='window.hit = 4",
    "javascript:window.hit=5",
    "<!-- <script>",
    "]]>",
    "{{ 7 * 7 }}{% raw %}",
    "a\u2028b\u2029c",
    "\u202eevil\u202c",
    "\u2067\u2066\u2069\u200f",
    "broken \ufffd\ufffd utf-8",
    "\x00\x07\x1b[31m\x7f",
    "zero\u200bwidth\ufeff",
    "e\u0301\u0301\u0301\u0301",
    "\U000e0041\U0001f469\u200d\U0001f4bb",
    "=1+cmd|'/C calc'!A0",
    "@SUM(A1)",
    "line\nbreak\ttab\r\n",
    "&lt;b&gt; &amp;amp;",
    "'; DROP TABLE models; --",
    "\\u003cscript\\u003e",
    "",
    LONG,
]


# Size and speed


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """20 models × 64 rollouts × 512 tokens, 30 layers, a vocabulary of 50,000."""
    words = [f" w{i}" for i in range(50_000)]
    models = [f"org/model-{i}" for i in range(20)]
    path = tmp_path_factory.mktemp("large") / "report.html"
    write_page(synthetic(models, 64, 512, num_layers=30, words=words), path)
    return path


@pytest.mark.slow
def test_655_360_tokens_fit_open_and_stay_usable(browser, large) -> None:
    assert large.stat().st_size < 25e6
    opened = []
    for _ in range(3):
        watched = Watched(browser)
        start = time.perf_counter()
        page = watched.open(large)
        opened.append(time.perf_counter() - start)
        if len(opened) < 3:
            watched.context.close()
    # 2.6 s alone on a quiet machine, 4.1 to 4.9 s on two busy cores; steps add 0.3 s of it.
    assert np.median(opened) < 8, opened

    assert "Drawn: 24,000 of 655,360 tokens" in page.inner_text("#scatter-caption")
    # One rollout is in the page at a time.
    assert page.locator("#text .tok").count() == 512

    def timed(action) -> float:
        start = time.perf_counter()
        action()
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        return time.perf_counter() - start

    def select() -> None:
        page.fill("#x-high", "0.5")
        page.click("#select-range")

    def cell() -> None:
        page.select_option("#cell", "L3.Q")
        page.wait_for_selector('#status:has-text("L3.Q")', state="attached")

    times = {
        "next rollout": timed(lambda: page.click("#next")),
        "another model": timed(lambda: page.select_option("#model", "7")),
        "select by range": timed(select),
        "rank axes": timed(lambda: page.select_option("#axes", "rank")),
        "a cell": timed(cell),
        "kinds": timed(
            lambda: (page.locator("#kinds").scroll_into_view_if_needed(), page.wait_for_selector("#kinds-table tr"))
        ),
    }
    print({"MB": large.stat().st_size / 1e6, "opened": opened, **times})
    assert max(times.values()) < 6, times
    assert times["next rollout"] < 1.5, times
    assert "for some rollouts only" in page.inner_text("#scatter-caption")
    held = page.locator("#held").inner_text()
    assert "64 rollouts, 32,768 tokens, with layers and alternatives of" in held
    watched.quiet()


@pytest.mark.slow
def test_a_selection_is_made_among_all_tokens(browser, large) -> None:
    watched = Watched(browser)
    page = watched.open(large)
    page.fill("#x-low", "2")
    page.click("#select-range")
    text = page.inner_text("#selection")
    counts = [
        len(t[t.entropy >= np.float32(2)])
        for t in (tables(f"m{i}", 64, 512, num_layers=30, words=["a"], seed=i)[0] for i in range(1))
    ]
    assert f"org/model-0: {counts[0]:,}" in text
    watched.context.close()


def test_a_rollout_of_20_000_tokens_is_shown_in_parts(watched, tmp_path) -> None:
    page = watched.open(write_page(synthetic(["long"], 1, 20_000), tmp_path / "long.html"))
    assert page.locator("#text .tok").count() == 3000
    page.click("#more")
    assert page.locator("#text .tok").count() == 6000
    page.evaluate("location.hash = '#token=19999'")  # a bookmark, into the open page
    page.wait_for_selector('#text .tok.here[data-token="19999"]')
    watched.quiet()


@pytest.mark.parametrize("num_tokens", [0, 1, 2])
def test_rollouts_of_next_to_nothing(watched, tmp_path, num_tokens: int) -> None:
    tokens, rollouts = tables("short", 2, max(1, num_tokens))
    if num_tokens == 0:
        tokens = tokens.iloc[:0]
    entry = result(*tables("short", 2, 9), "short") | {"num_tokens": num_tokens}
    document = signals_document("probe", "run", tokens, rollouts, {"config": {}, "results": [entry]})
    page = watched.open(write_page(document, tmp_path / "short.html"))
    if num_tokens == 0:
        assert page.locator("#tokens").count() == 0  # the overview alone
    else:
        assert "ρ undefined" in page.locator("#rollout").inner_text()
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    watched.quiet()


# Hostile text


def hostile_document() -> Document:
    tokens, rollouts = tables("m", 2, len(HOSTILE))
    tokens["token"] = HOSTILE * 2
    name = "evil</title><script>window.hit = 6</script>\"'`\u202e\u2028"
    for frame in (tokens, rollouts):
        frame["model"] = frame["model"].astype(object)
        frame.loc[:, "model"] = name
    rollouts["prompt"] = "".join(HOSTILE)
    rollouts["rollout_id"] = rollouts["rollout_id"].astype(object)
    for text, own in zip(HOSTILE[:2], rollouts.rollout_id.tolist(), strict=True):
        tokens.loc[tokens.rollout_id == own, "rollout_id"] = text
        rollouts.loc[rollouts.rollout_id == own, "rollout_id"] = text
    rollouts["correct"], rollouts["outcome"], rollouts["reason"] = [True, False], HOSTILE[1], HOSTILE[1]
    rollouts["answer"], rollouts["reference"], rollouts["finish"] = HOSTILE[0], HOSTILE[2], HOSTILE[3]
    entry = in_units(result(tokens, rollouts, name) | {"device": HOSTILE[0]})
    entry |= {
        "splitter": HOSTILE[0],
        "chain": [link | {"link": HOSTILE[1], "x": HOSTILE[2], "verdict": HOSTILE[3]} for link in entry["chain"]]
        + [entry["chain"][0] | {"verdict": HOSTILE[1]}],
        "controls": {HOSTILE[1]: entry["controls"]["logprob"]},
    }
    summary = {"config": {"prompts": HOSTILE[1]}, "results": [entry], "versions": {HOSTILE[2]: HOSTILE[3]}}
    alternatives = pd.DataFrame(
        {
            "model": name,
            "rollout_id": HOSTILE[0],
            "position": 0,
            "rank": range(len(HOSTILE)),
            "token": HOSTILE,
            "logprob": -1.0,
        }
    )
    signals = signals_document(
        "probe", name, tokens, by_unit(rollouts), summary, steps=stepped(tokens, 1),
        alternatives=alternatives, notes=HOSTILE[:6], label=f"{name}\ud800",
    )  # fmt: skip
    rows = [{"kind": "step", "step": i, "task/accuracy": 0.5, HOSTILE[1]: 1.0} for i in (1, 2)]
    document = joined([signals, training_document(name, rows, {"model": HOSTILE[0]}, None)], name)
    table = Table(HOSTILE[0], HOSTILE[:4], [HOSTILE[:4]], [HOSTILE[1]])
    return dataclasses.replace(document, tables=[table], markers=[HOSTILE[0], HOSTILE[3]], created=HOSTILE[2])


@pytest.fixture
def hostile(watched, tmp_path):
    page = watched.open(write_page(hostile_document(), tmp_path / "evil.html"))
    yield page
    assert page.evaluate("window.hit") is None
    # The data's markup made no element: those of the page are known.
    assert page.locator("img, iframe, object, embed, svg[onload], [onerror], [onmouseover]").count() == 0
    watched.quiet()


def test_hostile_text_shows_as_text(hostile) -> None:
    page = hostile
    shown = page.evaluate("[...document.querySelectorAll('#text .tok')].map((e) => e.textContent)")
    assert len(shown) == len(HOSTILE)
    for text, seen in zip(HOSTILE, shown, strict=True):
        plain = [
            c
            for c in text[:400]
            if c.isprintable() and c not in "\u200b\ufeff\u200d\u00a0" and not 0xE0000 <= ord(c) < 0xE0080
        ]
        assert [c for c in plain if c not in seen] == []
        assert "".join(plain[:20]) in seen.replace("U+", "") or len(plain) != len(text[:400])
    assert shown[HOSTILE.index("a\u2028b\u2029c")] == "a⏎b⏎c"
    assert shown[HOSTILE.index("\u202eevil\u202c")] == "U+202EevilU+202C"
    assert shown[HOSTILE.index("\x00\x07\x1b[31m\x7f")] == "U+0000U+0007U+001B[31mU+007F"
    assert shown[-1] == "x" * 400 + "… 99,600 more characters"
    for sign in "\u202a\u202e\u2066\u2067\u200f":
        assert sign not in page.inner_text("body")
    assert "evil</title><script>" in page.title()


def test_every_view_of_hostile_text(hostile) -> None:
    page = hostile
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.locator('#text [data-token="0"]').scroll_into_view_if_needed()
    for token in range(len(HOSTILE)):
        page.locator(f'#text [data-token="{token}"]').focus()
    page.locator('#text [data-token="0"]').focus()
    page.wait_for_selector("#details table")
    assert page.locator("#details tbody tr").count() == len(HOSTILE)
    page.fill("#x-low", "0")
    page.click("#select-range")
    assert page.locator("#selected-table tbody tr").count() == 12
    for name in ("right", "wrong", "all"):
        page.select_option("#filter", name)
    for axes in ("rank", "log"):
        page.select_option("#axes", axes)
    page.click("#prompt summary")
    assert "<img src=x onerror=" in page.inner_text("#prompt-text")
    assert HOSTILE[0] in page.inner_text("#steps-note")
    assert "<img src=x onerror=" in page.inner_text("#steps-table")
    assert "window.hit" in page.inner_text("#chain-table")
    assert "window.hit" in page.inner_text("#controls-table")
    assert "<img src=x" in page.inner_text("#chain-links")
    page.select_option("#metric", HOSTILE[1])
    page.locator("#about summary").first.click()
    assert HOSTILE[3] in page.inner_text("#about")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_csv_of_hostile_text(hostile) -> None:
    import csv
    import io

    with hostile.expect_download() as waiting:
        hostile.click('button[data-csv="tokens"]')
    text = Path(waiting.value.path()).read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text[1:], newline="")))
    assert len(rows) == len(HOSTILE)
    for row, expected in zip(rows, HOSTILE, strict=True):
        formula = len(expected) > 1 and expected[0] in "=+-@\t\r"
        assert row["token"] == ("'" if formula else "") + expected
        assert row["model"].startswith("evil</title>")


def test_a_direction_override_does_not_reach_its_neighbours(hostile) -> None:
    """Tokens stand in reading order, left to right, whatever is in them."""
    page = hostile
    boxes = page.evaluate(
        "[...document.querySelectorAll('#text .tok')].slice(8, 13).map((e) => { const r = e.getClientRects()[0]; "
        "return [r.top, r.left]; })"
    )
    assert boxes == sorted(boxes)


def test_damaged_data_is_said(watched, tmp_path) -> None:
    path = write_page(synthetic(["m"], 2, 20), tmp_path / "damaged.html")
    text = path.read_text()
    start = text.index('id="blob-1">') + len('id="blob-1">')
    path.write_text(text[:start] + "AAAA" + text[start + 4 :])
    watched.page.goto(path.as_uri())
    watched.page.wait_for_selector("#failure:visible")
    assert "could not be shown in full" in watched.page.inner_text("#failure")


def test_the_policy_stops_a_script_that_got_in(watched, tmp_path) -> None:
    """The second line of defence: a script that is not the page's own does not run."""
    path = write_page(synthetic(["m"], 2, 20), tmp_path / "policy.html")
    path.write_text(path.read_text().replace("<main", "<script>window.hit = 1</script><main", 1))
    page = watched.open(path)
    assert page.evaluate("window.hit") is None
    assert any("Content Security Policy" in text for text in watched.trouble)


def test_json_of_the_page_is_what_the_browser_reads(hostile) -> None:
    values = json.loads(hostile.evaluate("document.getElementById('values').textContent"))
    assert values["subjects"][0]["rollouts"][0]["id"] == HOSTILE[0]
    assert set(HOSTILE) <= set(values["vocabulary"])
