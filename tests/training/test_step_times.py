"""Where the time of a training goes: the clock's parts, their rows in `times.jsonl`, and the table of a summary."""

import time

import pytest

from antiphase.inversion.step_times import BETWEEN_STEPS, OF_A_STEP, PARTS, PREFIX, table_text, time_table
from antiphase.page.building import training_document
from antiphase.training.step_clock import StepClock
from antiphase.training.trajectory import read_times, read_trajectory
from training_cases import parity, run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


class Hands:
    """A clock whose time passes only when it is told."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def test_exactly_one_part_runs_at_a_time():
    hands = Hands()
    clock = StepClock(hands)
    hands.time = 1.0
    with clock.part("update"):
        hands.time = 3.0
        with clock.part("generation"):
            hands.time = 7.0
        hands.time = 8.0
    clock.go_on_with("update")
    hands.time = 18.0
    clock.go_on_with("other")
    hands.time = 18.5
    seconds = clock.lap()
    assert {part: value for part, value in seconds.items() if value} == {
        "other": 1.5,
        "update": 13.0,
        "generation": 4.0,
    }
    assert sum(seconds.values()) == hands.time
    assert set(clock.lap().values()) == {0.0}


def test_what_happens_in_an_evaluation_counts_for_it():
    hands = Hands()
    clock = StepClock(hands)
    with clock.part("evaluation"), clock.part("generation"):
        hands.time = 2.0
        with clock.part("measuring"):
            hands.time = 3.0

    def fail():
        with clock.part("reward"):
            hands.time = 4.0
            raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        fail()
    assert clock.running == "other"
    assert {part: value for part, value in clock.lap().items() if value} == {"evaluation": 3.0, "reward": 1.0}


def rows(*of_steps):
    return [
        {"kind": "time", "step": number, "num_steps": 1, **{PREFIX + part: value for part, value in seconds.items()}}
        for number, seconds in enumerate(of_steps)
    ]


def test_the_table_by_hand():
    trajectory = [
        {"kind": "time", "step": 0, "num_steps": 0, PREFIX + "other": 50.0},
        *rows(
            {"generation": 2.0, "measuring": 1.0, "update": 5.0},
            {"update": 5.0},
            {"generation": 4.0, "measuring": 2.0, "update": 6.0, "saving": 9.0},
        ),
        {"kind": "time", "step": 3, "num_steps": 0, PREFIX + "saving": 3.0, PREFIX + "evaluation": 0.5},
    ]
    table = {entry["part"]: entry for entry in time_table(trajectory)}
    assert list(table) == list(PARTS)
    # The median is over the steps in which a part ran; the share is of the 25 s of all steps.
    assert table["generation"] == {"part": "generation", "median_seconds": 3.0, "total_seconds": 6.0, "share": 6 / 25}
    assert table["update"] == {"part": "update", "median_seconds": 5.0, "total_seconds": 16.0, "share": 16 / 25}
    assert table["saving"] == {"part": "saving", "median_seconds": 9.0, "total_seconds": 12.0, "share": None}
    # The preparation counts for the run, but not for a step.
    assert table["other"] == {"part": "other", "median_seconds": 0.0, "total_seconds": 50.0, "share": 0.0}
    assert sum(entry["share"] for entry in table.values() if entry["share"] is not None) == pytest.approx(1.0)
    text = table_text(time_table(trajectory)).splitlines()
    assert len(text) == 1 + len(PARTS)
    (line,) = [line for line in text if line.startswith("measuring inversion")]
    assert line.split() == ["measuring", "inversion", "1.50", "12.0%", "3.0"]


def test_older_runs_have_no_table():
    assert time_table([]) == []
    assert table_text([]) == ""
    assert training_document("run", [{"kind": "step", "step": 0}], {}, None).tables == []


def test_the_page_has_a_row_for_each_run():
    document = training_document("run", [], {}, None, times=rows({"generation": 1.0, "update": 3.0}))
    (table,) = document.tables
    assert table.header == ["run", *OF_A_STEP.values(), *BETWEEN_STEPS.values()]
    assert table.rows[0][:2] == ["run", "1.00 s (25.0%)"]
    assert len(table.rows[0]) == len(table.header)


def slow(completions, **_):
    """A verifier that takes a tenth of a second."""
    time.sleep(0.1)
    return parity(completions)


def test_a_training_measures_all_its_time(tmp_path):
    changes = {"num_iterations": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    began = time.perf_counter()
    made = run(tmp_path, rewards=[slow], train=False, **changes)
    built = time.perf_counter()
    made.train()
    ended = time.perf_counter()
    times = read_times(tmp_path)
    assert [(row["step"], row["num_steps"]) for row in times] == [(0, 0), (0, 1), (1, 1), (2, 1), (3, 1), (4, 0)]
    of_steps = [row for row in times if row["num_steps"]]
    for number, row in enumerate(of_steps):
        samples = number % 2 == 0
        for part in ("generation", "reward", "measuring", "logprobs"):
            assert (row[PREFIX + part] > 0) == samples
        assert row[PREFIX + "update"] > 0
    assert all(row[PREFIX + "reward"] >= 0.1 for row in of_steps[::2])
    assert max(row[PREFIX + "update"] for row in of_steps) < of_steps[0][PREFIX + "reward"] + ended - built
    (measured,) = {row["inversion/seconds"] for row in read_trajectory(tmp_path) if row["step"] == 0}
    assert of_steps[0][PREFIX + "measuring"] == pytest.approx(measured, abs=0.05)
    assert of_steps[2][PREFIX + "saving"] > 0
    table = {entry["part"]: entry for entry in time_table(times)}
    whole = sum(entry["total_seconds"] for entry in table.values())
    assert 0.8 * (ended - built) < whole <= ended - built < ended - began
    assert made.state.log_history[0][PREFIX + "reward"] >= 0.1


def test_a_resumed_run_goes_on_counting(tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run(tmp_path, **changes)
    first = read_times(tmp_path)
    made = run(tmp_path, train=False, **changes)
    made.train(str(tmp_path / "checkpoint-2"))
    again = read_times(tmp_path)
    # The steps before the checkpoint are kept, and those after it are measured again.
    assert again[:3] == first[:3]
    assert [(row["step"], row["num_steps"]) for row in again[3:]] == [(2, 0), (2, 1), (3, 1), (4, 0)]
    assert again[4] != first[3]
    # A training from the beginning moves the file aside.
    run(tmp_path, max_steps=1)
    assert [row["step"] for row in read_times(tmp_path)] == [0, 0, 1]
    assert (tmp_path / "times-1.jsonl").is_file()
