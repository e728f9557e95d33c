"""The page as HTML: what may run, what shows as text, and how the file is written."""

import base64
import errno
import hashlib
import json
import math
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphase.errors import InvalidInputError
from antiphase.page.building import facts_of, signals_document, training_document
from antiphase.page.document import Document, Run, joined
from antiphase.page.html import add_page, json_for_script, plain_text, render_overview, render_page, write_page
from antiphase.page.overview import estimators_of, lines_of
from antiphase.page.wording import ESTIMATORS, verdict
from page_cases import by_unit, evaluated, in_units, result, stepped, synthetic, tables

ECHARTS_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"


# HTML


class Reader(HTMLParser):
    """Elements, their attributes, what scripts hold and what is text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.text, self.tables = [], [], [], []
        self.in_script = self.in_cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([dict(attrs), ""])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.in_script = tag == "script"
        self.in_cell = self.in_cell or tag in ("td", "th")

    def handle_endtag(self, tag):
        self.in_script = False
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1][1] += data
            return
        self.text.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def policy_of(reader):
    (policy,) = [a["content"] for a in reader.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    return dict(part.strip().split(" ", 1) for part in policy.split(";"))


def check_inert(html, live=False):
    """Nothing of the page runs or loads but its own scripts; returns the page as read."""
    reader = Reader(html)
    running = [text for attrs, text in reader.scripts if "type" not in attrs]
    digests = {f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in running}
    policy = policy_of(reader)
    assert set(policy["script-src"].split()) == digests
    assert len(running) == len(digests) == 2 + live
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == ("'self'" if live else "'none'")
    assert {attrs.get("type") for attrs, _ in reader.scripts} <= {None, "application/json", "application/octet-stream"}
    for tag, attrs in reader.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcdoc", "formaction", "ping")]
        for name in ("src", "href", "action", "data", "xlink:href", "poster", "srcset"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    assert {tag for tag, _ in reader.elements} & {"iframe", "object", "embed", "base", "link", "svg", "img"} == set()
    styles = "".join(attrs.get("style", "") for _, attrs in reader.elements)
    assert "url(" not in styles
    return reader


def values_of(reader):
    (text,) = [text for attrs, text in reader.scripts if attrs.get("id") == "values"]
    assert not set("<>&") & set(text)
    assert text.isascii()
    return json.loads(text)


@pytest.mark.parametrize("live", [None, "version-1"])
def test_only_the_pages_own_scripts_may_run(live) -> None:
    html = render_page(synthetic(["a", "b"], 3, 9), live=live)
    reader = check_inert(html, live is not None)
    assert ('data-version="version-1"' in html) == (live is not None)
    values = values_of(reader)
    assert [subject["label"] for subject in values["subjects"]] == ["a", "b"]
    columns = [attrs["id"] for attrs, _ in reader.scripts if attrs.get("type") == "application/octet-stream"]
    assert columns == [f"blob-{i}" for i in range(len(columns))]
    assert len(columns) == 2 * (6 + 5 + 5)  # tokens, ρ of the rollouts, steps
    for _, text in reader.scripts:
        # A parser would turn them into \n, and the digest would be another.
        assert "\r" not in text
    for script in (text for attrs, text in reader.scripts if "type" not in attrs):
        assert "eval(" not in script or len(script) > 500_000  # ECharts has it in a name


def test_style_sheets_load_nothing() -> None:
    html = render_page(synthetic(["a"], 2, 9))
    style = html.split("<style>", 1)[1].split("</style>", 1)[0]
    assert "@import" not in style
    assert "url(" not in style.replace("url(data:", "")


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!-- <script>",
    "-->]]>",
    "{{ 7 * 7 }}{% for x in y %}",
    "a\u2028b\u2029c",
    "\u202eevil\u2066\u061c\u200f",
    "lone \ud800 and \udfff",
    "&lt;script&gt;&#x3c;b&#x3e;",
    "\x00\x08\x1b[31m",
    "x" * 100_000,
    "",
]


def storable(text):
    """The text as a table can hold it."""
    return text.encode("utf-8", "replace").decode()


def hostile_document(label):
    tokens, rollouts = tables("m", 2, len(HOSTILE))
    text = storable(label)
    tokens["token"] = [storable(token) for token in HOSTILE] * 2
    tokens["rollout_id"] = text + tokens.rollout_id
    rollouts = rollouts.assign(
        rollout_id=text + rollouts.rollout_id,
        prompt=text,
        completion=text,
        finish=text,
        correct=[True, False],
        outcome=text,
        reason=text,
        answer=text,
        reference=text,
    )
    for frame in (tokens, rollouts):
        frame["model"] = text
    entry = in_units(result(tokens, rollouts, text) | {"device": label, "dtype": label, "target": label})
    entry |= {
        "splitter": label,
        "step_strength": label,
        "chain": [link | {"link": label, "x": label, "verdict": label} for link in entry["chain"]],
        "controls": {label: entry["controls"]["logprob"]},
    }
    summary = {
        "config": {"prompts": label, "samples": [label]},
        "results": [entry, entry | {"estimator": label}],
        "versions": {label: label},
        "created": label,
        "commit": label,
        "agreement": [{"model": label, "estimators": [label, label], "spearman": {"value": None}, "num_tokens": 3}],
    }
    signals = signals_document(
        "probe", label, tokens, by_unit(rollouts), summary, label=label, steps=stepped(tokens, 4), notes=[label]
    )
    rows = [{"kind": "step", "step": i, label: float(i)} for i in range(3)]
    document = joined([signals, training_document(label, rows, {"model": label}, None, group=label)], label)
    return Document(**{**vars(document), "markers": (label,), "created": label})


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=range(len(HOSTILE) - 1))
def test_hostile_text_stays_text(text) -> None:
    html = render_page(hostile_document(text))
    html.encode("utf-8")
    reader = check_inert(html)
    for character in "\u202e\u2066\u061c\u200f":
        assert character not in "".join(reader.text)
    (subject,) = values_of(reader)["subjects"]
    assert subject["label"] == text
    assert subject["rollouts"][0]["id"] == storable(f"{text}p0/0")
    assert set(values_of(reader)["vocabulary"]) == set(map(storable, HOSTILE))
    seen = plain_text(text).replace("\x00", "\ufffd")
    shown = "".join(reader.text)
    assert seen in shown or seen in shown.replace("\x00", "\ufffd")
    # As often as the page without it names a model and so on: markup was not read as such.
    tame = Reader(render_page(hostile_document("tame")))
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in tame.elements]
    assert [sorted(attrs) for _, attrs in reader.elements] == [sorted(attrs) for _, attrs in tame.elements]


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=range(len(HOSTILE) - 1))
def test_hostile_text_in_notebooks(text) -> None:
    html = render_overview(hostile_document(text))
    reader, tame = Reader(html), Reader(render_overview(hostile_document("tame")))
    assert reader.elements == tame.elements
    assert reader.scripts == []
    assert plain_text(text) in "".join(reader.text)
    html.encode("utf-8")


@given(text=st.text(st.characters(blacklist_categories=[]), max_size=20))
def test_plain_text_can_be_written_and_turns_nothing(text) -> None:
    plain = plain_text(text)
    plain.encode("utf-8")
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c") & set(plain)
    if text.isascii():
        assert plain == text


LEAF = st.text(max_size=9) | st.integers() | st.none()


@given(value=LEAF | st.lists(LEAF | st.lists(LEAF, max_size=3), max_size=3))
def test_json_of_scripts_comes_back(value) -> None:
    text = json_for_script(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_json_of_scripts_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_for_script(math.nan)


def test_the_overview_prints_the_readings() -> None:
    document = synthetic(["a", "b"], 3, 9)
    document.subjects[1].readings[0]["accuracy"] = {"value": 0.5, "low": 0.25, "high": 0.75}
    for html in (render_page(document), render_overview(document)):
        header, *rows = next(table for table in Reader(html).tables if table[0][0] == "model")
        assert len(rows) == 2
        for row, subject in zip(rows, document.subjects, strict=True):
            (reading,) = subject.readings
            cells = dict(zip(header, map(str.strip, row), strict=True))
            rho = reading["spearman"]
            assert cells["model"] == subject.label
            ends = f"[{rho['low']:+.3f}, {rho['high']:+.3f}]"
            said = f"{rho['value']:+.3f} {ends} 27 tokens, 0 undefined".replace("-", "−")
            assert " ".join(cells["ρ by token"].split()) == said
            assert " headline [" in " ".join(cells["ρ by type"].split())
            assert cells["reading"] == verdict(reading)
            assert cells["control"] == "+0.600"
            assert cells["entropy"] == f"{reading['entropy_mean']:.3f}"
            assert cells["rollouts"] == "3"
        assert header[1] == "accuracy"
        assert [" ".join(row[1].split()) for row in rows] == ["—", "0.500 [0.250, 0.750]"]
        text = " ".join(Reader(html).text)
        assert "few tokens: 27, below 500" in text
        assert ESTIMATORS["own"] in text


def test_lines_of_evaluations_without_signals() -> None:
    tokens, rollouts, entry = evaluated()
    none = {key: value for key, value in entry.items() if key != "signals"} | {"estimator": "none"}
    rollouts = rollouts.assign(estimator="none")
    document = signals_document("eval", "run", tokens.iloc[:0], rollouts, {"config": {}, "results": [none]})
    (line,) = lines_of(document)
    assert (line.verdict, line.warnings) == ("undefined", ["no signals were measured"])
    assert estimators_of(document) == {}
    html = render_page(document)
    check_inert(html)
    assert 'id="scatter"' not in html
    rows = next(table for table in Reader(html).tables if table[0][0] == "model")[1:]
    assert [row[1].split() for row in rows] == [["0.500", "[0.250,", "0.750]", "avg@3"]]


def test_an_unfinished_run_is_called_so() -> None:
    tokens, rollouts = tables("m", 2, 9)
    summary = {"config": {}, "results": [result(tokens, rollouts, "m")]}
    document = signals_document("probe", "run", tokens, rollouts, summary, finished=False, notes=["half of it"])
    assert lines_of(document)[0].unfinished
    text = " ".join(Reader(render_page(document)).text)
    assert "(unfinished)" in text
    assert "half of it" in text
    assert "unfinished" not in " ".join(Reader(render_page(synthetic(["m"], 2, 9))).text)


def test_facts_of_a_run() -> None:
    facts = facts_of(
        {
            "created": "2026-01-01", "seed": 0, "device": None, "commit": "abc",
            "config": {"samples": 2, "top_p": None, "prompts": ["a", "b"], "other": 1},
            "versions": {"torch": "2.6"},
            "agreement": [
                {"model": "m", "estimators": ["own", "full"], "spearman": {"value": -0.25}, "num_tokens": 1234},
                {"model": "m", "estimators": ["own", "last"], "spearman": {"value": None}, "num_tokens": 0},
            ],
        }
    )  # fmt: skip
    assert facts == [
        ("created", "2026-01-01"), ("seed", "0"), ("commit", "abc"), ("samples", "2"), ("prompts", "a, b"),
        ("torch version", "2.6"), ("m: ρ(strength by own, strength by full)", "−0.250, 1,234 tokens"),
        ("m: ρ(strength by own, strength by last)", "undefined"),
    ]  # fmt: skip


def test_a_page_is_a_function_of_its_document() -> None:
    pages = [render_page(synthetic(["a"], 3, 9)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_documents_are_checked() -> None:
    document = synthetic(["a"], 2, 9)
    with pytest.raises(InvalidInputError, match="two models on the page are called 'a'"):
        joined([document, document], "both")
    for value in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidInputError, match="forking_share must lie between 0 and 1"):
            Document("title", [Run("run", "probe")], forking_share=value)
    both = joined([synthetic(["a", "b"], 2, 9), synthetic(["c"], 2, 9)], "both")
    assert [subject.run for subject in both.subjects] == [0, 0, 1]


# Files


def test_a_page_that_cannot_be_written_is_one_error(tmp_path) -> None:
    document = synthetic(["a"], 2, 9)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "file" / "page.html",
        tmp_path / "folder",
        tmp_path / ("x" * 300),
        Path("/proc/page.html"),
    ):
        with pytest.raises(InvalidInputError, match="cannot write"):
            write_page(document, path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"
    assert write_page(document, tmp_path / "new" / "page.html").is_file()


def test_a_full_disk_leaves_the_old_page_whole(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(synthetic(["old"], 2, 9), tmp_path / "page.html")
    before = path.read_bytes()
    write = Path.write_text

    def full(self, text, **options):
        write(self, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InvalidInputError, match=r"cannot write .*page\.html.* \(No space left on device\)"):
        write_page(synthetic(["new"], 2, 9), path)
    with pytest.warns(UserWarning, match=r"No space left.*The results are complete.*antiphase report .*"):
        add_page(lambda: synthetic(["new"], 2, 9), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == before


def test_a_page_appears_under_its_name_only_when_whole(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_text, []

    def watched(self, text, **options):
        assert not (tmp_path / "page.html").exists()
        written.append(self.name)
        return write(self, text, **options)

    monkeypatch.setattr(Path, "write_text", watched)
    write_page(synthetic(["m"], 2, 9), tmp_path / "page.html")
    assert len(written) == 1
    assert written[0].startswith(".page.html.")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_the_charting_library_is_the_one_that_was_looked_at() -> None:
    assets = resources.files("antiphase.page") / "assets"
    text = (assets / "echarts.min.js").read_bytes()
    assert hashlib.sha256(text).hexdigest() == ECHARTS_SHA256
    assert b"Licensed to the Apache Software Foundation" in text[:400]
    assert "Apache License" in (assets / "licences" / "ECHARTS-LICENSE").read_text()
    assert "Apache ECharts" in (assets / "licences" / "ECHARTS-NOTICE").read_text()
    assert "Mike Bostock" in (assets / "licences" / "D3-LICENSE").read_text()
