"""Verify completions in processes that can be killed, so that no completion can hang or end the caller.

`VerifierPool.check` works in any thread, uses no signals in the caller, and gives a verdict for every pair. Verdicts
that need only string operations use no process.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.steps.thoughts import TAGS, spoken, thought_tags
from antiphase.tasks.extraction import MAX_LENGTH, PLACES
from antiphase.tasks.own_task import OwnTask
from antiphase.tasks.problem import Problem, Task
from antiphase.tasks.registry import build_task

Outcome = Literal["right", "wrong", "no answer", "cut off", "timeout", "error"]
# The outcomes of a completion that has not given its answer.
NO_ANSWER: tuple[Outcome, ...] = ("no answer", "cut off")
DEFAULT_TIMEOUT = 5.0
_START_TIMEOUT = 180.0  # seconds to start and to import, which no completion can lengthen
_CHECKS_PER_PROCESS = 5000  # sympy's caches grow
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from antiphase.tasks.worker import main; main()"
_LATE = {"failed": "its process did not answer in time"}
_ENDED = {"failed": "its process ended"}
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class VerifierError(AntiphaseError, RuntimeError):
    """Verification cannot work at all, whatever the completion: a process does not start or lacks a package."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one completion. Whatever is not right counts as wrong.

    Args:
        correct: whether the completion is right.
        outcome: `right`, `wrong`, `no answer` (none was found, or the thought does not end), `cut off` (the completion
            reached its length limit before it gave an answer), `timeout` (verifying took too long), or `error` (the
            verifier raised, or its process ended).
        reason: why, in a few words.
    """

    correct: bool
    outcome: Outcome
    reason: str = field(default="", compare=False)


_UNFINISHED = Verdict(False, "no answer", "the thought was begun and not ended")


class VerifierPool:
    """A pool of processes that verify completions. They start when they are first needed.

    Use the pool in a `with` block or call `close`. Its processes also end when the pool is deleted and when this
    process ends or is killed.

    Args:
        num_workers: the greatest number of processes; None is 2, or 1 on a machine with one core.
        think_tags: tags of thoughts besides the known ones, each text as in `<plan> </plan>`.

    Raises:
        InvalidInputError: fewer than one worker, or a text in `think_tags` is not two tags.
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
        """The verdict on each (completion, problem), in order.

        Of a reasoning model's completion, only what follows the thought is verified; see `thoughts`.

        Args:
            pairs: the completions with their problems.
            timeout: seconds for each; importing and starting processes do not count.
            finishes: how each completion ended; `length` means that it reached its length limit.

        Raises:
            InvalidInputError: the timeout is not positive, or a problem names a task that does not exist.
            VerifierError: verification cannot work at all, whatever the completions.
        """
        if not timeout > 0:
            raise InvalidInputError(f"timeout must be a positive number of seconds; got {timeout}.")
        answers = [answer_part(build_task(problem.task), completion, self.tags) for completion, problem in pairs]
        pairs = [(answer or "", problem) for answer, (_, problem) in zip(answers, pairs, strict=True)]
        verdicts = [
            _UNFINISHED if answer is None else _quick(answer, problem)
            for answer, (_, problem) in zip(answers, pairs, strict=True)
        ]
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index, verdict in enumerate(verdicts):
            if verdict is None:
                todo.put(index)
        if not todo.empty():
            with self._lock:
                self._check_in_processes(pairs, verdicts, todo, timeout)
        return [
            _explained(cast(Verdict, verdict), *pair, finish)
            for verdict, pair, finish in zip(verdicts, pairs, finishes or [None] * len(pairs), strict=True)
        ]

    def _check_in_processes(
        self,
        pairs: Sequence[tuple[str, Problem]],
        verdicts: list[Verdict | None],
        todo: "queue.SimpleQueue[int]",
        timeout: float,
    ) -> None:
        if os.getpid() != self._pid:  # after a fork: the processes belong to the parent
            self._finalizer.detach()
            self._idle, self._pid = [], os.getpid()
            self._finalizer = weakref.finalize(self, _close_all, self._idle, self._pid)

        def work() -> None:
            while (index := _next(todo)) is not None:
                verdicts[index] = self._check_one(*pairs[index], timeout)

        num_threads = min(self.num_workers, todo.qsize())
        with ThreadPoolExecutor(num_threads, thread_name_prefix="antiphase-verify") as threads:
            try:
                for future in [threads.submit(work) for _ in range(num_threads)]:
                    future.result()
            finally:  # after an error or Ctrl-C, the other threads stop too
                while _next(todo) is not None:
                    pass

    def _check_one(self, completion: str, problem: Problem, timeout: float) -> Verdict:
        for _ in range(3):
            worker = self._take()
            try:
                return worker.check(completion, problem, timeout)
            except _GoneError:
                continue  # it had ended before it read the pair
            finally:
                self._idle.append(worker)
        return Verdict(False, "error", "the process that verifies ended again and again")

    def _take(self) -> "_Worker":
        while self._idle:
            worker = self._idle.pop()
            if worker.usable:
                return worker
            worker.close()
        return _Worker()

    def close(self) -> None:
        """End the processes; the next check starts new ones."""
        with self._lock:
            _close_all(self._idle, self._pid)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _next(todo: "queue.SimpleQueue[int]") -> int | None:
    try:
        return todo.get_nowait()
    except queue.Empty:
        return None


def answer_part(task: Task, completion: str, tags: Sequence[tuple[str, str]] = TAGS) -> str | None:
    """What the task's verifier reads of a completion: what follows its thought; None if the thought does not end."""
    return completion if task.reads_thoughts else spoken(completion, tags).answer


def _quick(completion: str, problem: Problem) -> Verdict | None:
    task = build_task(problem.task)
    correct = task.quick_verdict(completion, problem)
    if correct is False and task.found(completion, problem) is None:
        return Verdict(False, "no answer", "no answer was found")
    return None if correct is None else _verdict(correct)


def _explained(verdict: Verdict, answer: str, problem: Problem, finish: str | None) -> Verdict:
    """The verdict with its reason, and whether an answer is missing because the completion was cut off."""
    if verdict.outcome == "no answer":
        return replace(verdict, outcome="cut off") if finish == "length" else verdict
    if verdict.outcome not in ("right", "wrong"):
        return verdict
    found = build_task(problem.task).found(answer, problem)
    if finish == "length" and found is not None and found.how in ("number", "line"):
        # A completion that goes on has no last number and no last line yet.
        return Verdict(False, "cut off", f"the completion was cut off before an answer ({PLACES[found.how]} is none)")
    place = "" if found is None else f" ({PLACES[found.how]})"
    return replace(verdict, reason=f"the answer{place} {'equals' if verdict.correct else 'is not'} the reference")


def _located(spec: str) -> tuple[str, str | None]:
    """(a spec from which another process can build the same task, the sha256 of the user's code or None)."""
    task = build_task(spec)
    return (task.located, task.code.sha256) if isinstance(task, OwnTask) else (spec, None)


def _verdict(correct: bool) -> Verdict:
    return Verdict(correct, "right" if correct else "wrong")


def _close_all(workers: "list[_Worker]", pid: int) -> None:
    if os.getpid() != pid:
        return
    while workers:
        workers.pop().close()


class _GoneError(Exception):
    """The process had ended before it read the request."""


class _Worker:
    """One process and the thread that listens to it."""

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
        located, sha256 = _located(problem.task)
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
            return _verdict(answer["correct"])
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
                try:
                    stream.close()
                except OSError:
                    continue  # the process that was to read the rest has ended

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.close()
            raise _GoneError from None

    def _receive(self, timeout: float) -> dict[str, Any]:
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return _LATE

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(_ENDED)
