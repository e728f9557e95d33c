"""Let only one process at a time write to a folder, by a lock on the file `.lock` in the folder.

The operating system holds the lock and releases it when the process ends, even by kill -9. So a file `.lock` that a
killed process left behind blocks nobody. The file says which process holds the lock. It is removed when that process
has finished.

Some folders cannot be locked, for example on a network file system without locks. A warning says this, and the process
goes on without a lock.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from antiphase.errors import InvalidInputError

LOCK = ".lock"


class InUseError(InvalidInputError):
    """Another process holds a lock. The message names the process, if the file of the lock does."""


# The errors of a lock that another process holds. Any other error means that the file cannot be locked at all.
_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_SECONDS_BETWEEN_TRIES = 0.2
# The open files of the locks that this process holds. A forked process would hold them too, even after this process
# has ended, so it closes its copies.
_HELD_HERE: set[int] = set()


def _close_copies() -> None:
    for file in _HELD_HERE:
        with contextlib.suppress(OSError):
            os.close(file)
    _HELD_HERE.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)

if sys.platform == "win32":
    import msvcrt

    # Windows lets nobody read a locked byte, so the byte that is locked lies far behind the text of the file.
    _BYTE = 1 << 30

    def _lock(file: int) -> None:
        os.lseek(file, _BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        os.lseek(file, _BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder during a `with` block. The folder is made if it does not exist.

    At the end, a folder that was made here and is still empty is removed.

    Raises:
        InUseError: another process holds the lock. The message names the folder and the process.
    """
    made = not folder.exists()
    with contextlib.suppress(OSError):  # What writes to the folder in the block will explain why it cannot.
        folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder / LOCK, f"{str(folder)!r} is in use") if folder.is_dir() else contextlib.nullcontext()
    try:
        with lock:
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # The folder is not empty.
                folder.rmdir()


def check_unused(folder: Path) -> None:
    """Raise an error if another process writes to a folder now. Nothing is written.

    Raises:
        InUseError: another process holds the folder's lock. The message names the folder and the process.
    """
    found = holder(folder / LOCK)
    if found is not None:
        raise _in_use(f"{str(folder)!r} is in use", found)


def holder(path: Path, *, tries: int = 3) -> str | None:
    """Return which process holds the lock of a file now, such as `process 12 on node7 since …`. Nothing is written.

    Args:
        path: the file.
        tries: how often the lock is tried, with 0.2 s between two tries. A process that looks at a free lock holds it
            for a moment. So with a single try, the answer may name another process that only looks.

    Returns:
        the process; None if no process holds the lock, or if the file cannot be locked at all.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None  # Nobody has locked the file, or it cannot be read.
    try:
        for left in reversed(range(tries)):
            try:
                _lock(file)
                _unlock(file)
                return None
            except OSError as error:
                if error.errno not in _HELD:
                    return None
            if left:
                time.sleep(_SECONDS_BETWEEN_TRIES)
        return _named(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file during a `with` block. The file is made, and it is removed at the end.

    Args:
        path: the file.
        what: the beginning of the error message, which says what is locked, such as `'runs/mine' is in use`.
        wait: whether to wait while another process holds the lock. If not, an error is raised.

    Raises:
        InUseError: another process holds the lock, and `wait` is not set. The message names the process.
    """
    file = None
    try:
        file = _locked_file(path, what, wait=wait)
    except OSError as error:
        warnings.warn(
            f"{path} cannot be locked ({error.strerror or error}), so nothing stops another process from writing to "
            f"{str(path.parent)!r} at the same time.",
            stacklevel=4,
        )
    owner = os.getpid()
    if file is not None:
        _HELD_HERE.add(file)
    try:
        yield
    finally:
        # A forked process does not hold the lock, and must not remove its file.
        if file is not None and os.getpid() == owner:
            _HELD_HERE.discard(file)
            _release(file, path)


def _locked_file(path: Path, what: str, *, wait: bool) -> int:
    """Open and lock a file, write into it which process holds the lock, and return its descriptor."""
    tried = False
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(file)
            if _is_at(file, path):
                with contextlib.suppress(OSError):  # On a full disk, the lock has no text.
                    os.ftruncate(file, 0)
                    os.lseek(file, 0, os.SEEK_SET)
                    os.write(file, json.dumps(_this_process()).encode())
                return file
        except OSError as error:
            if error.errno not in _HELD:
                os.close(file)
                raise
            # The second try decides, because `check_unused` of another process holds a free lock for a moment.
            if tried and not wait:
                try:
                    raise _in_use(what, _named(file)) from None
                finally:
                    os.close(file)
        os.close(file)
        tried = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file is still the file at this path.

    The process that held the lock before may have removed the file.
    """
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _release(file: int, path: Path) -> None:
    """Remove the file of a lock, and release the lock."""
    if sys.platform == "win32":  # Windows removes no file that is open.
        _unlock(file)
        os.close(file)
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        # The file is removed while it is locked. So no process can lock it and then lose it to this removal.
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            _unlock(file)
        os.close(file)


def _this_process() -> dict[str, str | int]:
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": began}


def _named(file: int) -> str:
    """Return a text that names the process that holds the lock of an open file.

    The name is read from the file. If the file does not tell it, the text is `another process`.
    """
    try:
        os.lseek(file, 0, os.SEEK_SET)
        facts = json.loads(os.read(file, 10_000))
        return f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _in_use(what: str, process: str) -> InUseError:
    """Return the error that says that a lock is held.

    `what` is the beginning of the error's message, and `process` names the process that holds the lock.
    """
    return InUseError(f"{what} by {process}. Wait until this process has ended, or choose another --out.")
