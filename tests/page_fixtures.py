"""Fixtures for the tests of the page in a browser. `conftest` makes them known to every test module.

Each run is made at most once in a process, when a test first asks for it. The browser is started once for each test
module, because Playwright's event loop runs as long as a browser is open, and other tests start loops of their own.
The package is imported inside the fixtures, so that tests without a browser do not wait for it.
"""

import pytest

from browser import Watched, launched


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture
def watched(browser):
    made = Watched(browser)
    yield made
    made.context.close()


@pytest.fixture
def page(watched, folder):
    """The page of the run in `folder`; at the end nothing must have gone wrong."""
    yield watched.open(folder / "report.html")
    watched.quiet()


@pytest.fixture(scope="session")
def probe_of_demo(tmp_path_factory):
    from page_runs import probed

    return probed(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def evaluation_of_demo(tmp_path_factory):
    from page_runs import judged_rollouts

    return judged_rollouts(tmp_path_factory.mktemp("eval"))


# These two ask for the browser first, so that nothing is measured where there is no browser.
@pytest.fixture(scope="module")
def folder(browser, request):
    """A real probe of the embedded model."""
    return request.getfixturevalue("probe_of_demo")


@pytest.fixture(scope="module")
def judged(browser, request):
    """An evaluation of the embedded model on given completions, some right and some wrong."""
    return request.getfixturevalue("evaluation_of_demo")


@pytest.fixture(scope="session")
def training(tmp_path_factory):
    """Two seeds of a real training run and one of other settings, with an alarm."""
    from page_runs import trained

    return trained(tmp_path_factory.mktemp("train"))
