"""Call functions, each in a new process. The processes end with the sweep. If a call fails, the others go on."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from antiphase.errors import AntiphaseError
from antiphase.runs.folder_lock import InUseError
from antiphase.study.process_tree import descendants, send

# The modules that the server process imports once for all processes.
PRELOAD = ["antiphase.training.train", "antiphase.evaluation.evaluate"]


@dataclass(frozen=True)
class Outcome:
    """How a call in a new process ended.

    Args:
        state: `done`, `failed`, or `in use`, which means that another process does the same work now.
        message: the error message; empty if the state is `done`.
        seconds: the time that the call took.
    """

    state: str
    message: str
    seconds: float


class Processes:
    """Calls functions, each in a new process, and at most `jobs` of them at the same time.

    The end of the `with` block waits for all calls. If the block ends with an error, the processes get SIGTERM
    instead. A training then finishes its optimizer step and saves a checkpoint.

    Args:
        jobs: the largest number of processes that run at the same time.
    """

    def __init__(self, jobs: int) -> None:
        self._context = _context()
        self._running = _Running()
        self._threads = ThreadPoolExecutor(jobs)

    def start(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> "Future[Outcome]":
        """Call a function in a new process, as soon as fewer than `jobs` calls are running.

        The output of the call goes to the file `logs/NAME.log` in the study's folder.

        Args:
            function: the function to call.
            arguments: its positional arguments. The first has the attribute `name`, which is the NAME of the log. The
                second is the study's folder.
            options: its keyword arguments.

        Returns:
            a future, which gets the outcome when the call has ended.
        """
        return self._threads.submit(_one_process, self._context, self._running, function, arguments, options)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._running.stop()
        self._threads.shutdown()


class _Running:
    """The processes that are running now. After `stop`, each process that is added is ended at once."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._stopped = False
        self._lock = threading.Lock()

    def add(self, process: Any) -> None:
        """Add a process that has just been started. If `stop` was called before, end the process."""
        with self._lock:
            self._processes.append(process)
            if self._stopped:
                process.terminate()

    def remove(self, process: Any) -> None:
        """Remove a process that has ended."""
        with self._lock:
            self._processes.remove(process)

    def stop(self) -> None:
        """Send SIGTERM to all processes, and later to each process that is added."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()


def _context() -> Any:
    """Return the multiprocessing context that starts the processes.

    A new process is forked from a server process, which has imported everything but has no other threads and has not
    used the GPU. On a system without such a server, every process is started anew.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _one_process(
    context: Any,
    processes: _Running,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Outcome:
    """Run a function in a new process, wait for its end, and return how it ended.

    Args:
        context: the multiprocessing context that starts the process.
        processes: the running processes, through which the caller can end them.
        function, arguments, options: the call to make.
    """
    began = time.time()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments, options))
    process.start()
    processes.add(process)
    sender.close()
    try:
        state, message = receiver.recv()
    except EOFError:
        state, message = "failed", ""
    process.join()
    processes.remove(process)
    if state == "failed" and not message:
        message = f"its process ended with status {process.exitcode}"
    return Outcome(state, message, time.time() - began)


def _child(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Run a function in this new process, and send the state and the message of its `Outcome` to the parent."""
    import warnings

    _end_with_parent()
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", ".*pin_memory.*", UserWarning)
    # Each cell prints to its own log, so that the lines of the sweep stay readable.
    log = arguments[1] / "logs" / f"{arguments[0].name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        function(*arguments, **options)
        sender.send(("done", ""))
    except KeyboardInterrupt:
        sender.send(("failed", "interrupted"))
    except InUseError as error:
        sender.send(("in use", str(error)))
    # An error in one cell must not stop the others. It is printed to the log and returned.
    except Exception as error:  # noqa: BLE001
        import traceback

        traceback.print_exc()
        kind = "" if isinstance(error, AntiphaseError) else f"{type(error).__name__}: "
        sender.send(("failed", " ".join(f"{kind}{error}".split()) or type(error).__name__))


def _end_with_parent() -> None:
    """End this process and its children as soon as the process of the sweep ends, even by kill -9.

    Children in other process groups, such as the workers of torchrun, are ended only on a system with `/proc`.
    """
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform == "win32":
        return
    os.setpgid(0, 0)

    def watch() -> None:
        parent.join()
        for generation in descendants(os.getpid()):
            send(generation, signal.SIGKILL)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
