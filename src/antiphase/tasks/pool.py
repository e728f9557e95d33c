"""Verify completions in processes that can be killed, so that no completion can hang or end the caller.

`VerifierPool.check` works in any thread and uses no signals in the caller. It returns a verdict for every completion.
If a few string operations can decide a verdict, no process is used. The processes run the program in the
module `worker`.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, cast

from antiphase.errors import InvalidInputError
from antiphase.steps.thoughts import thought_tags
from antiphase.tasks.extraction import MAX_LENGTH
from antiphase.tasks.own_task import OwnTask
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import build_task
from antiphase.tasks.verdict import Verdict, VerifierError, answer_part, explained, quick_verdict, verdict_of

DEFAULT_TIMEOUT = 5.0
_START_TIMEOUT = 180.0  # seconds to start and to import, which no completion can lengthen
_CHECKS_PER_PROCESS = 5000  # then the process is replaced, since sympy's caches grow
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from antiphase.tasks.worker import main; main()"
_LATE = {"failed": "its process did not answer in time"}
_ENDED = {"failed": "its process ended"}
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class VerifierPool:
    """A pool of processes that verify completions. The processes start when they are first needed.

    Use the pool in a `with` block, or call `close`. Its processes also end when the pool is deleted, and when the
    process that made the pool ends or is killed.

    Args:
        num_workers: the greatest number of processes; None means 2, or 1 on a machine with one core.
        think_tags: further pairs of tags around a thought, in addition to `thoughts.TAGS`. Each text is an opening and
            a closing tag, such as `<plan> </plan>`.

    Raises:
        InvalidInputError: `num_workers` is less than 1, or a text in `think_tags` is not two tags.
    """

    def __init__(self, num_workers: int | None = None, think_tags: Sequence[str] | None = None) -> None:
        self.num_workers = min(2, os.cpu_count() or 1) if num_workers is None else num_workers
        self.tags = thought_tags(think_tags)
        if self.num_workers < 1:
            raise InvalidInputError(f"num_workers must be at least 1; got {num_workers}.")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _close_all, self._idle, self._pid)

    def check(
        self,
        pairs: Sequence[tuple[str, Problem]],
        timeout: float = DEFAULT_TIMEOUT,
        finishes: Sequence[str | None] | None = None,
    ) -> list[Verdict]:
        """Return the verdict on each completion, in the order of `pairs`.

        If a model thinks before it answers, only the text after its thought is verified (see `thoughts`).

        Args:
            pairs: (completion, problem) for each completion.
            timeout: the seconds that one verification may take. If it takes longer, the outcome is `timeout`. The
                time that a process needs to start is not included.
            finishes: how each completion ended; `length` means that it reached its length limit. None if this is not
                known.

        Raises:
            InvalidInputError: the timeout is not positive, or a problem names a task that does not exist.
            VerifierError: no completion can be verified, because a process does not start or a package is missing.
        """
        if not timeout > 0:
            raise InvalidInputError(f"timeout must be a positive number of seconds; got {timeout}.")
        answers = [answer_part(build_task(problem.task), completion, self.tags) for completion, problem in pairs]
        problems = [problem for _, problem in pairs]
        verdicts = [quick_verdict(answer, problem) for answer, problem in zip(answers, problems, strict=True)]
        pairs = [(answer or "", problem) for answer, problem in zip(answers, problems, strict=True)]
        todo = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None]
        if todo:
            with self._lock:
                slow = iter(self._check_in_processes(todo, timeout))
            verdicts = [next(slow) if verdict is None else verdict for verdict in verdicts]
        return [
            explained(cast(Verdict, verdict), *pair, finish)
            for verdict, pair, finish in zip(verdicts, pairs, finishes or [None] * len(pairs), strict=True)
        ]

    def _check_in_processes(self, pairs: Sequence[tuple[str, Problem]], timeout: float) -> list[Verdict]:
        """Let the processes verify all completions, and return the verdicts in the order of `pairs`."""
        if os.getpid() != self._pid:  # after a fork: the processes belong to the parent
            self._finalizer.detach()
            self._idle, self._pid = [], os.getpid()
            self._finalizer = weakref.finalize(self, _close_all, self._idle, self._pid)
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="antiphase-verify") as threads:
            try:
                futures = [threads.submit(self._check_one, *pair, timeout) for pair in pairs]
                return [future.result() for future in futures]
            finally:  # after an error or Ctrl-C, the other checks do not start
                threads.shutdown(cancel_futures=True)

    def _check_one(self, completion: str, problem: Problem, timeout: float) -> Verdict:
        for _ in range(3):
            worker = self._take()
            try:
                return worker.check(completion, problem, timeout)
            except _GoneError:
                continue  # the process had ended before it read the request
            finally:
                self._idle.append(worker)
        return Verdict(False, "error", "the process that verifies ended three times")

    def _take(self) -> "_Worker":
        """Return a process that is idle, or a new one."""
        with contextlib.suppress(IndexError):  # no process is idle
            while not (worker := self._idle.pop()).usable:
                worker.close()
            return worker
        return _Worker()

    def close(self) -> None:
        """End the processes. The next call of `check` starts new ones."""
        with self._lock:
            _close_all(self._idle, self._pid)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _close_all(workers: "list[_Worker]", pid: int) -> None:
    """End the processes, unless this process is a fork of the one that started them."""
    if os.getpid() != pid:
        return
    while workers:
        workers.pop().close()


class _GoneError(Exception):
    """Raised when a process of the pool had ended before it read its request."""


class _Worker:
    """One process that verifies, and the thread that reads its answers."""

    def __init__(self) -> None:
        self._checks = 0
        self._warm: set[tuple[str, str | None]] = set()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if self._receive(_START_TIMEOUT) != {"ready": True}:
            self.close()
            raise VerifierError(
                "the process that verifies answers did not start. To see why, run: "
                f"{sys.executable} -c 'import antiphase.tasks.worker'."
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def usable(self) -> bool:
        return self._process.poll() is None and self._checks < _CHECKS_PER_PROCESS

    def check(self, completion: str, problem: Problem, timeout: float) -> Verdict:
        """Let the process verify a completion, and return its verdict.

        Raises:
            VerifierError: the process cannot make the task.
            _GoneError: the process had ended before it read the request.
        """
        task = build_task(problem.task)
        # Another process finds a user's file by its absolute path, and must load the same content.
        located, sha256 = (task.located, task.code.sha256) if isinstance(task, OwnTask) else (problem.task, None)
        if (located, sha256) not in self._warm:
            self._warm_up(located, sha256, problem.task)
        problem = replace(problem, task=located)
        self._checks += 1
        # One character more than the verifier reads, so that it can see that the completion is too long.
        request = {"completion": completion[-MAX_LENGTH - 1 :], "problem": asdict(problem), "timeout": timeout}
        self._send(request)
        answer = self._receive(timeout)
        if answer in (_LATE, _ENDED):
            self.close()
            if answer == _LATE:
                return Verdict(False, "timeout", f"verifying took more than {timeout:g} s")
            return Verdict(False, "error", "the process that verifies ended")
        if "correct" in answer:
            return verdict_of(answer["correct"])
        return Verdict(False, "error", f"the verifier raised {answer['error']}")

    def _warm_up(self, located: str, sha256: str | None, spec: str) -> None:
        self._send({"warm_up": located, "sha256": sha256})
        answer = self._receive(_START_TIMEOUT)
        if "warm" not in answer:
            self.close()
            raise VerifierError(f"the task {spec!r} cannot be verified: {answer['failed']}")
        self._warm.add((located, sha256))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # the process that was to read the rest has ended
                    stream.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.close()
            raise _GoneError from None

    def _receive(self, timeout: float) -> dict[str, Any]:
        """Return the next answer of the process; the constant `_LATE` if no answer comes within `timeout` seconds."""
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return _LATE

    def _listen(self) -> None:
        """Collect the answers of the process until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(_ENDED)
