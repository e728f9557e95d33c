"""Notes on models on the page (layers left out, quantised weights), and tables of several runs that become one."""

import re

import pytest

from antiphase.models.fact_notes import layers_note, model_notes
from antiphase.page.building import signals_document, training_document
from antiphase.page.document import Document, Run, Table, joined
from antiphase.page.html import render_overview, render_page
from page_cases import evaluated, in_units, result, tables

LEFT_OUT = {"num_layers": 6, "without_attention": {"conv": [0, 1, 3]}, "without_projection": {"V": [2]}}
SAID = (
    "3 of 6 layers have softmax attention and can be measured; 3 have none (conv: 0-1, 3); layers where one weight "
    "makes keys and values have it as K, and no V: 2."
)


def said(page):
    """The text of a page without its scripts, with one space between words."""
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", "", text).split())


def probed(name, **facts):
    tokens, rollouts = tables(name, 4, 20)
    entry = in_units(result(tokens, rollouts, name)) | facts
    return signals_document("probe", name, tokens, rollouts, {"config": {}, "results": [entry]})


def judged(**facts):
    tokens, rollouts, entry = evaluated()
    return signals_document("eval", "run", tokens, rollouts, {"config": {}, "results": [entry | facts]})


def trained(**facts):
    rows = [{"kind": "step", "step": 0, "inversion/mean": 0.1}]
    return training_document("run", rows, {}, {"config": {}, "num_steps": 1, **facts})


@pytest.mark.parametrize(("made", "name"), [(lambda **f: probed("m", **f), "m"), (judged, "m"), (trained, "run")])
def test_the_page_says_what_is_left_out(made, name) -> None:
    assert layers_note({"left_out": LEFT_OUT}) == SAID
    assert f"{name}: {SAID}" in said(render_page(made(left_out=LEFT_OUT)))
    assert "softmax attention and can be measured" not in said(render_page(made()))


def test_a_comparison_names_the_models_of_a_note_once() -> None:
    both = joined([probed("first", left_out=LEFT_OUT), probed("second", left_out=LEFT_OUT), probed("third")], "all")
    page = said(render_page(both))
    assert page.count(SAID) == 1
    assert f"first, second: {SAID}" in page
    assert f"first, second: {SAID}" in said(render_overview(both))


@pytest.mark.parametrize(
    ("fact", "note"),
    [
        (
            {"method": "bitsandbytes", "bits": 4, "dequantized": False},
            "bitsandbytes (4 bit), and they are measured as they are",
        ),
        ({"method": "fp8", "bits": None, "dequantized": True}, "FP8, and they are dequantised for the measurement"),
        ({"method": "gptq"}, "GPTQ"),
    ],
)
def test_the_page_says_how_the_weights_are_quantised(fact, note) -> None:
    assert f"m: the weights are quantised with {note}." in said(render_page(probed("m", quantization=fact)))
    assert f"run: the weights are quantised with {note}." in said(render_page(trained(quantization=fact)))


def test_weights_that_are_not_quantised_have_no_note() -> None:
    assert model_notes({"quantization": None}) == model_notes({}) == []


def test_tables_of_one_title_become_one() -> None:
    def document(name, *tables_):
        return Document(name, [Run(name, "eval")], tables=tables_)

    first = Table("scores", ["model", "x"], [["a", "1"], ["b", "2"]], ["how"], {(0, 1): [("a", "r1")]})
    second = Table("scores", ["model", "x"], [["c", "3"]], ["how", "more"], {(0, 1): [("c", "r2")]})
    other = Table("scores", ["model", "y"], [["d", "4"]], [])
    found = joined([document("one", first), document("two", second, other)], "both").tables
    assert found == [
        Table("scores", ["model", "x"], [["a", "1"], ["b", "2"], ["c", "3"]], ["how", "more"],
              {(0, 1): [("a", "r1")], (2, 1): [("c", "r2")]}),
        other,
    ]  # fmt: skip
