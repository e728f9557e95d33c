"""The kept rollouts of a training on its page: the data, and the page in a real browser."""

import json

import numpy as np
import pandas as pd
import pytest

from antiphase.errors import InvalidInputError
from antiphase.page.building import training_document
from antiphase.page.document import joined
from antiphase.page.html import write_page
from antiphase.page.payload import payload_of
from antiphase.report.view import signature_of
from antiphase.report.writing import write_report
from antiphase.training.kept_folder import KeptFolder
from browser import Watched
from page_cases import synthetic, unpacked
from page_runs import downloaded

STEPS, GROUPS, SIZE, LENGTH = (0, 40, 80), 2, 3, 24
SENTENCES = [0, 7, 15]
TITLE = "run · sampled rollouts"


def rows_of(*, joint=False):
    """Rows of kept rollouts. In the first step, the last rollout has no tokens, no score and no task reward."""
    random, rows = np.random.default_rng(1), []
    for step in STEPS:
        for group in range(GROUPS):
            for place in range(SIZE):
                empty = step == 0 and group == GROUPS - 1 and place == SIZE - 1
                count = 0 if empty else LENGTH
                # Strengths grow from step to step, so that ranks over all steps differ from those within a step.
                strength = np.full(count, np.nan) if joint else random.gamma(2.0, 1.0 + step, count)
                score = None if empty else round(float(random.uniform(-1, 1)), 3)
                rows.append(
                    {
                        "step": step, "prompt_id": f"{step}-{group}", "rollout_id": f"{step}-{group}/{place}",
                        "estimator": "full" if joint else "own", "unit": "step", "prompt": f"Question {step}-{group}?",
                        "completion": "".join(f" w{i}" for i in range(count)), "finish": "length", "num_tokens": count,
                        "num_thought_tokens": 0, "inversion": score, "correlation": None if empty else -score,
                        "correlation_token": None if joint or empty else 0.25,
                        "correlation_type": None if joint or empty else 0.125,
                        "correlation_step": None if empty else -score, "correlation_given_length": None,
                        "task_reward": None if empty else float(place % 2), "weight": 0.1,
                        "reward": None if empty else place % 2 + 0.1 * score,
                        "advantage": 0.0 if empty else place - 1.0,
                        "rewards": {"accuracy": None if empty else float(place % 2), "format": None},
                        "prompt_ids": [5, 6], "completion_ids": list(range(10, 10 + count)),
                        "tokens": [f" w{i}" for i in range(count)], "entropy": random.gamma(1.0, 1.0, count).tolist(),
                        "logprob": (-random.exponential(1.0, count)).tolist(), "strength": strength.tolist(),
                        "step_start": SENTENCES if count else [], "step_entropy": [1.0, 2.0, 0.5][: 3 if count else 0],
                        "step_strength": [3.0, 1.0, 8.0][: 3 if count else 0],
                    }
                )  # fmt: skip
    return rows


def training_run(path, **options):
    """The folder of an unfinished training with kept rollouts."""
    path.mkdir()
    rows = rows_of(**options)
    for step in STEPS:
        KeptFolder(path).write(step, [row for row in rows if row["step"] == step])
    with (path / "trajectory.jsonl").open("w") as file:
        for step in range(0, 81, 10):
            file.write(
                json.dumps({"kind": "step", "step": step, "inversion/mean": step / 100, "task/mean": 0.5}) + "\n"
            )
    return path


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(rows_of()).astype({"task_reward": float, "inversion": float})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = training_run(tmp_path_factory.mktemp("kept") / "run")
    write_report(run)
    return run


def slide(page, place):
    page.locator("#training-step").fill(str(place))


# The data


def test_the_page_holds_every_number(frame) -> None:
    values, columns = payload_of(training_document("run", [], {}, None, kept=frame))
    (subject,) = values["subjects"]
    json.dumps(values, allow_nan=False)
    assert (subject["label"], subject["rewardUnit"], subject["readings"]) == (TITLE, "step", [])
    assert [row["id"] for row in subject["rollouts"]] == frame.rollout_id.tolist()
    for row, known in zip(subject["rollouts"], frame.to_dict("records"), strict=True):
        for name in ("step", "task_reward", "weight", "reward", "advantage", "inversion", "correlation"):
            given = known[name]
            assert row["kept"][name] == (None if given is None or np.isnan(given) else given), name
        assert row["kept"]["rewards"] == known["rewards"]
    for name in ("entropy", "logprob"):
        packed = subject[name]
        assert unpacked(columns[packed["blob"]], packed["dtype"], packed["length"]).tolist() == (
            np.concatenate(frame[name].tolist()).astype(np.float32).tolist()
        )
    steps = subject["steps"]
    start, count = (
        unpacked(columns[steps[n]["blob"]], steps[n]["dtype"], steps[n]["length"]) for n in ("start", "tokens")
    )
    written = [starts for starts in frame.step_start if starts]
    assert start.tolist() == [place for starts in written for place in starts]
    assert count.tolist() == [7, 8, 9] * len(written)
    assert subject["correlations"]["own"][:2] == [0.25, 0.25]


def test_rollouts_whose_columns_do_not_fit_are_refused(frame) -> None:
    broken = frame.assign(strength=[values[:-1] for values in frame.strength])
    with pytest.raises(InvalidInputError, match="the column strength does not have one value for each token"):
        training_document("run", [], {}, None, kept=broken)


def test_a_served_page_is_made_again_for_new_rollouts(tmp_path) -> None:
    run = training_run(tmp_path / "run")
    before = signature_of([run])
    KeptFolder(run).write(90, rows_of()[:1])
    assert signature_of([run]) != before


# The page


def test_only_views_of_single_rollouts_are_shown(page) -> None:
    assert page.locator("nav a").all_inner_texts() == ["Training", "Tokens", "Steps", "About"]
    assert page.locator("#overview, #scatter, #layers, #kinds").count() == 0
    assert "18 rollouts, 408 tokens." in page.inner_text("#held")


def test_the_slider_chooses_the_step(page) -> None:
    assert page.inner_text("#training-step-name") == "step 0 (1 of 3 kept steps)"
    page.click("#next")
    slide(page, 1)
    assert page.inner_text("#training-step-name") == "step 40 (2 of 3 kept steps)"
    assert page.locator("#rollout option").count() == GROUPS * SIZE
    # The same place in the other step.
    assert page.locator("#rollout option:checked").inner_text().startswith("40-0/1 ·")
    assert page.inner_text("#rollout-facts").startswith("step 40 of the training · inversion ι ")
    page.locator("#training-step").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#training-step").get_attribute("aria-valuetext") == "step 80"
    assert page.locator("#prompt-text").text_content() == "Question 80-0?"
    page.click("#previous")
    page.click("#previous")
    assert page.locator("#rollout option:checked").inner_text().startswith("80-1/2 ·")


def test_the_table_has_the_rollouts_side_by_side(page, frame) -> None:
    slide(page, 1)
    rows = [row.inner_text().split("\t") for row in page.locator("#kept-table tbody tr").all()]
    for cells, row in zip(rows, frame[frame.step == 40].to_dict("records"), strict=True):
        assert cells[0] == row["rollout_id"]
        signs = [f"{row[name]:+.3f}".replace("-", "−") for name in ("correlation_step", "inversion", "advantage")]
        assert [cells[1], cells[2], cells[5].lstrip("+")] == [*signs[:2], signs[2].lstrip("+")]
        assert float(cells[3]) == row["task_reward"]
        assert float(cells[4].replace("−", "-")) == pytest.approx(row["reward"], rel=5e-3)
        assert cells[6:] == ["24", "length"]
    page.locator("#kept-table button").nth(4).focus()
    page.keyboard.press("Enter")
    assert page.locator("#rollout option:checked").inner_text().startswith("40-1/1 ·")
    assert page.evaluate("document.activeElement.textContent") == "40-1/1"
    assert page.locator('#kept-table button[aria-current="true"]').all_inner_texts() == ["40-1/1"]


def test_undefined_numbers_are_said_to_be_undefined(page) -> None:
    page.locator("#kept-table button").nth(5).click()
    facts = page.inner_text("#rollout-facts")
    assert "inversion ι undefined" in facts
    assert "task reward undefined (accuracy undefined, format undefined)" in facts
    assert "reward undefined with λ 0.100" in facts
    assert "by step undefined" in facts
    assert page.locator("#kept-table tbody tr").nth(5).inner_text().split("\t")[1:5] == ["undefined"] * 4
    assert page.inner_text("#text") == "(no tokens)"


def test_ranks_are_within_a_step(page, frame) -> None:
    slide(page, 2)
    rows = pd.DataFrame(downloaded(page, "tokens"))
    own = frame[frame.step == 80]
    for name in ("entropy", "strength"):
        joined_up = pd.Series(np.concatenate(own[name].tolist()).astype(np.float32))
        ranks = (joined_up.rank() - 0.5) / len(joined_up)
        assert rows[f"{name}_rank"].astype(float).tolist() == pytest.approx(ranks[:LENGTH].tolist())


def test_the_csv_has_every_rollout_and_digit(page, frame) -> None:
    rows = downloaded(page, "kept")
    assert [row["rollout_id"] for row in rows] == frame.rollout_id.tolist()
    for row, known in zip(rows, frame.to_dict("records"), strict=True):
        assert row["inversion"] == ("" if np.isnan(known["inversion"]) else str(known["inversion"]))
        assert row["rewards/accuracy"] == ("" if np.isnan(known["task_reward"]) else str(int(known["task_reward"])))
        assert row["num_tokens"] == str(known["num_tokens"])


def test_steps_are_among_those_of_the_same_step_of_the_training(page) -> None:
    page.locator("#steps").scroll_into_view_if_needed()
    page.wait_for_selector("#steps-table tbody tr")
    assert page.locator("#steps-table tbody tr").count() == 3
    # Five rollouts of the first step of the training have three sentences each.
    assert "Coloured: the 3 steps of the shown rollout" in page.inner_text("#steps-caption")
    assert "the 12 steps of the other rollouts" in page.inner_text("#steps-caption")
    assert page.locator("#steps-rho tbody th").all_inner_texts() == [
        "this rollout", "this rollout, lengths and places held fixed"]  # fmt: skip


def test_strengths_of_steps_alone(watched, tmp_path) -> None:
    """With `full` and `joint` no token has a strength: the steps are shaded, and ρ over tokens is not spoken of."""
    page = watched.open(write_report(training_run(tmp_path / "joint", joint=True), tmp_path / "t.html"))
    assert page.input_value("#shade") == "step"
    assert page.locator("#text .tok.unmeasured").count() == 0
    shades = [token.evaluate("e => e.style.background") for token in page.locator("#text .tok").all()]
    assert len(shades) == LENGTH
    assert [shades.index(shade) for shade in dict.fromkeys(shades)] == SENTENCES
    assert page.locator("#unit option").all_inner_texts() == ["step (reward)"]
    assert "by token" not in page.inner_text("#rollout-facts")
    assert not page.locator("#track").is_visible()
    page.select_option("#shade", "entropy")
    assert len({token.evaluate("e => e.style.background") for token in page.locator("#text .tok").all()}) > 10
    watched.quiet()


def test_beside_a_probe(watched, frame, tmp_path) -> None:
    """A page with a probe too: the scatter and the kinds are those of the probe, and the slider is the training's."""
    both = joined([synthetic(["m"], 4, 30), training_document("run", [], {}, None, kept=frame)], "both")
    page = watched.open(write_page(both, tmp_path / "both.html"))
    assert page.locator("#shown label").all_inner_texts() == ["m"]
    assert not page.locator("#kept").is_visible()
    assert page.locator("#scatter-chart").get_attribute("aria-label").startswith("Scatter of 120 tokens")
    page.select_option("#model", label=TITLE)
    assert page.locator("#kept").is_visible()
    slide(page, 2)
    assert page.locator("#rollout option").count() == GROUPS * SIZE
    page.locator("#kinds").scroll_into_view_if_needed()
    page.wait_for_selector("#kinds-table tbody tr")
    assert set(page.locator("#kinds-table tbody th").all_inner_texts()) == {"m"}
    for section in ("chain", "layers", "steps"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_timeout(100)
    page.select_option("#model", label="m")
    assert page.locator("#rollout option").count() == 4
    watched.quiet()


def test_an_address_brings_the_step_back(watched, folder) -> None:
    page = watched.open(folder / "report.html", "#rollout=14")
    assert page.inner_text("#training-step-name") == "step 80 (3 of 3 kept steps)"
    watched.quiet()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_looks(browser, folder, scheme, width) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    watched = Watched(browser, color_scheme=scheme, viewport={"width": width, "height": 740})
    page = watched.open(folder / "report.html", "#token=3")
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('section *')].filter((e) => !e.closest('.scroll, svg, .hidden, select') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.id || e.className || e.tagName)"
    )
    assert wide == []
    found = [v for v in axe.run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in found for n in v["nodes"][:3]]
    page.click("#theme")
    watched.quiet()
    watched.context.close()
