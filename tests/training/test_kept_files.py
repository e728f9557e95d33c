"""Which rollouts a training keeps, and the folder that it keeps them in."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from antiphase.errors import InvalidInputError
from antiphase.report.sources import read_run
from antiphase.training.kept_folder import FOLDER, KeptFolder, read_kept
from antiphase.training.kept_rule import MOST_BATCHES, MOST_TOKENS, interval, is_kept, kept_places, num_kept
from training_cases import run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

# Which rollouts


@pytest.mark.parametrize("max_steps", [1, 3, 99, 100, 101, 5000])
@pytest.mark.parametrize("longest", [None, 10, 512, 8192])
@pytest.mark.parametrize("span", [0.5, 1, 4, 1.5, 2.5, 5 / 3])
def test_the_kept_batches_are_few_and_hold_the_first_and_the_last(max_steps, longest, span) -> None:
    every = interval(max_steps, 8, longest)
    starts = (math.floor(number * max(1, Fraction(span).limit_denominator(100))) for number in range(max_steps))
    steps = [step for step in starts if step < max_steps]
    kept = [step for step in steps if is_kept(step, max_steps, every, span)]
    assert kept[0] == 0
    assert kept[-1] == steps[-1]
    assert len(kept) <= MOST_BATCHES + 1
    # No stretch of `every` steps has two kept batches, unless one is the last batch.
    assert len({step // every for step in kept[:-1]}) == len(kept[:-1])
    if longest is not None:
        assert (len(kept) - 1) * 8 * longest <= MOST_TOKENS


def test_short_trainings_keep_every_batch() -> None:
    assert all(is_kept(step, 100, interval(100, 8, 512), 1) for step in range(100))


@pytest.mark.parametrize("keep", [1, 3, 4, 7, 8, 16])
def test_whole_groups_are_drawn_by_the_seed_and_the_step(keep) -> None:
    places = kept_places(16, 4, keep, 5, 40)
    assert places == kept_places(16, 4, keep, 5, 40)
    assert len(places) == len(set(places)) == num_kept(keep, 4)
    groups = {}
    for place in places:
        groups.setdefault(place // 4, []).append(place % 4)
    assert all(own == list(range(min(keep, 4))) for own in groups.values())
    drawn = {tuple(kept_places(16, 4, keep, 5, step)) for step in range(60)}
    assert len(drawn) == (1 if keep == 16 else math.comb(4, max(1, keep // 4)))


# The folder


def test_a_resumed_run_may_stop_keeping_and_drops_what_is_not_so(tmp_path) -> None:
    folder = KeptFolder(tmp_path)
    for step in (0, 5, 10):
        folder.write(step, [{"step": step, "num_tokens": 0}])
    (folder.path / ".step-000011.parquet.1.tmp").write_text("cut")
    others = ["notes.md", "step-000012.parquet.bak", ".hidden.tmp"]
    for name in others:
        (folder.path / name).write_text("not of antiphase")
    (folder.path / "plots").mkdir()
    (folder.path / "plots" / "one.png").write_text("a picture")
    folder.begin(10)
    kept = ["plots", "step-000000.parquet", "step-000005.parquet", *others]
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(kept)
    assert (folder.path / "plots" / "one.png").is_file()
    folder.begin(0)
    assert read_kept(tmp_path) is None
    assert len(list((tmp_path / f"{FOLDER}-1").iterdir())) == len(kept)


def test_a_damaged_file_is_named(tmp_path) -> None:
    KeptFolder(tmp_path).write(0, [{"step": 0}])
    (tmp_path / FOLDER / "step-000001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidInputError, match=r"step-000001\.parquet cannot be read"):
        read_kept(tmp_path)
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / FOLDER / "step-000001.parquet")
    with pytest.raises(
        InvalidInputError, match=r"does not have the columns of a file of kept rollouts\. Missing: prompt_id"
    ):
        read_kept(tmp_path)
    (tmp_path / FOLDER / "step-000002.parquet").write_bytes(b"PAR1 and no more")
    notes = []
    assert read_kept(tmp_path, notes).step.tolist() == [0]
    assert len(notes) == 2
    assert "step-000001.parquet does not have the columns" in notes[0]
    assert "step-000002.parquet cannot be read" in notes[1]


def test_the_page_leaves_a_damaged_file_out(tmp_path) -> None:
    run(tmp_path, keep_rollouts=4, max_steps=2)
    cut = (tmp_path / FOLDER / "step-000001.parquet").read_bytes()[:500]
    (tmp_path / FOLDER / "step-000001.parquet").write_bytes(cut)
    document = read_run(tmp_path)
    assert document.subjects[0].rollouts.rollout_id.str.startswith("0-").tolist() == [True] * 4
    assert [note for note in document.notes if "step-000001.parquet cannot be read" in note]


def test_a_folder_that_cannot_be_made_ends_the_training_at_its_start(tmp_path) -> None:
    (tmp_path / FOLDER).write_text("a file is in its place")
    with pytest.raises(InvalidInputError, match=r"kept_rollouts cannot be prepared .* set keep_rollouts to 0"):
        run(tmp_path, keep_rollouts=4, max_steps=2)
    assert not (tmp_path / "trajectory.jsonl").exists()
    run(tmp_path, keep_rollouts=0, max_steps=1)


def test_bytes_of_a_token(tmp_path) -> None:
    """A bound for what docs/files.md says of the size of the files: random signals do not compress."""
    random, words = np.random.default_rng(0), [f" word{i}" for i in range(2000)]
    ids = random.integers(0, 2000, (16, 400))
    rows = [
        {
            "step": 0, "num_tokens": 400, "completion_ids": own.tolist(), "tokens": [words[i] for i in own],
            "completion": "".join(words[i] for i in own),
            **{name: random.random(400).tolist() for name in ("entropy", "logprob", "strength")},
        }
        for own in ids
    ]  # fmt: skip
    KeptFolder(tmp_path).write(0, rows)
    (file,) = (tmp_path / FOLDER).iterdir()
    assert file.stat().st_size / ids.size < 22
