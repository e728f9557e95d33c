"""The page of evaluations in a browser: cells that open a rollout, and thoughts that are folded away."""

import pytest

from antiphase.evaluation.compare import compare
from antiphase.evaluation.evaluate import evaluate
from browser import Watched
from evaluation_cases import TASK, scored, write_rows

LEFT = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
RIGHT = [[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]
TABLE = "#comparison table[data-table='table-1']"


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


THOUGHT = "<think>Nine and nine. Is it 17? No, that is 18.</think>"
COMPLETIONS = [
    f"{THOUGHT}The answer is 18.",
    "<think>I count and I count: 18, and then",
    "No thought is needed here, it makes 18",
]


@pytest.fixture(scope="module")
def thinking(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking")
    rows = [{"id": f"p{place}", "question": f"How many, {place}?", "answer": "18"} for place in range(3)]
    path = write_rows(folder / "set.jsonl", rows)
    given = [{"problem_id": f"p{place}", "completion": text} for place, text in enumerate(COMPLETIONS)]
    evaluate(
        str(model_dir), tasks=(str(path),), split="all", rollouts=given, out=folder / "run", progress=False,
        figures=False, num_resamples=20, unit="token",
    )  # fmt: skip
    return folder / "run" / "report.html"


def shown(page) -> str:
    """The text of the shown tokens; the tiny tokenizer has a token for each byte."""
    return page.evaluate("[...document.querySelectorAll('#text .tok')].map((t) => t.textContent).join('')")


def rollout_of(page, number: int) -> None:
    page.select_option("#rollout", str(number))


def test_a_thought_is_folded_and_its_answer_shown(watched, thinking) -> None:
    page = watched.open(thinking)
    page.select_option("#shade", "entropy")
    button = page.locator("#thought")
    assert button.inner_text() == f"Thought: {len(THOUGHT)} tokens"
    assert button.get_attribute("aria-expanded") == "false"
    assert shown(page).replace(" ", "") == "Theansweris18."
    facts = page.locator("#rollout-facts").inner_text()
    assert "right: the answer (announced) equals the reference" in facts
    # By the keyboard: it unfolds and folds again.
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    assert shown(page).replace(" ", "") == COMPLETIONS[0].replace(" ", "")
    page.keyboard.press("Space")
    assert shown(page).replace(" ", "") == "Theansweris18."
    watched.quiet()


def test_other_rollouts(watched, thinking) -> None:
    page = watched.open(thinking)
    page.locator("#thought").click()
    rollout_of(page, 1)
    # The next rollout begins folded; this one has no answer.
    assert page.locator("#thought").get_attribute("aria-expanded") == "false"
    assert page.locator("#text").inner_text() == "(no answer: the thought does not end)"
    assert "wrong (no answer): the thought was begun and not ended" in page.locator("#rollout-facts").inner_text()
    rollout_of(page, 2)
    assert page.locator("#thought").is_hidden()
    assert shown(page).startswith("No")
    assert "strictly wrong" in page.locator("#rollout-facts").inner_text()
    watched.quiet()


def test_a_token_of_the_thought_unfolds_it(watched, thinking) -> None:
    page = watched.open(thinking, "#token=9")
    assert page.locator("#thought").get_attribute("aria-expanded") == "true"
    assert page.locator("#text .tok.here").get_attribute("data-token") == "9"
    page.locator("#thought").click()
    page.select_option("#shade", "strength")
    assert page.locator("#thought").get_attribute("aria-expanded") == "false"
    # A selection among folded tokens is counted.
    page.select_option("#axes", "rank")
    page.fill("#x-low", "0")
    page.fill("#x-high", "1")
    page.fill("#y-low", "0")
    page.fill("#y-high", "1")
    page.click("#select-range")
    assert f"Thought: {len(THOUGHT)} tokens, " in page.locator("#thought").inner_text()
    # A token of the answer leaves the thought folded.
    other = watched.open(thinking, f"#token={len(THOUGHT) + 2}")
    assert other.locator("#thought").get_attribute("aria-expanded") == "false"
    assert other.locator("#text .tok.here").get_attribute("data-token") == str(len(THOUGHT) + 2)
    watched.quiet()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser, thinking, compared, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    watched = Watched(browser, color_scheme=scheme)
    for path in (thinking, compared):
        page = watched.open(path)
        found = axe.run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    watched.context.close()
