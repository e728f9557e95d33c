"""Fixtures for the tests of the page in a browser. `conftest` makes them known to every test module.

Each run is made at most once, when a test first asks for it; processes that share the tests share the runs, so tests
leave them as they are. The browser is started once for each test module, because Playwright's event loop runs as long
as a browser is open, and other tests start loops of their own. The package is imported inside the fixtures, so that
tests without a browser do not wait for it.
"""

import os
import shutil

import pytest
from filelock import FileLock

from browser import Watched, launched


def made_once(tmp_path_factory, name, make):
    """What `make` returns for an empty folder. The first process of pytest-xdist that asks makes it for all."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    made = place.with_suffix(".made")
    with FileLock(place.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            made.write_text(str(make(place)))
        return type(place)(made.read_text())


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

    return made_once(tmp_path_factory, "probe", probed)


@pytest.fixture(scope="session")
def evaluation_of_demo(tmp_path_factory):
    from page_runs import judged_rollouts

    return made_once(tmp_path_factory, "eval", judged_rollouts)


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

    return made_once(tmp_path_factory, "train", trained)
