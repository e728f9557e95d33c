"""The time left on a bar: none before it means something, and of the work alone."""

import io
import re

import pytest

from antiphase import progress as module
from antiphase.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test lets pass."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_nothing_is_said_before_a_twentieth_is_done(clock) -> None:
    with Progress(300, shown=False) as bar:
        bar.stage("loading", 0)
        clock(60)
        bar.stage("generating", 100)
        clock(13)
        bar.advance(0.001)
        assert bar.left() is None
        bar.advance(0.139)
        assert bar.left() is None
        clock(7)
        bar.advance(0.01)
        # 15 units took 20 seconds, and loading is no part of them; 285 are left.
        assert bar.left() == pytest.approx(20 / 15 * 285)


def test_the_pace_is_that_of_all_stages(clock) -> None:
    with Progress(100, shown=False) as bar:
        bar.stage("generating", 25)
        clock(10)
        bar.end_stage()
        bar.stage("loading", 0)
        clock(500)
        bar.stage("measuring", 25)
        clock(30)
        bar.advance(1.0)
        assert bar.left() == pytest.approx(40)
        bar.stage("generating", 50)
        clock(40)
        bar.end_stage()
        assert bar.left() == 0


def test_what_was_done_before_says_nothing(clock) -> None:
    with Progress(200, shown=False) as bar:
        bar.skip("resuming", 100)
        assert bar.left() is None
        bar.stage("measuring", 100)
        clock(10)
        bar.advance(0.1)
        assert bar.left() == pytest.approx(90)
        assert bar.finished == 110


def test_what_is_printed(clock, monkeypatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    with Progress(100, shown=True) as bar:
        bar._bar.delay, bar._bar.mininterval = 0, 0
        bar.stage("measuring", 100)
        clock(3)
        bar.advance(0.04)
        bar._bar.refresh()
        clock(7)
        bar.advance(0.06)
        bar._bar.refresh()
    lines = [line.strip() for line in written.getvalue().split("\r") if "measuring" in line]
    assert re.fullmatch(r"measuring +4% \|.*\| \d\d:\d\d elapsed", lines[0])
    assert re.fullmatch(r"measuring +10% \|.*\| \d\d:\d\d elapsed, 01:30 left", lines[-1])
