"""The curves of trainings in a real browser, also while a training runs."""

import json

import numpy as np
import pandas as pd
import pytest

from antiphase.page.building import training_document
from antiphase.page.html import write_page
from antiphase.report.view import serving
from antiphase.report.writing import write_report
from page_runs import TRAJECTORY, downloaded


def training_rows(*scores):
    """A row of a training for each batch, with this ι."""
    return [
        {
            "kind": "step", "step": step, "task/mean": 0.185 + 0.0004 * step, "rollout/length": 1_000_000 + step,
            "inversion/mean": score, "inversion/correlation": score, "inversion/correlation_token": None,
            "inversion/undefined": 0.75 if score else 1.0,
        }
        for step, score in enumerate(scores)
    ]  # fmt: skip


def charted(page, title):
    """The options of the chart with this title."""
    return page.evaluate(
        "(title) => echarts.getInstanceByDom([...document.querySelectorAll('#training-charts figure')]"
        ".find((f) => f.querySelector('h3').textContent === title).querySelector('.chart')).getOption().series"
        ".map((s) => ({data: s.data, shown: s.showSymbol, symbols: s.data.map((_, i) => "
        "typeof s.symbol === 'function' ? s.symbol(null, {dataIndex: i}) : 'none')}))",
        title,
    )


def test_training_curves(watched, training, tmp_path) -> None:
    runs = [training / name for name in ("seed0", "seed1", "other")]
    page = watched.open(write_report(runs, tmp_path / "t.html"))
    assert page.locator("#controls").count() == 0
    labels = [e.get_attribute("aria-label") for e in page.locator("#training-charts .chart").all()]
    assert [label.split(" by step")[0] for label in labels] == [
        "inversion ι", "ρ, unit of the reward", "rollouts without a score", "task reward", "accuracy",
        "groups whose task rewards tie", "entropy (nats)", "length (tokens)"]  # fmt: skip
    assert "seed0 (2 seeds)" in labels[0]
    assert "other" in labels[0]
    page.uncheck("#bands")
    assert "seeds)" not in page.locator("#training-charts .chart").first.get_attribute("aria-label")
    assert page.locator("#training-table tbody tr").count() == 3
    assert page.locator("#training-table").inner_text().count("none") == 2
    page.select_option("#metric", "rollout/repetition")
    assert page.locator("#training-charts .chart").count() == 9
    assert page.locator("#training-undefined").is_hidden()
    rows = downloaded(page, "training")
    steps = [json.loads(line) for line in TRAJECTORY.read_text().splitlines()]
    expected = [row["task/accuracy"] for row in steps if row["kind"] == "step"]
    assert [float(r["task/accuracy"]) for r in rows if r["run"] == "seed0" and r["kind"] == "step"] == expected
    watched.quiet()


def test_running_mean_and_band_by_hand(watched, training, tmp_path) -> None:
    page = watched.open(write_report([training / "seed0", training / "seed1"], tmp_path / "t.html"))
    page.fill("#smooth", "3")
    page.locator("#smooth").blur()
    series = page.evaluate(
        "echarts.getInstanceByDom(document.querySelector('#training-charts .chart'))"
        ".getOption().series.map((s) => s.data)"
    )
    rows = [json.loads(line) for line in TRAJECTORY.read_text().splitlines()]
    raw = pd.Series([row["inversion/mean"] for row in rows if row["kind"] == "step"])
    low = raw.rolling(3, min_periods=1).mean()
    assert [y for _, y in series[0]] == pytest.approx(low.tolist())
    assert [y for _, y in series[1]] == pytest.approx([0.1] * len(raw))
    assert [y for _, y in series[2]] == pytest.approx((low + 0.05).tolist())


@pytest.mark.parametrize(
    ("scores", "summary", "steps"),
    [((None,), None, 1), ((None, None), None, 2), ((None, None), {"config": {}, "num_steps": 4}, 4)],
)
def test_a_training_in_which_nothing_is_defined(watched, tmp_path, scores, summary, steps) -> None:
    document = training_document("run", training_rows(*scores), {"seed": 0}, summary)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    titles = page.locator("#training-charts h3").all_inner_texts()
    assert titles == ["rollouts without a score", "task reward", "length (tokens)"]
    said = page.inner_text("#training-undefined")
    # What the estimator did not measure (ρ by token) is not said to be undefined.
    assert said == "Undefined in every batch: inversion ι; ρ, unit of the reward."
    assert page.locator("#training-table tbody td").first.inner_text() == str(steps)
    watched.quiet()


def test_a_lone_value_is_seen(watched, tmp_path) -> None:
    document = training_document("run", training_rows(None, None, -0.2), {"seed": 0}, None)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    raw, mean = charted(page, "inversion ι")
    assert raw["shown"]
    assert mean["shown"]
    assert mean["symbols"] == ["none", "none", "circle"]
    assert not any(line["shown"] for line in charted(page, "task reward"))
    watched.quiet()


def test_ticks_of_a_small_range_differ(watched, tmp_path) -> None:
    document = training_document("run", training_rows(*[0.1] * 8), {"seed": 0}, None)
    page = watched.open(write_page(document, tmp_path / "t.html"))
    for title in ("task reward", "length (tokens)"):
        figure = page.locator("#training-charts figure").filter(has_text=title)
        along = {"step", *map(str, range(8))}
        labels = [text for text in figure.locator("svg text").all_text_contents() if text not in along]
        assert len(labels) == len(set(labels)) > 3, labels
    watched.quiet()


def test_numbers_of_a_probe_set_are_drawn_without_steps(watched, tmp_path) -> None:
    """A trajectory of `InversionCallback` alone, with the callback's own names."""
    from antiphase.training.trajectory import Trajectory

    for step, rho in ((0, 0.2), (100, -0.1), (200, -0.4)):
        values = {"probe/spearman": rho, "probe/spearman_low": rho - 0.1, "probe/spearman_high": rho + 0.1}
        Trajectory(tmp_path / "sft").append("probe", step, values)
    page = watched.open(write_report(tmp_path / "sft", tmp_path / "t.html"))
    charts = page.locator("#training-charts .chart")
    assert charts.count() == 1
    series = page.evaluate(
        "echarts.getInstanceByDom(document.querySelector('#training-charts .chart'))"
        ".getOption().series.filter((s) => s.type === 'custom').map((s) => s.data)"
    )
    expected = np.array([[0, 0.2, 0.1, 0.3], [100, -0.1, -0.2, 0.0], [200, -0.4, -0.5, -0.3]])
    assert np.array(series[0]) == pytest.approx(expected, abs=1e-9)
    assert "200" in page.locator("#training-table tbody tr").inner_text()
    watched.quiet()


def test_a_served_page_follows_its_run(watched, training) -> None:
    run = training / "growing"
    run.mkdir()
    rows = TRAJECTORY.read_text().splitlines(keepends=True)
    (run / "trajectory.jsonl").write_text("")
    with serving([run]) as server:
        page = watched.page
        page.goto(server.address)
        page.wait_for_selector("text=Waiting for the first finished batch")
        (run / "trajectory.jsonl").write_text("".join(rows[:10]))
        page.wait_for_selector("#training-table tbody tr", timeout=10_000)
        (run / "trajectory.jsonl").write_text("".join(rows[:30]))
        last = max(json.loads(row)["step"] for row in rows[:30])
        page.wait_for_selector(f"text=up to step {last}", timeout=10_000)
        watched.quiet(server.address)


def test_dynamic_sampling_shows_the_accuracy_of_the_first_sample(watched, tmp_path) -> None:
    for name, metrics in (("plain", {}), ("dynamic", {"sampling/accuracy": 0.25})):
        rows = [{**row, "task/accuracy": 0.5, **metrics} for row in training_rows(0.1, 0.2, 0.3)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "trajectory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = watched.open(write_report([tmp_path / "plain", tmp_path / "dynamic"], tmp_path / "t.html"))
    values = {point[1] for series in charted(page, "accuracy") for point in series["data"]}
    assert values == {0.5, 0.25}
    assert "before groups are replaced" in page.locator("#training-charts").inner_text()
    table = page.locator("#training-table").inner_text()
    assert "0.250 → 0.250" in table or "0.25 → 0.25" in table
    watched.quiet()
