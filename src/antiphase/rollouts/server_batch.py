"""Runs many requests to a server at the same time, until all are done, one has failed for good, or time is up."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from antiphase.errors import AntiphaseError
from antiphase.rollouts.server_client import StoppedError

Made = TypeVar("Made")


@dataclass(frozen=True)
class Outcome:
    """How a batch of requests ended.

    Args:
        failures: for each rollout that failed for good, its row (its index in the batch) and its error.
        late: whether the deadline passed before all rollouts were finished.
    """

    failures: tuple[tuple[int, AntiphaseError], ...]
    late: bool


async def run_rows(
    rows: Sequence[int],
    work: Callable[[int], Awaitable[None]],
    stop: asyncio.Event,
    *,
    concurrency: int,
    deadline: float | None,
    grace: float,
) -> Outcome:
    """Await `work(row)` for each row, a limited number of rows at the same time, and return how the batch ended.

    A row is the index of a rollout in the batch. When a row fails for good, no further row begins and no failed
    request is repeated. The rows under way may still finish, since their tokens are being paid for. Rows that are not
    finished `grace` seconds after the failure are cancelled.

    Args:
        rows: the indices of the rollouts to generate.
        work: function that generates the rollout of a row, and stores it.
        stop: event that this function sets when no further attempt may begin.
        concurrency: the greatest number of rows under way at the same time.
        deadline: the seconds after which everything is cancelled; None sets no limit.
        grace: the seconds that the rows under way may still take after a failure.
    """
    loop, failures, left = asyncio.get_running_loop(), [], iter(rows)
    end = None if deadline is None else loop.time() + deadline

    async def take_rows() -> None:
        for row in left:
            if stop.is_set():
                return
            try:
                await work(row)
            except StoppedError:
                return
            except AntiphaseError as error:
                failures.append((row, error))
                stop.set()

    workers: list[asyncio.Future[None]] = [
        asyncio.ensure_future(take_rows()) for _ in range(min(concurrency, len(rows)))
    ]
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    everything: asyncio.Future[Any] = asyncio.gather(*workers)
    try:
        await asyncio.wait({everything, stopping}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if not everything.done() and stop.is_set():
            seconds = grace if end is None else min(grace, max(0.0, end - loop.time()))
            await asyncio.wait({everything}, timeout=seconds)
        late = not everything.done() and not failures
        if everything.done():
            everything.result()  # An unexpected error of a worker is raised here.
        return Outcome(tuple(failures), late)
    finally:
        stop.set()
        # If a worker ended with an unexpected error, `everything` is done, and cancelling it cancels no other worker.
        for future in (*workers, everything, stopping):
            future.cancel()
        await asyncio.gather(*workers, stopping, everything, return_exceptions=True)


def run_here(work: Coroutine[Any, Any, Made]) -> Made:
    """Run a coroutine to its end, and return its result. This also works inside a notebook, which runs an event loop.

    If the caller is interrupted while it waits, by Ctrl-C for example, the coroutine is cancelled.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    started: concurrent.futures.Future[tuple[Any, Any]] = concurrent.futures.Future()

    async def known() -> Made:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, known())
        try:
            return running.result()
        except BaseException:
            if not running.done():
                loop, task = started.result()
                with contextlib.suppress(RuntimeError):  # The loop was closed at this moment.
                    loop.call_soon_threadsafe(task.cancel)
            raise
