"""Several processes share the cells of one study: two sweeps at once, kill -9, and the scripts for bash and Slurm."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from test_study import COPY, content

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.runs import folder_lock
from antiphase.runs.folder_lock import InUseError, holder, locked
from antiphase.study.definition import read_study
from antiphase.study.records import done_cells
from antiphase.study.scripts import Commands
from antiphase.study.sweep import sweep

# Every run of this command leaves a line, so that the test can count them.
MAKE = f"open({{log!r}}, 'a').write('made\\n'); {COPY}"
SECONDS = 300
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture(scope="module")
def study(model_dir, tmp_path_factory):
    """A study of four cells that are only evaluated, and its results. A command makes a model that two cells share."""
    folder = tmp_path_factory.mktemp("shared")
    make = ["python", "-c", MAKE.format(log=str(folder / "made.txt")), str(model_dir), "{out}"]
    models = {"made": {"make": make, "methods": []}, "given": {"path": str(model_dir), "methods": []}}
    evaluation = {**content(model_dir)["eval"], "num_problems": 4, "batch_size": 2}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content(model_dir, models=models, eval=evaluation, compare={})))
    result = sweep(path, folder / "alone", say=lambda _: None)
    assert (result.num_cells, result.num_done, result.failed) == (4, 4, {})
    (folder / "made.txt").unlink()
    return path


def words(path, out, *more):
    return [sys.executable, "-m", "antiphase", "sweep", str(path), "--out", str(out), *more]


def begin(path, out, *more):
    """Start a sweep in a process of its own."""
    return subprocess.Popen(words(path, out, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition):
    deadline = time.time() + SECONDS
    while not condition():
        assert time.time() < deadline, "too slow"
        time.sleep(0.01)


def records(path, out):
    """The records of all cells without the times, and without the commit, which may change while the tests run."""
    lines = (out / "cells.jsonl").read_text().splitlines()
    assert [json.loads(line)["cell"] for line in lines] == [cell.name for cell in read_study(path).cells]
    return [
        {key: value for key, value in json.loads(line).items() if key not in ("seconds", "commit")} for line in lines
    ]


def check_equal(path, out):
    """The results in `out` are those of one sweep that nobody disturbed."""
    alone = path.parent / "alone"
    assert records(path, out) == records(path, alone)
    found, wanted = ((folder / "report.md").read_text().splitlines() for folder in (out, alone))
    varying = ("own time", "Run by the code of")
    found, wanted = ([line for line in lines if not any(map(line.__contains__, varying))] for lines in (found, wanted))
    assert found == wanted
    assert not (out / "cells").exists()
    assert not [entry for entry in (out / "work").iterdir() if entry.is_dir()]


def times_made(path):
    text = (path.parent / "made.txt").read_text()
    (path.parent / "made.txt").unlink()
    return text.count("made")


def ran_by(text):
    """The cells that a sweep ran itself, from its printed lines."""
    return re.findall(r"^cell \d/\d (\S+): done \(", text, re.MULTILINE)


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_cells(study, tmp_path):
    out = tmp_path / "out"
    both = [begin(study, out) for _ in range(2)]
    texts = [process.communicate(timeout=SECONDS)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    ran = [ran_by(text) for text in texts]
    assert sorted(ran[0] + ran[1]) == sorted(cell.name for cell in read_study(study).cells)
    assert times_made(study) == 1
    check_equal(study, out)
    report = (out / "report.md").read_text().strip()
    assert all(report in text for text in texts)


@pytest.mark.slow
def test_kill_9_of_one_of_two_sweeps(study, tmp_path):
    out = tmp_path / "out"
    first = begin(study, out)
    wait_for(lambda: list(out.glob("work/*/eval/parts/*/*.parquet")))
    second = begin(study, out)
    wait_for(lambda: len(list(out.glob("work/*.lock"))) == 2 or len(list(out.glob("cells/*.json"))) >= 2)
    early = {file.stem for file in out.glob("cells/*.json")}
    assert len(early) < 4
    first.send_signal(signal.SIGKILL)
    first.communicate()
    text, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, text
    assert ran_by(text)
    check_equal(study, out)
    assert times_made(study) == 1


def test_a_killed_cell_is_free_again(study, tmp_path):
    out, name = tmp_path / "out", "given.all.base.s0"
    killed = begin(study, out, "--cell", name)
    wait_for(lambda: list(out.glob(f"work/{name}/eval/parts/*/*.parquet")))
    killed.send_signal(signal.SIGSTOP)  # On a fast machine, the cell would end before it is asked for again.
    assert f"process {killed.pid} on" in holder(out / "work" / f"{name}.lock")
    with pytest.raises(InUseError, match=rf"the cell {re.escape(name)} is being run by process {killed.pid} on"):
        sweep(study, out, cells=[name])
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = {file: file.stat().st_mtime_ns for file in out.glob(f"work/{name}/eval/parts/*/*.parquet")}
    assert kept
    result = sweep(study, out, say=lambda _: None)
    assert (result.num_done, result.failed) == (4, {})
    check_equal(study, out)
    times_made(study)


def test_no_tables_while_another_process_runs_a_cell(study, tmp_path):
    out, name, said, results = tmp_path / "out", "given.all.base.s1", [], []
    lock = out / "work" / f"{name}.lock"
    lock.parent.mkdir(parents=True)
    with locked(lock, "a cell of the test"):
        thread = threading.Thread(target=lambda: results.append(sweep(study, out, say=said.append)))
        thread.start()
        wait_for(lambda: any(line.startswith("waiting for the cell") for line in said))
        time.sleep(3)
        assert f"{name}, which process {os.getpid()} on" in said[-1]
        assert not (out / "report.md").exists()
        assert not (out / "cells.jsonl").exists()
        assert len(list(out.glob("cells/*.json"))) == 3
    thread.join(SECONDS)
    assert results[0].num_done == 4
    assert said[-1].startswith(f"cell 4/4 {name}: done (")
    check_equal(study, out)
    times_made(study)


def test_two_that_end_together_make_the_tables_once(study, tmp_path, monkeypatch):
    """The second comes to its end while the first makes the tables. It waits, and reads the report of the first."""
    import antiphase.study.study_report
    import antiphase.study.sweep as module

    original, calls = antiphase.study.study_report.write_report, []
    monkeypatch.setattr(
        "antiphase.study.study_report.write_report", lambda *a: (calls.append(1), time.sleep(1), original(*a))[2]
    )
    out = tmp_path / "out"
    sweep(study, out, cells=[cell.name for cell in read_study(study).cells], say=lambda _: None)
    times_made(study)
    found = read_study(study)
    results = []
    threads = [threading.Thread(target=lambda: results.append(module._finish(found, out, {}, 0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert results[0].report == results[1].report == (out / "report.md").read_text()
    check_equal(study, out)


@pytest.mark.slow
def test_the_shell_script(study, tmp_path, capsys):
    out, script = tmp_path / "out dir", tmp_path / "run.sh"
    assert main(words(study, out, "--print-commands", "shell", "--jobs", "2")[3:]) == 0
    script.write_text(capsys.readouterr().out)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"^done: (\S+)$", done.stdout, re.MULTILINE)) == sorted(
        cell.name for cell in read_study(study).cells
    )
    assert (out / "report.md").read_text().strip() in done.stdout
    assert times_made(study) == 1
    check_equal(study, out)
    assert main(words(study, out, "--print-commands", "shell")[3:]) == 2
    assert "are done. Make the tables with --tables" in capsys.readouterr().err


# Stands for the command of Python in a script: one cell fails, one is interrupted, and the others succeed.
FAKE = """\
#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in *broken*) exit 2 ;; *stopped*) exit 130 ;; *--dry-run*) exit "${DRY:-0}" ;; esac
"""


@pytest.mark.parametrize(
    ("cells", "dry", "status", "called"),
    [
        # A cell that fails stops no other, and the tables are made. The status tells of the failure.
        (("broken", "b", "c"), 0, 123, ["--dry-run", "--cell broken", "--cell b", "--cell c", "--tables"]),
        # After an interruption no further cell begins, and no tables are made.
        (("a", "stopped", "c"), 0, 124, ["--dry-run", "--cell a", "--cell stopped"]),
        # Nothing begins if the study is refused.
        (("a", "b"), 2, 2, ["--dry-run"]),
    ],
)
def test_the_shell_script_at_errors(tmp_path, monkeypatch, cells, dry, status, called):
    python, calls = tmp_path / "python", tmp_path / "calls.txt"
    python.write_text(FAKE)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    text = Commands("it's mine", tmp_path / "a.yaml", tmp_path / "out", cells).texts("shell")[0]
    environment = {**os.environ, "CALLS": str(calls), "DRY": str(dry)}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stderr
    begins = f"-m antiphase sweep {tmp_path / 'a.yaml'} --out {tmp_path / 'out'} "
    assert calls.read_text().splitlines() == [begins + words for words in called]
    for word, name in (("FAILED", "broken"), ("interrupted", "stopped")):
        assert (f"{word}: {name}" in done.stderr) == (f"--cell {name}" in called)


# A stand-in for Slurm's sbatch. It runs the jobs of an array at once, two at a time and in random order. The job of
# index 1 is killed in the middle and put back into the queue. The job of index 2 runs twice at the same time.
SBATCH = r"""#!/usr/bin/env bash
printf '%q ' "$@" >>"$FAKE/calls.txt"; echo >>"$FAKE/calls.txt"
file=${!#}
if [[ " $* " == *" --wrap "* ]]; then
  [[ " $* " == *" --dependency=afterany:71 "* ]] || exit 1
  sh -c "$file" >"$FAKE/tables.txt" 2>&1 || exit
  echo "72;cluster"; exit
fi
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$file")
one() { SLURM_ARRAY_TASK_ID=$1 bash "$file" >>"$FAKE/$2.txt" 2>&1; }
killed() {
  SLURM_ARRAY_TASK_ID=1 setsid bash "$file" >>"$FAKE/killed.txt" 2>&1 & pid=$!
  until compgen -G "$OUT/work/$VICTIM/eval/parts/*/*.parquet" >/dev/null; do
    kill -0 $pid || exit 1; sleep 0.02
  done
  kill -9 -- -$pid; wait $pid
  echo $? >"$FAKE/status.txt"
}
killed
for index in $(shuf -i 0-"$last") 2; do echo "$index $((++number))"; done >"$FAKE/queue.txt"
export -f one; export file
xargs -n 2 -P 2 bash -c 'one "$0" "job-$0-$1" || echo "$0" >>"$FAKE/failed.txt"' <"$FAKE/queue.txt"
echo "71;cluster"
"""


@pytest.mark.slow
def test_the_slurm_array(study, tmp_path, capsys):
    out, fake, script = tmp_path / "out", tmp_path / "fake", tmp_path / "array.sh"
    fake.mkdir()
    (fake / "sbatch").write_text(SBATCH)
    (fake / "sbatch").chmod(0o755)
    sbatch = "--sbatch=--gpus=1 --account mine --time=1:00:00"
    assert main([*words(study, out, "--print-commands", "slurm", "--jobs", "3")[3:], sbatch]) == 0
    script.write_text(capsys.readouterr().out)
    header = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --array=0-3%3" in header
    assert {"#SBATCH --requeue", "#SBATCH --gpus=1", "#SBATCH --account mine"} <= set(header)
    victim = read_study(study).cells[1].name
    environment = {
        **os.environ, "FAKE": str(fake), "OUT": str(out), "VICTIM": victim, "PATH": f"{fake}:{os.environ['PATH']}"
    }  # fmt: skip
    done = subprocess.run(
        ["bash", script.name], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "job 71 runs the cells, and job 72 makes the tables" in done.stdout
    assert (fake / "status.txt").read_text().strip() == "137"
    first, second = (shlex.split(line) for line in (fake / "calls.txt").read_text().splitlines())
    assert first == ["--parsable", str(script)]
    assert second[second.index("--account") + 1] == "mine"
    assert "--gpus=1" not in second
    # A job that runs a cell that another job is just running says so. Slurm shows it as failed, and nothing is lost.
    if (fake / "failed.txt").exists():
        assert (fake / "failed.txt").read_text().split() == ["2"]
        assert any("is being run by process" in file.read_text() for file in fake.glob("job-2-*.txt"))
    assert (out / "report.md").read_text().strip() in (fake / "tables.txt").read_text()
    assert times_made(study) == 1
    check_equal(study, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"commands": "slrum"}, "got 'slrum'. Did you mean 'slurm'?"),
        ({"commands": "shell", "sbatch": "--gpus=1"}, "needs --print-commands slurm"),
        ({"sbatch": "--gpus=1"}, "needs --print-commands slurm"),
        ({"commands": "slurm", "sbatch": "gpus=1"}, "takes options, such as '--gpus=1 --time=4:00:00'; got 'gpus=1'"),
        ({"commands": "slurm", "sbatch": "--gpus '"}, "cannot be split into words"),
        ({"commands": "slurm", "sbatch": "--time=1 --array=0-9"}, "the script itself sets --array"),
        ({"commands": "slurm", "sbatch": "-o here"}, "the script itself sets -o"),
        ({"tables": True}, "--tables finds no done cell"),
    ],
)
def test_refusals(study, tmp_path, options, message):
    with pytest.raises(InvalidInputError) as caught:
        sweep(study, tmp_path / "out", say=lambda _: None, **options)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_tables_alone(study, tmp_path):
    out = tmp_path / "out"
    sweep(study, out, cells=["given.all.base.s0"], say=lambda _: None)
    said = []
    result = sweep(study, out, tables=True, say=said.append)
    assert said == []
    assert result.num_done == 1
    assert "**Not done: 3 cells**" in (out / "report.md").read_text()
    with pytest.raises(InvalidInputError, match="leave out --cell"):
        sweep(study, out, tables=True, cells=["given.all.base.s1"])


def test_a_file_system_without_locks(study, tmp_path, monkeypatch):
    """A sweep goes on with a warning. Then nothing stops a second one from running the same cells."""

    def refuse(_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock, "_lock", refuse)
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="cannot be locked .*so nothing stops another process from writing"):
        result = sweep(study, out, cells=["given.all.base.s0"], say=lambda _: None)
    assert result.failed == {}
    assert set(done_cells(out, read_study(study))) == {"given.all.base.s0"}


def test_records_are_found_while_they_are_packed(study, tmp_path):
    """A process that looks for done cells sees all of them at every moment of the packing of another process."""
    from antiphase.study.store import pack

    found = read_study(study)
    out, missing, stop = tmp_path / "out", [], threading.Event()
    sweep(study, out, cells=[cell.name for cell in found.cells], say=lambda _: None)
    times_made(study)

    def look():
        while not stop.is_set():
            missing.append(4 - len(done_cells(out, found)))

    thread = threading.Thread(target=look)
    thread.start()
    time.sleep(0.1)
    pack(out, found)
    time.sleep(0.1)
    stop.set()
    thread.join()
    assert set(missing) == {0}
