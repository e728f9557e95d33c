"""A headless Chromium for the tests of the page: Debian's, or the one that Playwright installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# No sandbox, since tests may run as root; the rest keeps the browser from calling home.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
READY = "html[data-ready]"


def chromium_path() -> str | None:
    """Chromium of the system, if any."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def launched() -> Iterator:
    """A browser; the tests are skipped where there is none, unless ANTIPHASE_BROWSER=required."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        path = chromium_path()
        if path is None and not Path(play.chromium.executable_path).is_file():
            if os.environ.get("ANTIPHASE_BROWSER") == "required":
                pytest.fail("no Chromium: install the package chromium")
            pytest.skip("no Chromium: install the package chromium, or run playwright install chromium")
        browser = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page whose console, errors and requests are kept; `quiet` says that nothing went wrong."""

    def __init__(self, browser, **context) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.trouble.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, fragment: str = ""):
        """The page of a file, ready."""
        self.page.goto(path.resolve().as_uri() + fragment)
        self.page.wait_for_selector(READY, timeout=30_000)
        return self.page

    def quiet(self, *allowed: str) -> None:
        """Nothing was printed or thrown, and nothing was asked for but the page itself (and `allowed` starts)."""
        assert not self.trouble, self.trouble
        asked = [url for url in self.requests[1:] if not url.startswith(("data:", "blob:", *allowed))]
        foreign = [url for url in asked if url.partition("#")[0] != self.requests[0].partition("#")[0]]
        assert not foreign, foreign
