"""One process at a time writes to a folder: the second is refused at once, and kill -9 frees the folder."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.runs import folder_lock
from antiphase.runs.folder_kinds import is_free
from antiphase.runs.folder_lock import LOCK, check_unused, locked, only_writer

# What each process of a training on two devices says about a free folder and about a folder that is in use.
TRAINING = """
import json, os, sys
from pathlib import Path
from accelerate import PartialState
from antiphase.errors import InvalidInputError
from antiphase.training.training_folder import held_by_main
state = PartialState(cpu=True)  # as the options of a training make it
free, used = map(Path, sys.argv[1:])
with held_by_main(free):
    said = [json.loads((free / ".lock").read_text())["pid"]]
    state.wait_for_everyone()
try:
    with held_by_main(used):
        said.append("not refused")
except InvalidInputError as error:
    said.append(str(error))
(free.parent / f"rank{os.environ['RANK']}.json").write_text(json.dumps([os.getpid(), *said]))
"""
HOLD = """
import sys, time
from pathlib import Path
from antiphase.runs.folder_lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# Adds 1 to a number in a file many times. Without a lock, additions of other processes are lost.
ADD = """
import sys
from pathlib import Path
from antiphase.runs.folder_lock import locked
number = Path(sys.argv[1])
for _ in range(40):
    with locked(number.with_name("number.lock"), "the number is in use", wait=True):
        number.write_text(str(int(number.read_text()) + 1))
"""


@contextlib.contextmanager
def another_process(folder):
    """Another process that writes to the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_is_told_the_folder_and_the_process(tmp_path) -> None:
    folder = tmp_path / "run"
    with another_process(folder) as process:
        expected = (
            rf"{re.escape(repr(str(folder)))} is in use by process {process.pid} on \S+ since 20\S+\. Wait until"
        )
        with pytest.raises(InvalidInputError, match=expected), only_writer(folder):
            pytest.fail("two processes write to one folder")
        with pytest.raises(InvalidInputError, match=expected):
            check_unused(folder)


def test_a_lock_that_a_killed_process_left_blocks_nobody(tmp_path) -> None:
    folder = tmp_path / "run"
    with another_process(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / LOCK).is_file()
        assert is_free(folder)
        check_unused(folder)
        with only_writer(folder):
            assert f'"pid": {os.getpid()},' in (folder / LOCK).read_text()
    assert not (folder / LOCK).exists()


def test_nothing_is_left_of_a_folder_that_nothing_was_written_to(tmp_path) -> None:
    with only_writer(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with only_writer(tmp_path / "old"):
        pass
    assert list((tmp_path / "old").iterdir()) == []
    with only_writer(tmp_path / "used"):
        (tmp_path / "used" / "file").touch()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]


def test_two_threads_are_two_writers(tmp_path) -> None:
    refused = []

    def second() -> None:
        try:
            with only_writer(tmp_path):
                pass
        except InvalidInputError as error:
            refused.append(str(error))

    with only_writer(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"in use by process {os.getpid()} on" in refused[0]


def test_a_forked_process_does_not_release_the_lock(tmp_path) -> None:
    code = f"""
import os
from pathlib import Path
from antiphase.runs.folder_lock import only_writer
with only_writer(Path({str(tmp_path)!r})):
    child = os.fork()
    if not child:
        raise SystemExit  # leaves the block in the child too
    os.waitpid(child, 0)
    print("held", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InvalidInputError, match=f"in use by process {process.pid} on"):
        check_unused(tmp_path)
    process.communicate("\n")
    assert process.returncode == 0
    check_unused(tmp_path)


def test_many_processes_in_turn_lose_no_addition(tmp_path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", ADD, str(number)]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert number.read_text() == "160"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, number) -> None:
    def no_lock(file) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock, "_lock", no_lock)
    written = []
    with pytest.warns(UserWarning, match=rf"cannot be locked \({os.strerror(number)}\)"), only_writer(tmp_path):
        written.append(1)
    assert written == [1]
    check_unused(tmp_path)


def test_a_folder_in_which_no_lock_can_be_made_gives_a_warning(tmp_path, monkeypatch) -> None:
    def read_only(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(folder_lock.os, "open", read_only)
    with pytest.warns(UserWarning, match="Read-only file system"), only_writer(tmp_path):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize(
    "command",
    [
        ("probe", "MODEL"),
        ("eval", "MODEL", "--tasks", "digit_sum"),
        ("train", "--model", "MODEL", "--tasks", "digit_sum"),
    ],
)
def test_every_command_is_refused_at_once(model_dir, tmp_path, capsys, command, resume) -> None:
    folder = tmp_path / "run"
    words = [str(model_dir) if word == "MODEL" else word for word in command]
    with another_process(folder) as process:
        assert main([*words, "--out", str(folder), *resume]) == 2
        assert f"in use by process {process.pid} on" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == [LOCK]


def test_only_the_main_process_of_a_training_locks(tmp_path, monkeypatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    from antiphase.training.training_folder import held_by_main

    with held_by_main(tmp_path):
        assert (tmp_path / LOCK).is_file()
    with another_process(tmp_path):
        with pytest.raises(InvalidInputError, match="in use by process"), held_by_main(tmp_path):
            pytest.fail("two trainings write to one folder")
        monkeypatch.setattr(accelerate.PartialState, "is_main_process", False)
        with held_by_main(tmp_path):
            pass


def test_both_processes_of_a_training_are_refused(tmp_path) -> None:
    pytest.importorskip("trl")
    script = tmp_path / "script.py"
    script.write_text(TRAINING)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with another_process(tmp_path / "used") as process:
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script),
                str(tmp_path / "free"), str(tmp_path / "used"),
            ],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (main_pid, *said), (_, *also_said) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert said == also_said
    assert said[0] == main_pid
    assert f"in use by process {process.pid} on" in said[1]


def test_the_message_needs_no_facts(tmp_path) -> None:
    path = Path(tmp_path / "some.lock")
    with locked(path, "the thing is in use"):
        path.write_text("no facts")
        with (
            pytest.raises(InvalidInputError, match="the thing is in use by another process"),
            locked(path, "the thing is in use"),
        ):
            pytest.fail("two hold one lock")
