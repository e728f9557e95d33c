"""What SIGTERM, an interrupt and kill -9 do to the processes of a sweep."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from antiphase.study.process_tree import Found, descendants
from antiphase.study.processes import Processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
SECONDS = 60
# Stands for `antiphase train`: it says that it runs, and at SIGTERM it takes a second and writes "saved". A second
# signal ends it at once, as it ends a training.
TRAINING = """\
import os, signal, sys, time
out = sys.argv[1]
def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(1)
    open(out, "a").write("saved " + os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open(out, "w").write(f"{os.getpid()}\\n")
time.sleep(600)
"""
# Launchers: both start the training in a session of its own. The first waits for it and does not pass SIGTERM on, as
# `accelerate launch` with one process. The second passes it on and waits, as torchrun.
DEAF = """\
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, *sys.argv[1:3]], start_new_session=True).wait())
"""
FAITHFUL = """\
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, *sys.argv[1:3]], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sys.exit(child.wait())
"""
SWEEP = """\
import sys
from pathlib import Path
from antiphase.study.launch import train_under
train_under(sys.argv[1], Path("recipe.yaml"))
"""


def wait_for(condition):
    deadline = time.time() + SECONDS
    while not condition():
        assert time.time() < deadline, "too slow"
        time.sleep(0.02)


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("launcher", [DEAF, FAITHFUL])
@pytest.mark.parametrize("seconds", [None, "7"])
def test_sigterm_reaches_a_launched_training_once(tmp_path, launcher, seconds):
    names = [tmp_path / name for name in ("launcher.py", "training.py", "out.txt")]
    names[0].write_text(launcher)
    names[1].write_text(TRAINING)
    command = " ".join([sys.executable, *map(str, names)])
    environment = {key: value for key, value in os.environ.items() if key != "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"}
    environment |= {} if seconds is None else {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": seconds}
    sweep = subprocess.Popen(
        [sys.executable, "-c", SWEEP, command], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: names[2].exists() and names[2].read_text().endswith("\n"))
    training = int(names[2].read_text())
    assert [len(generation) for generation in descendants(sweep.pid)] == [1, 1]
    sweep.terminate()
    _, error = sweep.communicate(timeout=SECONDS)
    # The sweep ends after the training, which had the time to save.
    assert names[2].read_text() == f"{training}\nsaved {seconds or 110}"
    assert not alive(training)
    assert error.rstrip().endswith("KeyboardInterrupt")


class SlowContext:
    """Starts processes as the real context does, but each takes a while to start, as a busy machine does."""

    def __init__(self, context, starting):
        self._context, self._starting = context, starting
        self.Pipe, self.made = context.Pipe, []

    def Process(self, **options):
        process = self._context.Process(**options)
        start = process.start

        def slowly():
            self._starting.set()
            time.sleep(1)
            start()

        process.start = slowly
        self.made.append(process)
        return process


def sleep_long(cell, out):
    time.sleep(SECONDS)


def test_a_process_that_starts_during_an_interrupt_is_ended(tmp_path):
    starting = threading.Event()
    began = time.time()
    processes = Processes(1)
    processes._context = context = SlowContext(multiprocessing.get_context("fork"), starting)
    processes.start(sleep_long, (SimpleNamespace(name="cell"), tmp_path), {})
    assert starting.wait(SECONDS)
    processes.__exit__(KeyboardInterrupt)
    assert time.time() - began < SECONDS / 2
    assert [process.exitcode for process in context.made] == [-signal.SIGTERM]


def test_another_process_of_the_same_number_is_not_meant():
    found = descendants(os.getppid())[0]
    assert os.getpid() in [one.number for one in found]
    me = next(one for one in found if one.number == os.getpid())
    assert me.runs()
    assert not Found(me.number, me.began - 1).runs()


CALLER = """\
import sys
from pathlib import Path
from types import SimpleNamespace
from antiphase.study.processes import Processes
import launched
if __name__ == "__main__":
    with Processes(1) as processes:
        processes.start(launched.call, (SimpleNamespace(name="cell"), Path(sys.argv[1])), {}).result()
"""
LAUNCHED = """\
import subprocess, sys
def call(cell, out):
    subprocess.run([sys.executable, str(out / "training.py"), str(out / "out.txt")], start_new_session=True)
"""


def test_kill_9_ends_workers_in_sessions_of_their_own(tmp_path):
    for name, text in (("caller.py", CALLER), ("launched.py", LAUNCHED), ("training.py", TRAINING)):
        (tmp_path / name).write_text(text)
    sweep = subprocess.Popen([sys.executable, str(tmp_path / "caller.py"), str(tmp_path)])
    out = tmp_path / "out.txt"
    wait_for(lambda: out.exists() and out.read_text().endswith("\n"))
    training = int(out.read_text())
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    wait_for(lambda: not alive(training))
    assert "saved" not in out.read_text()
