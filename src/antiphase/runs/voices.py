"""Let the processes of one command print an error or an interruption once, and not once for each process."""

import json
import signal
import time
from functools import partial
from typing import Any

from antiphase.errors import AntiphaseError, LostProcessError
from antiphase.runs.launch import Launch

_SECONDS_TO_HEAR = 3.0
_SECONDS_BETWEEN_LOOKS = 0.1


def spoken(error: AntiphaseError, launched: Launch) -> str | None:
    """Return the text of an error as this process should print it; None if another process prints it.

    If all processes of a machine end with the same error, the first of them prints it. If only some processes end with
    this error, the first of these prints it, together with the numbers of these processes. An error that process 0
    finds before it begins the run counts as an error of all processes, since the others wait for process 0. A process
    prints nothing if it ends only because another process failed, and that other process prints its own error on the
    same machine.

    Args:
        error: the error with which this process ends.
        launched: the place of this process among the processes that were started together.
    """
    from antiphase.runs.team import this_host

    text = str(error)
    if not launched.several:
        return text
    lost = isinstance(error, LostProcessError)
    if isinstance(error, LostProcessError) and (error.unreachable or error.told_on == this_host()):
        return text if error.unreachable else None
    try:
        same = _saying(text, launched)
        of_all = lost or len(same) == launched.local_size or (launched.first and not _begun(launched))
    except LostProcessError:
        # Nobody can say what the others print. The store is gone with process 0, so this is another process.
        same, of_all = [launched.rank], lost or launched.first
    if same[0] != launched.rank:
        return None
    if of_all:
        return text
    return f"process{'es' if len(same) > 1 else ''} {', '.join(map(str, same))} of {launched.size}: {text}"


def _saying(text: str, launched: Launch) -> list[int]:
    """Return the numbers of the processes of this machine that end with this error text.

    The function waits a short time for the other processes.

    Raises:
        LostProcessError: the store of the processes cannot be reached.
    """
    from antiphase.runs.team import asked, prefixed

    store = prefixed(launched, "said")
    begin = launched.rank - launched.local_rank
    ranks = range(begin, min(begin + launched.local_size, launched.size))
    asked(lambda: store.set(str(launched.rank), json.dumps(text)), launched)
    deadline = time.monotonic() + _SECONDS_TO_HEAR
    while True:
        there = [rank for rank in ranks if asked(partial(store.check, [str(rank)]), launched)]
        if len(there) == len(ranks) or time.monotonic() > deadline:
            return [rank for rank in there if json.loads(asked(partial(store.get, str(rank)), launched)) == text]
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _begun(launched: Launch) -> bool:
    """Return whether process 0 has begun the run. Before that, it makes checks, and the others wait for it."""
    from antiphase.runs.team import asked, prefixed

    return bool(asked(lambda: prefixed(launched, "run-1").check(["fact/begun"]), launched))


def stop_once(launched: Launch) -> None:
    """Let this process end cleanly when it is stopped: by Ctrl-C, or by its launcher after another process ended.

    Several signals may come, from the terminal and from the launcher. The first raises KeyboardInterrupt, and the
    others do nothing. With one process, nothing is changed.

    Args:
        launched: the place of this process among the processes that were started together.
    """

    def stop(number: int, frame: Any) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    if launched.several:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, stop)


def tells_of_stop(launched: Launch) -> bool:
    """Return whether this process prints that the run was stopped.

    Only process 0 prints this. It prints nothing if another process prints the error that stopped the run.
    """
    if not launched.several:
        return True
    if not launched.first:
        return False
    from antiphase.runs.team import asked, prefixed

    try:
        store = prefixed(launched, "run-1")
        if not asked(lambda: store.check(["fact/failed"]), launched):
            return True
        *_, said = json.loads(asked(lambda: store.get("fact/failed"), launched))
        return not said
    except LostProcessError:
        return True


def agreed_out(launched: Launch, out: str) -> str:
    """Return the output folder that process 0 proposes, so that all processes use the same folder.

    Each process proposes a folder. Their names differ, because a name contains the time and the number of the process.

    Args:
        launched: the place of this process among the processes that were started together.
        out: the folder that this process proposes.

    Raises:
        LostProcessError: process 0 cannot be reached, or proposes nothing.
    """
    if not launched.several:
        return out
    from antiphase.runs.team import asked, prefixed

    store = prefixed(launched, "out")
    if launched.first:
        asked(lambda: store.set("out", out), launched)
        return out
    return str(asked(lambda: store.get("out"), launched).decode())
