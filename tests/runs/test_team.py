"""What the processes of one launcher know of each other: their places, devices, facts, errors and signs of life."""

import time

import pytest
import torch
from torch.distributed import HashStore

import antiphase
from antiphase.errors import InvalidInputError, LostProcessError
from antiphase.evaluation.evaluate import num_verifiers
from antiphase.progress import Progress
from antiphase.runs import placing
from antiphase.runs.launch import Launch, launch
from antiphase.runs.placing import own_device
from antiphase.runs.team import Alone, Team, prefixed, team_of
from antiphase.runs.voices import spoken

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip


def test_places_of_launchers() -> None:
    assert launch(TORCHRUN) == Launch(5, 8, 1, 4, ("node0", 29500), "2")
    assert launch({}) == launch({"RANK": "0", "WORLD_SIZE": "1"}) == launch({"WORLD_SIZE": "4"}) == Launch()
    slurm = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert launch({**slurm, "SLURM_LOCALID": "3"}).local_rank == 3
    for missing in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        with pytest.raises(InvalidInputError, match=f"{missing} is not set"):
            launch({name: value for name, value in TORCHRUN.items() if name != missing})
    with pytest.raises(InvalidInputError, match="MASTER_PORT must be a whole number; got 'x'"):
        launch({**TORCHRUN, "MASTER_PORT": "x"})


def test_restarts_on_several_machines_are_refused() -> None:
    again = {**TORCHRUN, "TORCHELASTIC_MAX_RESTARTS": "3"}
    with pytest.raises(
        InvalidInputError, match=r"--max-restarts 3 works on one machine only, but there are 2 machines\. .*--resume"
    ):
        launch({**again, "GROUP_WORLD_SIZE": "2"})
    assert launch({**again, "GROUP_WORLD_SIZE": "1"}).size == 8
    assert launch({**TORCHRUN, "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "0"}).size == 8


class Devices:
    """Stands for torch.cuda on a machine with some GPUs."""

    def __init__(self, number: int) -> None:
        self.number, self.current = number, None

    def device_count(self) -> int:
        return self.number

    def set_device(self, index: int) -> None:
        self.current = index


def test_each_process_has_a_device_of_its_own(monkeypatch) -> None:
    four = Devices(4)
    monkeypatch.setattr(placing, "resolve_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(torch, "get_device_module", lambda _: four)
    place = launch(TORCHRUN)
    assert own_device("auto", place) == own_device("cuda", place) == "cuda:1"
    assert four.current == 1
    assert own_device("cpu", place) == "cpu"
    assert own_device("cuda:3", Launch()) == "cuda:3"
    assert own_device("auto", Launch()) == "auto"
    with pytest.raises(InvalidInputError, match="'cuda:1' is one device, but 4 processes"):
        own_device("cuda:1", place)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    four.number = 1
    with pytest.raises(InvalidInputError, match="4 processes and 1 devices"):
        own_device("auto", place)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "3")  # The launcher hides the devices of the others.
    assert own_device("auto", place) == "cuda:0"
    four.number = 2
    with pytest.raises(InvalidInputError, match="4 processes and 2 devices"):
        own_device("auto", Launch(3, 4, 3, 4))


def test_processes_of_a_machine_share_its_cores(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert [num_verifiers(Launch(0, n, 0, n)) for n in (1, 2, 3, 4, 8)] == [None, 2, 2, 1, 1]


def two(limit: float = 60.0) -> tuple[Team, Team]:
    store = HashStore()
    return tuple(Team(Launch(rank, 2, rank, 2), store, limit) for rank in (0, 1))


def test_numbers_and_facts_are_shared() -> None:
    first, second = two()
    taken = [team.take("batch") for team in (first, second, second, first)]
    assert taken == [0, 1, 2, 3]
    first.publish("plan", {"full": 3})
    assert second.wait_for("plan") == {"full": 3}
    alone = Alone()
    assert [alone.take("batch") for _ in range(2)] == [0, 1]


def test_a_failure_reaches_who_waits() -> None:
    first, second = two()
    with pytest.raises(ValueError, match="the disk is full"), first, second:
        raise ValueError("the disk is full")
    with pytest.raises(LostProcessError, match=r"process . of 2 on .* ended: the disk is full"):
        second.wait_for("begun")


def test_a_silent_process_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr("antiphase.runs.team._SECONDS_BETWEEN_PULSES", 0.02)
    monkeypatch.setattr("antiphase.runs.team._SECONDS_TO_LEAVE", 0.1)
    first, second = two(limit=0.3)
    second._pulse()  # The other one came, and then nothing more is heard of it.
    with first:
        time.sleep(1.0)
        with pytest.raises(LostProcessError, match=r"process 1 of 2 on .* no sign of life for 0\.3 seconds"):
            first.check()


def test_a_loss_that_a_process_finds_reaches_the_others(monkeypatch) -> None:
    """Process 0 misses one process and goes on with its script. The third process does not wait for ever."""
    monkeypatch.setattr("antiphase.runs.team._SECONDS_TO_LEAVE_AFTER_ERROR", 0.1)
    store = HashStore()
    first, second, third = (Team(Launch(rank, 3, rank, 3), store, 0.0) for rank in range(3))
    with pytest.raises(LostProcessError, match=r"process 1 of 3 on .* no sign of life"), first:  # noqa: PT012
        second._pulse()
        first._look()
        time.sleep(0.01)
        first._look()
        first.check()
    # The process that relays the error leaves the first text in its place.
    for _ in range(2):
        with pytest.raises(LostProcessError, match=r"process 0 of 3 on .* ended: process 1 of 3"), third:
            third.wait_for("finished")
        third = Team(Launch(2, 3, 2, 3), store, 60.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_leaves_early_is_lost(rank) -> None:
    teams = two()
    teams[rank]._pulse(left=True)
    other = teams[1 - rank]
    other._look()
    with pytest.raises(LostProcessError, match=f"process {rank} of 2 on .* has left before the run was finished"):
        other.check()
    teams[0].publish("finished", True)
    other.check()


class Growing(dict):
    """Stands for the signs of life while the other thread adds a process that has just come."""

    def items(self):
        for item in super().items():
            self[max(self) + 1] = self[max(self)]
            yield item

    def values(self):
        return (value for _, value in self.items())


def test_a_process_may_come_while_the_signs_of_life_are_read() -> None:
    first, second = two()
    second._pulse(left=True)
    first._seen = Growing({1: ("left 0.0 node1", 0.0)})
    first.publish("finished", True)
    first.check()
    first._wait_for_leaving(1.0)


def test_a_pause_of_this_process_accuses_nobody(monkeypatch) -> None:
    first, second = two(limit=300.0)
    now = time.monotonic()
    first._pulse()
    second._look()
    monkeypatch.setattr("antiphase.runs.team.time.monotonic", lambda: now + 4000.0)
    second.check()  # The main thread wakes up before the other one has looked.
    second._look()  # Process 0 was stopped too, and has given no new sign yet.
    second.check()
    for later in range(4001, 4400):
        monkeypatch.setattr("antiphase.runs.team.time.monotonic", lambda later=later: now + later)
        second._look()
    with pytest.raises(LostProcessError, match=r"process 0 of 2 on .* no sign of life for 300 seconds"):
        second.check()


def test_process_0_that_never_starts_is_tried_again_and_told_at_once(monkeypatch) -> None:
    """Between two tries, Python can see Ctrl-C. The error is then printed without one more connection."""
    monkeypatch.setattr("antiphase.runs.team._SECONDS_TO_CONNECT", 2.0)
    monkeypatch.setattr("antiphase.runs.team._SECONDS_OF_ONE_TRY", 0.5)
    tries = []

    def store(*arguments, timeout, **options):
        tries.append(timeout.total_seconds())
        time.sleep(timeout.total_seconds())
        raise RuntimeError("connection refused")

    monkeypatch.setattr("torch.distributed.TCPStore", store)
    place = Launch(1, 2, 1, 2, ("127.0.0.1", 1))
    with pytest.raises(LostProcessError, match=r"process 1 of 2 cannot reach .* at 127\.0\.0\.1:1") as found:
        prefixed(place, "run-1")
    assert tries == [0.5] * 4
    assert spoken(found.value, place) == str(found.value)
    assert len(tries) == 4


def test_two_jobs_at_one_port_do_not_mix(monkeypatch) -> None:
    store = HashStore()
    monkeypatch.setattr("antiphase.runs.team.connected", lambda launched: store)
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(variable, "17")
        prefixed(Launch(0, 2), "run-1").set("fact/begun", "of 17")
        assert prefixed(Launch(1, 2), "run-1").check(["fact/begun"])
        monkeypatch.setenv(variable, "18")
        assert not prefixed(Launch(1, 2), "run-1").check(["fact/begun"])


def test_units_of_all_are_shown(monkeypatch) -> None:
    monkeypatch.setattr("antiphase.runs.team._SECONDS_BETWEEN_PULSES", 0.01)
    first, second = two()
    with first, second:
        with Progress(10, shown=False, finished=second.report) as bar:
            bar.skip("resuming", 3)
            bar.stage("measuring", 4)
            bar.end_stage()
        deadline = time.monotonic() + 10
        while first.counted_elsewhere() != 4.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with Progress(10, shown=False, elsewhere=first.counted_elsewhere) as bar:
            bar.stage("measuring", 2)
            bar.advance(0.5)
            assert bar._known_elsewhere == 4.0
            assert bar.finished == 1.0
            assert bar.left() is not None


@pytest.fixture
def launched(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


def test_without_a_folder_each_process_works_alone(launched) -> None:
    with pytest.warns(UserWarning, match=r"8 processes, but no folder is given \(out=None\)"):
        assert type(team_of(None)) is Alone


def test_what_works_in_one_process_is_refused(launched, tmp_path, capsys) -> None:
    with pytest.raises(InvalidInputError, match="a probe of checkpoints works in one process"):
        antiphase.probe_checkpoints(str(tmp_path), out=tmp_path / "out")
    with pytest.raises(InvalidInputError, match="the evaluation of models by compare works in one process"):
        antiphase.compare(["a=x", "b=y"], out=tmp_path / "out", evaluation={"tasks": ("sums",)})
    assert not (tmp_path / "out").exists()


def test_an_old_folder_names_the_number_of_the_device(tmp_path, monkeypatch) -> None:
    """A run of an earlier version on cuda:0 can be continued; one on another kind of device cannot."""
    from antiphase.runs.run_folder import RunFolder

    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_model(0, {"device": "cuda:0", "dtype": "float32"})
    with pytest.raises(InvalidInputError, match="on another device: device was 'cuda:0', now 'cpu'"):
        folder.write_model(0, {"device": "cpu", "dtype": "float32"})
    folder.write_model(0, {"device": "cuda", "dtype": "float32"})
    assert folder.read_model(0)["device"] == "cuda"
