"""Share the work of a study among all processes that work in its folder: each takes the next piece that is free.

A piece of work is a model to make, or a cell to run (one model, setting, method and seed). The process that does a
piece holds the lock of this piece. The operating system releases the lock when the process ends, even by kill -9. The
piece is then free again, and another process takes it over. Two processes that look at the same moment may choose the
same piece. One of the two gets the lock, and the other takes the next piece.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.runs.folder_lock import holder
from antiphase.study.processes import Outcome, Processes

# How long a process waits before it looks again at what other processes do.
_SECONDS = 2.0


@dataclass(frozen=True)
class Work:
    """A piece of work that several processes may want to do, but that only one process does.

    Args:
        name: the name of the piece.
        lock: the file whose lock a process holds while it does the work.
        function, arguments, options: the call that does the work. It raises `InUseError` if another process holds the
            lock.
    """

    name: str
    lock: Path
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def share(
    works: Sequence[Work], jobs: int, done: Callable[[], set[str]], say: Callable[[str], None], what: str
) -> dict[str, str]:
    """Do every piece of work that no other process does, and wait until the other processes have done theirs.

    A line is printed when a piece has ended. If a piece fails in this process, this process does not try it again. If
    another process ends before its piece is done, this process does the piece.

    Args:
        works: the pieces of work.
        jobs: number of processes that this process starts and runs at the same time.
        done: a function that returns the names of the pieces that this or any other process has done.
        say: a function that prints one line.
        what: what a piece is, for the printed lines: `model` or `cell`.

    Returns:
        a mapping from the name of each piece that failed in this process to its error message. A piece that another
        process has done afterwards is not included.
    """
    state = _Progress(works, say, what)
    waiting = False
    with Processes(jobs) as processes:
        running: dict[Future[Outcome], Work] = {}
        while True:
            state.note_done(done(), {work.name for work in running.values()})
            held, free = state.open(running.values())
            for work in free[: jobs - len(running)]:
                running[processes.start(work.function, work.arguments, work.options)] = work
            if not running and not held:
                return state.failed
            if not running and not waiting:
                first, process = next(iter(held.items()))
                more = f" and {len(held) - 1} more" if len(held) > 1 else ""
                say(f"waiting for the {what} {first}, which {process} runs{more}. Ctrl-C here does not stop it.")
            waiting = not running
            if running:
                ended, _ = wait(running, _SECONDS if len(running) < jobs else None, FIRST_COMPLETED)
                for future in ended:
                    state.note(running.pop(future), future.result())
            else:
                time.sleep(_SECONDS)


class _Progress:
    """Keeps count of the pieces of work that are done or have failed, and prints a line about each.

    Args:
        works: the pieces of work.
        say: a function that prints one line.
        what: what a piece is: `model` or `cell`.
    """

    def __init__(self, works: Sequence[Work], say: Callable[[str], None], what: str) -> None:
        self.works = works
        self.failed: dict[str, str] = {}
        self._done: set[str] = set()
        self._ended: set[str] = set()
        self._began = time.time()
        self._say, self._what = say, what

    def note_done(self, names: set[str], running: set[str]) -> None:
        """Count pieces that other processes have done.

        Args:
            names: the names of all pieces that are done.
            running: the names of the pieces that run in this process. They are not counted.
        """
        for work in self.works:
            if work.name in names and work.name not in self._done | running:
                self._done.add(work.name)
                self.failed.pop(work.name, None)
                self._tell(work.name, "done by another process", None)

    def note(self, work: Work, outcome: Outcome) -> None:
        """Count a piece that this process has run, with its outcome."""
        if outcome.state == "in use":
            return
        if outcome.state == "done":
            self._done.add(work.name)
        else:
            self.failed[work.name] = outcome.message
        self._tell(work.name, "done" if outcome.state == "done" else f"FAILED: {outcome.message}", outcome.seconds)

    def open(self, running: Sequence[Work] | Any) -> tuple[dict[str, str], list[Work]]:
        """Return (the pieces that other processes do now, the pieces that this process can begin).

        The first is a mapping from the name of a piece to the process that does it. `running` are the pieces that run
        in this process.
        """
        here = {work.name for work in running}
        left = [work for work in self.works if work.name not in self._done | here]
        found = {work.name: holder(work.lock, tries=1) for work in left}
        held = {name: process for name, process in found.items() if process is not None}
        return held, [work for work in left if work.name not in held and work.name not in self.failed]

    def _tell(self, name: str, state: str, seconds: float | None) -> None:
        self._ended.add(name)
        ended, total = len(self._ended), len(self.works)
        left = (time.time() - self._began) / ended * (total - ended)
        spent = "" if seconds is None else f"{seconds:.0f} s; "
        self._say(f"{self._what} {ended}/{total} {name}: {state} ({spent}about {left / 60:.0f} min left)")
