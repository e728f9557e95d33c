"""Find the processes that another process has started, and end them gently. This needs `/proc`, which Linux has.

On other systems no process is found, and nothing is ended.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

# How long to wait before looking again whether a process has ended.
_SECONDS = 0.1


@dataclass(frozen=True)
class Found:
    """A process that was running when it was found, and that may have ended since.

    Args:
        number: the number of the process (PID).
        began: when the process began, in ticks of the kernel's clock. If the system gives the same number to another
            process later, that process has a later time.
    """

    number: int
    began: int

    def runs(self) -> bool:
        """Return whether this process is still running. A zombie, which has ended, counts as not running."""
        fields = _fields(self.number)
        return fields is not None and int(fields[19]) == self.began and fields[0] not in ("Z", "X")


def descendants(number: int) -> list[list[Found]]:
    """Return the running processes that a process has started, directly or through others.

    Args:
        number: the number of the process.

    Returns:
        one list for each generation: the children, then the children of the children, and so on. A process of another
        session is found too. A process whose parent has ended is not found.
    """
    children: dict[int, list[Found]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields is not None and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(Found(int(entry.name), int(fields[19])))
    generations, now = [], children.get(number, [])
    while now:
        generations.append(now)
        now = [child for found in now for child in children.get(found.number, [])]
    return generations


def end_gently(generations: list[list[Found]]) -> None:
    """Send SIGTERM to the processes that are still running, one generation after another, and wait for their end.

    The children of a process are left alone until it has ended, because most processes end their children themselves.
    """
    for generation in generations:
        send(generation, signal.SIGTERM)
        while any(found.runs() for found in generation):
            time.sleep(_SECONDS)


def send(processes: list[Found], number: int) -> None:
    """Send the signal `number` to each process that is still running."""
    for found in processes:
        if found.runs():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(found.number, number)


def _fields(number: int) -> list[str] | None:
    """Return the fields of `/proc/NUMBER/stat`, beginning with the state; None if there is no such process."""
    try:
        text = (Path("/proc") / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is a name in parentheses, which may contain spaces and parentheses.
    return text.rpartition(")")[2].split()
