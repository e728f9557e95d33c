"""The page of evaluations in a browser: cells that open a rollout."""

import pytest

from antiphase.evaluation.compare import compare
from antiphase.evaluation.evaluate import evaluate
from browser import Watched, launched
from evaluation_cases import TASK, scored

LEFT = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
RIGHT = [[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]
TABLE = "#comparison table[data-table='table-1']"


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture
def watched(browser):
    watched = Watched(browser)
    yield watched
    watched.context.close()


@pytest.fixture(scope="module")
def compared(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    scored(model_dir, LEFT, out=folder / "left")
    scored(model_dir, RIGHT, out=folder / "right")
    compare([f"a={folder / 'left'}", f"b={folder / 'right'}"], out=folder / "out", figures=False)
    return folder / "out" / "report.html"


def test_a_share_opens_a_rollout_that_shows_it(watched, compared) -> None:
    page = watched.open(compared)
    assert page.locator(f"{TABLE} tbody tr").count() == 3
    assert page.locator(f"{TABLE} a.opens").count() == 6
    for column, model, verdict, sample in ((2, "a", "wrong", 2), (3, "b", "right", 0)):
        link = page.locator(f"{TABLE} tbody tr:nth-child(2) td:nth-child({column + 1}) a")
        # The second row is the problem that b solves always and a half of the time.
        link.click()
        assert page.locator("#model option:checked").inner_text() == model
        # Four samples of each problem; this problem is the first.
        assert page.input_value("#rollout") == str(sample)
        facts = page.locator("#rollout-facts").inner_text()
        assert f"{verdict}: the answer" in facts
        assert page.locator("#tokens").evaluate("e => Math.abs(e.getBoundingClientRect().top) < 200")
    watched.quiet()


def test_the_keyboard_and_the_address_open_it_too(watched, compared) -> None:
    page = watched.open(compared)
    page.select_option("#filter", "right")
    link = page.locator(f"{TABLE} tbody tr:nth-child(1) td:nth-child(4) a")
    link.focus()
    page.keyboard.press("Enter")
    assert page.input_value("#filter") == "all"
    assert page.locator("#model option:checked").inner_text() == "b"
    assert "wrong" in page.locator("#rollout-facts").inner_text()
    facts, address = page.locator("#rollout-facts").inner_text(), link.get_attribute("href")
    other = watched.open(compared, address)
    assert other.locator("#rollout-facts").inner_text() == facts
    watched.quiet()


def test_without_tokens_the_shares_are_text(watched, model_dir, tmp_path) -> None:
    options = {"tasks": (TASK,), "num_problems": 4, "samples": 2, "max_new_tokens": 8, "seed": 1}
    for name, seed in (("a", 1), ("b", 2)):
        evaluate(
            str(model_dir), out=tmp_path / name, figures=False, progress=False, estimators="none",
            **{**options, "seed": seed},
        )  # fmt: skip
    compare([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"], out=tmp_path / "out", figures=False)
    page = watched.open(tmp_path / "out" / "report.html")
    assert page.locator("a.opens").count() == 0
    watched.quiet()
