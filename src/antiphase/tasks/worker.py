"""The program of a process that verifies. It reads requests from standard input and writes answers to standard output.

Each request and each answer is one line of JSON. The process may be killed at any moment. It ends by itself when its
input closes, when a check takes far too long, or when it needs more memory than is allowed. This module does not
import torch.
"""

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO

from antiphase.errors import AntiphaseError
from antiphase.tasks.own_task import OwnTask
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task, renew_task

MEMORY_LIMIT = 4 << 30  # bytes of address space
_GRACE = 2.0  # seconds after a check's timeout at which the process ends itself, if the caller has not killed it


def main() -> None:
    """Serve requests until the input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to standard error, since it must not look like an answer
    _limit_resources()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()
    _send(answers, {"ready": True})
    while True:
        _send(answers, _answer(requests.get()))


def _read(stream: BinaryIO, requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in stream:
        requests.put(json.loads(line))
    os._exit(0)  # the parent has ended or closed the pipe; the main thread may be stuck


def _send(stream: BinaryIO, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request, which asks to prepare a task or to verify one completion."""
    if "warm_up" in request:
        try:
            return _warm_up(request["warm_up"], request["sha256"])
        except AntiphaseError as error:
            return {"failed": str(error)}
    problem = Problem(**request["problem"])
    _set_alarm(request["timeout"] + _GRACE)
    try:
        return {"correct": build_task(problem.task).verify(request["completion"], problem)}
    except MemoryError:
        os._exit(1)  # the heap cannot be trusted any more
    # Code that was written for ordinary answers can raise any error on a hostile answer. The completion is then wrong.
    except Exception as error:  # noqa: BLE001
        return {"error": type(error).__name__}
    finally:
        _set_alarm(0)


def _warm_up(spec: str, sha256: str | None) -> dict[str, Any]:
    """Prepare a task, and return the answer to the caller.

    The answer is an error if the file of a user's own task has changed since the caller loaded it.
    """
    task = renew_task(spec)
    if isinstance(task, OwnTask) and task.code.sha256 != sha256:
        return {"failed": f"{task.code.place.place} has changed since it was loaded. Start the run anew."}
    task.warm_up()
    return {"warm": True}


def _set_alarm(seconds: float) -> None:
    # The default action of SIGALRM ends the process in the kernel, even where C code holds the interpreter's lock.
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_resources() -> None:
    """Limit the memory of this process, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes the pipe
    if sys.platform == "win32":
        return
    import resource

    for kind, limit in ((resource.RLIMIT_AS, MEMORY_LIMIT), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (wanted, hard))
        except (OSError, ValueError):
            continue  # macOS refuses RLIMIT_AS; the timeout remains
