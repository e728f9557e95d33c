"""Pictures of the interactive page for the README and the docs: python docs/screenshots.py RUN/report.html.

Needs Chromium, and Playwright from the extra `dev`.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"


def shoot(page: Page, section: str, name: str) -> None:
    """One section as a PNG."""
    page.locator(section).scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    page.locator(section).screenshot(path=IMAGES / f"{name}.png", animations="disabled")


def main(path: Path) -> None:
    """Take the pictures of one report."""
    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_context(viewport={"width": 1120, "height": 1000}, color_scheme="light").new_page()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready]")
        # The sticky bar would stand over the sections.
        page.add_style_tag(
            content="#controls { position: static !important; } section { border: 0 !important; padding: 1rem; }"
        )
        page.select_option("#axes", "rank")
        page.locator("#scatter").evaluate("e => e.scrollIntoView()")
        page.wait_for_timeout(300)
        box = page.locator("#scatter-chart").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.12 * box["width"], box["y"] + 0.04 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.35 * box["height"], steps=8)
        page.mouse.up()
        page.wait_for_timeout(500)
        page.click("#most")
        page.locator("#text .tok").nth(24).hover()
        shoot(page, "#scatter", "report-scatter")
        page.mouse.move(0, 0)
        page.locator("#text .tok").nth(24).focus()
        shoot(page, "#tokens", "report-tokens")
        # A rollout with many steps shows more of them.
        page.select_option("#unit", "step")
        page.click("#most")
        page.locator("#text .begins").nth(2).focus()
        shoot(page, "#steps", "report-steps")
        shoot(page, "#chain", "report-chain")
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.evaluate("document.getElementById('theme').click()")
        page.evaluate("document.getElementById('theme').click()")
        shoot(page, "#layers", "report-layers-dark")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
