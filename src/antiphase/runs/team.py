"""Let several processes share the batches of one run, through the key-value store of their launcher.

A launcher such as torchrun starts the same command in several processes (see `launch`). The processes need no process
group of torch. They use only torch's key-value store (`TCPStore`). There they take batches by a counter, publish facts
that other processes need, and show that they are still alive. All batches are written to the run folder, so the folder
must be on a file system that all processes see.

A run that one process does alone uses `Alone`, which has the same methods and no store.
"""

import contextlib
import functools
import itertools
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, LostProcessError, first_line
from antiphase.runs.launch import Launch, launch

SILENT_SECONDS = "ANTIPHASE_SILENT_SECONDS"
_DEFAULT_SILENT_SECONDS = 300.0
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_PULSES = 1.0
_LONGEST_STEP = 10.0
_SECONDS_TO_CONNECT = 600.0
_SECONDS_OF_ONE_TRY = 5.0
_SECONDS_TO_LEAVE = 30.0
_SECONDS_TO_LEAVE_AFTER_ERROR = 5.0
_RUNS = itertools.count(1)


class Alone:
    """The team of a run that one process does alone.

    It has the methods of `Team`, so that a run needs no other code for a single process.
    """

    launch = Launch()

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Do nothing. `Team` tells the other processes how this process ended."""

    def add(self, counter: str, number: int = 1) -> int:
        """Add a number to a counter that all processes share, and return the sum. Counters begin at 0."""
        self._counts[counter] = self._counts.get(counter, 0) + number
        return self._counts[counter]

    def take(self, counter: str) -> int:
        """Return the next number of a counter that all processes share: 0, 1, 2, …; each number is returned once."""
        return self.add(counter) - 1

    def publish(self, name: str, value: Any) -> None:
        """Store a value that JSON can hold, for the other processes."""
        self._facts[name] = value

    def wait_for(self, name: str) -> Any:
        """Wait until a process has published a value, and return it.

        Raises:
            LostProcessError: another process has failed, does not answer, or cannot be reached.
        """
        return self._facts[name]

    def check(self) -> None:
        """Raise LostProcessError if another process has failed, does not answer, or cannot be reached."""

    def counted_elsewhere(self) -> float:
        """Return how much of the progress bar the other processes have finished, in units of the bar.

        This is the newest number that the processes have reported.
        """
        return 0.0

    def report(self, units: float) -> None:
        """Tell the other processes how many units of the progress bar this process has finished."""


class Team(Alone):
    """The processes that share one run.

    Args:
        launched: the place of this process among them.
        store: the key-value store that they share.
        silent_seconds: after how many seconds without a sign of life another process counts as lost.
    """

    def __init__(self, launched: Launch, store: Any, silent_seconds: float) -> None:
        self.launch, self._store, self._limit = launched, store, silent_seconds
        self._units, self._elsewhere = 0.0, 0.0
        # The last sign of life of each process, and the value of `_clock` at which it was new. The clock stands still
        # while this process is stopped, so that a pause of this process makes no other process look silent.
        self._seen: dict[int, tuple[str, float]] = {}
        self._clock, self._looked = 0.0, time.monotonic()
        self._broken: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="antiphase-pulse", daemon=True)
        self._beats = itertools.count()

    def __enter__(self) -> "Team":
        self._pulse()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Tell the other processes how this process ended.

        Process 0 may hold the store that the others use, so it waits a moment for them.
        """
        with contextlib.suppress(LostProcessError):
            # A process that ends because another one failed has nothing to add.
            told = isinstance(error, LostProcessError) and self._has("fact/failed")
            if error is not None and not told:
                # Of an interruption, only process 0 prints something.
                said = isinstance(error, Exception)
                text = first_line(error) if isinstance(error, Exception) else "interrupted"
                self.publish("failed", [self.launch.rank, this_host(), text, said])
            if self.launch.first and (error is None or isinstance(error, Exception)):
                self._wait_for_leaving(_SECONDS_TO_LEAVE if error is None else _SECONDS_TO_LEAVE_AFTER_ERROR)
        self._ended.set()
        self._thread.join(timeout=_SECONDS_TO_LEAVE_AFTER_ERROR)
        with contextlib.suppress(LostProcessError):
            self._pulse(left=True)

    def add(self, counter: str, number: int = 1) -> int:
        """Add a number to a counter of all processes; see `Alone.add`."""
        return int(self._asked(lambda: self._store.add(f"count/{counter}", number)))

    def publish(self, name: str, value: Any) -> None:
        """Store a value for the other processes; see `Alone.publish`."""
        self._asked(lambda: self._store.set(f"fact/{name}", json.dumps(value)))

    def wait_for(self, name: str) -> Any:
        """Wait for a value that a process publishes; see `Alone.wait_for`."""
        while not self._has(f"fact/{name}"):
            self.check()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return json.loads(self._asked(lambda: self._store.get(f"fact/{name}")))

    def check(self) -> None:
        """Raise LostProcessError if another process has failed or does not answer; see `Alone.check`."""
        if self._broken is not None:
            raise self._broken
        # A process publishes its failure before it leaves. So the signs of life are read before the failure is.
        seen, clock = self._seen.copy(), self._clock
        if self._has("fact/failed"):
            rank, host, text, said = json.loads(self._asked(lambda: self._store.get("fact/failed")))
            # Process 0 prints that it was interrupted.
            told = said or rank == 0
            raise LostProcessError(
                f"process {rank} of {self.launch.size} on {host} ended: {text}", told_on=host if told else None
            )
        for rank, (value, since) in seen.items():
            process = f"process {rank} of {self.launch.size} on {value.split()[2]}"
            if value.startswith("left"):
                if not self._has("fact/finished"):
                    raise LostProcessError(f"{process} has left before the run was finished.")
            elif clock - since > self._limit:
                raise LostProcessError(
                    f"{process} has given no sign of life for {self._limit:g} seconds, so it has probably been "
                    "killed. Its unfinished batch is lost."
                )

    def counted_elsewhere(self) -> float:
        """Return how much of the progress bar the other processes have finished; see `Alone.counted_elsewhere`."""
        return self._elsewhere

    def report(self, units: float) -> None:
        """Tell the other processes how much of the progress bar this process has finished; see `Alone.report`."""
        self._units = units

    def _has(self, key: str) -> bool:
        return bool(self._asked(lambda: self._store.check([key])))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        return asked(ask, self.launch)

    def _beat(self) -> None:
        """Show until the end of the run that this process is alive, and check that the other processes are alive."""
        while not self._ended.wait(_SECONDS_BETWEEN_PULSES):
            try:
                self._pulse()
                self._look()
            except LostProcessError as error:
                self._broken = error
                return

    def _pulse(self, *, left: bool = False) -> None:
        text = f"{'left' if left else next(self._beats)} {self._units} {this_host()}"
        self._asked(lambda: self._store.set(f"pulse/{self.launch.rank}", text))

    def _look(self) -> None:
        """Read the signs of life: process 0 reads those of all others, and the others read that of process 0."""
        units, now = 0.0, time.monotonic()
        self._clock += min(now - self._looked, _LONGEST_STEP)
        self._looked = now
        for rank in range(1, self.launch.size) if self.launch.first else (0,):
            # A process that has not come yet, or never comes, is not waited for. The others do its share.
            if rank in self._seen or self._has(f"pulse/{rank}"):
                value = self._asked(functools.partial(self._store.get, f"pulse/{rank}")).decode()
                if self._seen.get(rank, ("", 0.0))[0] != value:
                    self._seen[rank] = (value, self._clock)
                units += float(value.split()[1])
        self._elsewhere = units

    def _wait_for_leaving(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._look()
            if all(value.startswith("left") for value, _ in self._seen.copy().values()):
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def asked(ask: Callable[[], Any], launched: Launch) -> Any:
    """Call `ask`, which reads or writes the store of the processes, and return its result.

    Raises:
        LostProcessError: the store cannot be reached.
    """
    try:
        return ask()
    except RuntimeError as error:  # The errors of torch's stores derive from it.
        raise LostProcessError(
            f"the connection to process 0 of {launched.size} is lost, so it has probably ended "
            f"({first_line(error)[:100]})."
        ) from error


def this_host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def team_of(out: Path | None) -> Alone:
    """Return the team of a run: of this process alone, or of all processes that a launcher started with it.

    Args:
        out: the run folder. If it is None, the run writes no files, and each process works alone.

    Raises:
        InvalidInputError: the environment variables of the launcher are incomplete.
        LostProcessError: process 0 cannot be reached.
    """
    launched = launch()
    if not launched.several:
        return Alone()
    if out is None:
        warnings.warn(
            f"a launcher started {launched.size} processes, but no folder is given (out=None), so each process that "
            "makes this call does all of it alone. Name a folder with out, and the processes share the work.",
            stacklevel=5,
        )
        return Alone()
    text = os.environ.get(SILENT_SECONDS, str(_DEFAULT_SILENT_SECONDS))
    try:
        limit = float(text)
    except ValueError:
        raise InvalidInputError(f"{SILENT_SECONDS} must be a number of seconds; got {text!r}.") from None
    return Team(launched, prefixed(launched, f"run-{next(_RUNS)}"), limit)


def prefixed(launched: Launch, prefix: str) -> Any:
    """Return the key-value store that all processes share, limited to the keys with a prefix.

    Raises:
        LostProcessError: the store cannot be reached.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    # Two jobs on one machine may be given the same port by mistake. Then they do not read each other's facts.
    job = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID") or "0"
    return PrefixStore(f"antiphase/{job}/{launched.attempt}/{prefix}", connected(launched))


@functools.cache
def connected(launched: Launch) -> Any:
    """Connect to the key-value store of the launcher. If the launcher has none, process 0 holds the store.

    `torch.distributed.rendezvous` is not used. It waits until all processes have come, and a process that never comes
    would stop the others. A process that does not hold the store makes many short tries to connect, since Ctrl-C has
    no effect within one try.

    Raises:
        LostProcessError: the store cannot be reached.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    assert launched.address is not None
    host, port = launched.address
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    holds = launched.first and not of_launcher
    one_try = timedelta(seconds=_SECONDS_TO_CONNECT if holds else min(_SECONDS_OF_ONE_TRY, _SECONDS_TO_CONNECT))
    deadline = time.monotonic() + _SECONDS_TO_CONNECT
    while True:
        try:
            store = TCPStore(host, port, is_master=holds, timeout=one_try, wait_for_workers=False, multi_tenant=True)
        except RuntimeError as error:
            if not holds and time.monotonic() < deadline:
                continue
            raise LostProcessError(
                f"process {launched.rank} of {launched.size} cannot reach the other processes at {host}:{port} "
                f"({first_line(error)[:100]}). MASTER_ADDR and MASTER_PORT must name a free port of the machine of "
                "process 0.",
                unreachable=True,
            ) from error
        store.set_timeout(timedelta(seconds=_SECONDS_TO_CONNECT))
        return store
