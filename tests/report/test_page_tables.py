"""The tables below the charts of a page: which runs they are about, what they are called, and if they are whole."""

import re
from pathlib import Path

import pytest

import antiphase
from antiphase.evaluation.evaluation_pages import comparison_document
from antiphase.page.document import Document, Run, Table, joined
from antiphase.page.html import render_page
from antiphase.probing.rival_tables import rival_tables
from antiphase.report.entries import sources_of
from antiphase.report.sources import read_run
from antiphase.report.writing import document_of, write_report
from antiphase.runs.rivals import SCORES
from browser import Watched
from evaluation_cases import scored
from report_cases import probed, summary_of

LEFT = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]
OPTIONS = {"step_strength": "joint", "splitter": "fixed:4", "min_steps": 3}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(model_dir, tmp_path_factory) -> Path:
    """Two evaluations and two probes of one model."""
    folder = tmp_path_factory.mktemp("runs")
    scored(model_dir, LEFT, out=folder / "first", report=False, **OPTIONS)
    scored(model_dir, LEFT[::-1], out=folder / "second", report=False, **OPTIONS)
    probed(folder / "probe", report=False)
    probed(folder / "again", seed=1, report=False)
    return folder


@pytest.mark.parametrize(("left", "right"), [("first", "second"), ("probe", "again")])
@pytest.mark.parametrize("label", ["", "name of "])
def test_two_runs_of_one_model_have_tables_of_their_own(runs, left, right, label) -> None:
    own = [read_run(runs / name).tables[0] for name in (left, right)]
    assert own[0].title == own[1].title
    assert own[0].rows != own[1].rows
    names = [f"{label}{name}" for name in (left, right)]
    entries = [
        f"{name}={runs / run}" if label else str(runs / run) for name, run in zip(names, (left, right), strict=True)
    ]
    found = document_of(sources_of(entries)).tables
    assert [table.rows for table in found] == [table.rows for table in own]
    for name, table in zip(names, found, strict=True):
        assert re.search(rf": {name}, .*own; ι over (type|token)s$", table.title)


def test_tables_join_only_if_their_rows_have_different_names() -> None:
    def document(name: str, *heads: str) -> Document:
        rows = [[head, name] for head in heads]
        table = Table("scores", ("model", "run"), rows, [name, "both"], {(0, 1): [(name, "0")]})
        return Document(name, [Run(name, "eval")], tables=[table])

    (table,) = joined([document("one", "a", "a"), document("two", "b")], "page").tables
    assert (table.title, table.rows) == ("scores", [["a", "one"], ["a", "one"], ["b", "two"]])
    assert table.notes == ["one", "both", "two"]
    assert table.links == {(0, 1): [("one", "0")], (2, 1): [("two", "0")]}
    tables = joined([document("one", "a"), document("two", "b", "a")], "page").tables
    assert [(table.title, len(table.rows)) for table in tables] == [("scores (one)", 1), ("scores (two)", 2)]


def test_the_section_is_called_what_it_holds(runs) -> None:
    found = antiphase.compare([f"a={runs / 'first'}", f"b={runs / 'second'}"])
    comparison = comparison_document(found, {"a": [runs / "first"], "b": [runs / "second"]})
    assert comparison.tables[-1].title.endswith("; ι over tokens")
    assert comparison.tables_heading == "Comparison"
    document = read_run(runs / "probe")
    other = Document("page", document.runs, tables=[*document.tables, Table("all tasks", ("model",), [["m"]])])
    for one, heading in ((read_run(runs / "first"), "Beside ι"), (document, "Beside ι"), (other, "Tables")):
        page = render_page(one)
        assert re.search(r'<h2 id="h-comparison">(.*?)</h2>', page)[1] == heading
        assert f'<a href="#comparison">{heading}</a>' in page


def test_a_probe_of_few_prompts_says_so_below_its_rivals(runs) -> None:
    (result,) = summary_of(runs / "probe")["results"]
    names = {result["model"]: "m"}
    few, note = rival_tables([result], names)[0].notes, "Few prompts: 3; an interval over fewer than 8 is rough."
    assert few[1:] == [note]
    assert rival_tables([{**result, "num_prompts": 8}], names)[0].notes == few[:1]


def test_the_page_and_the_documentation_name_the_same_sources() -> None:
    text = (ROOT / "docs" / "rivals.md").read_text(encoding="utf-8")
    for name, rival in list(SCORES.items())[1:]:
        (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
        source = row.split(" | ")[2]
        assert re.findall(r"\d{4}\.\d{5}", rival.source) == list(dict.fromkeys(re.findall(r"\d{4}\.\d{5}", source)))
        assert ("a control of ours" in rival.source) == ("a control of ours" in source)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_rivals_are_whole_and_accuracy_is_seen(runs, browser, tmp_path, width, scheme) -> None:
    path = write_report([runs / "first", runs / "second"], tmp_path / "page.html")
    watched = Watched(browser, viewport={"width": width, "height": 700}, color_scheme=scheme)
    page = watched.open(path)
    for box in page.query_selector_all("#comparison .scroll"):
        assert box.evaluate("e => e.scrollHeight === e.clientHeight")
    names = page.query_selector_all("#comparison tbody th")
    assert [name.inner_text() for name in names] == ["ι (inversion)", *list(SCORES)[1:]] * 2
    for name in names:
        # A name that is broken has a box for each of its lines.
        assert name.evaluate("e => { const r = document.createRange(); r.selectNodeContents(e.firstChild);"
                             " return r.getClientRects().length; }") == 1  # fmt: skip
    header = page.query_selector_all("#overview thead th")
    assert header[1].inner_text() == "accuracy"
    cell = page.query_selector("#overview tbody td:nth-child(2)")
    assert cell.inner_text().split()[0] == "0.333"
    assert cell.bounding_box()["x"] + cell.bounding_box()["width"] <= width
    if width == 1280:
        assert page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)")
    watched.quiet()
    watched.context.close()
