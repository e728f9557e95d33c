"""Run the cells of a sweep in processes of their own, which end with the sweep. An error in one stops no other."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from antiphase.errors import AntiphaseError

# The modules that the server process imports once for all processes.
PRELOAD = ["antiphase.training.train", "antiphase.evaluation.evaluate"]


def in_processes(
    calls: Sequence[tuple[str, Callable[..., Any], tuple[Any, ...]]],
    jobs: int,
    say: Callable[[str], None],
    what: str,
    options: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Run functions, each in its own process, and print a line when one has ended.

    Args:
        calls: the name, function and positional arguments of each call.
        jobs: number of processes that run at the same time.
        say: a function that prints one line.
        what: what a call is, for the printed lines: `model` or `cell`.
        options: keyword arguments of every call.

    Returns:
        the error messages of calls that failed, by name.
    """
    failed: dict[str, str] = {}
    context, began = _context(), time.time()
    processes: list[Any] = []
    with ThreadPoolExecutor(jobs) as threads:
        names = {
            threads.submit(_one_process, context, processes, function, arguments, options or {}): name
            for name, function, arguments in calls
        }
        try:
            for finished, future in enumerate(as_completed(names), 1):
                name, (error, seconds) = names[future], future.result()
                if error is not None:
                    failed[name] = error
                left = (time.time() - began) / finished * (len(calls) - finished)
                state = "done" if error is None else f"FAILED: {error}"
                say(
                    f"{what} {finished}/{len(calls)} {name}: {state} ({seconds:.0f} s; about {left / 60:.0f} min left)"
                )
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                process.terminate()  # A training finishes its step and saves a checkpoint.
            raise
    return failed


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
    processes: list[Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[str | None, float]:
    """Run a function in a new process.

    Args:
        context: the multiprocessing context that starts the process.
        processes: the list of running processes, through which the caller can end them.
        function, arguments, options: the call to make.

    Returns:
        the error message, which is None if the call succeeded, and the seconds that it took.
    """
    began = time.time()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, arguments, options))
    process.start()
    processes.append(process)
    sender.close()
    try:
        message = receiver.recv()
    except EOFError:
        message = None
    process.join()
    processes.remove(process)
    if message is None:
        message = f"its process ended with status {process.exitcode}"
    return message or None, time.time() - began


def _child(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Run a function in this new process, and send its error message, or "" if it succeeded."""
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
        sender.send("")
    except KeyboardInterrupt:
        sender.send("interrupted")
    # An error in one cell must not stop the others. It is printed to the log and returned.
    except Exception as error:  # noqa: BLE001
        import traceback

        traceback.print_exc()
        sender.send(
            " ".join(f"{'' if isinstance(error, AntiphaseError) else type(error).__name__ + ': '}{error}".split())
        )


def _end_with_parent() -> None:
    """End this process and its children as soon as the process of the sweep ends, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform == "win32":
        return
    os.setpgid(0, 0)

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
