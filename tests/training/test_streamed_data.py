"""Streamed data sets as data of training and evaluation, and data sets that lack columns."""

import math

import pytest
from datasets import Dataset, IterableDataset, IterableDatasetDict

from antiphase.errors import InvalidInputError
from antiphase.tasks.task_rewards import AccuracyReward
from antiphase.training.reward_functions import MajorityVoteReward
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import PROMPTS, data, parity, run, same, settings

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def stream(number=16, **columns):
    """A stream that does not name its columns, with the rows of `data`."""

    def rows():
        for place in range(number):
            yield {"prompt": PROMPTS[place % 4], "answer": "1", **columns}

    return IterableDataset.from_generator(rows)


def made(folder, train, evaluation=None, rewards=None, **changes):
    return CorRPOTrainer(
        tiny_model(),
        [parity] if rewards is None else rewards,
        CorRPOConfig(**settings(folder, inversion_weight=0.5, **changes)),
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=byte_tokenizer(),
    )


def test_a_stream_trains_as_the_same_rows_do(tmp_path):
    assert stream().column_names is None
    options = {"shuffle_dataset": False, "max_steps": 2}
    plain = run(tmp_path / "rows", inversion_weight=0.5, **options)
    streamed = made(tmp_path / "stream", stream(), **options)
    streamed.train()
    named = made(tmp_path / "named", data().to_iterable_dataset(), **options)
    named.train()
    assert same(plain, streamed)
    assert same(plain, named)


def test_streams_of_evaluation(tmp_path):
    """Every prompt of both streams has its group of two, which stand next to one another."""
    asked = []

    def asking(prompts, completions, **_):
        asked.extend(prompts)
        return parity(completions)

    trainer = made(
        tmp_path, stream(), IterableDatasetDict({"a": stream(4), "b": stream(4)}), rewards=[asking],
        num_generations_eval=2, per_device_eval_batch_size=4,
    )  # fmt: skip
    found = trainer.evaluate()
    assert asked[::2] == asked[1::2]
    assert sorted(asked[:8]) == sorted(asked[8:]) == sorted(PROMPTS * 2)
    assert math.isfinite(found["eval_inversion/mean"])
    assert [row["kind"] for row in read_trajectory(tmp_path)] == ["eval", "eval"]
    trainer.train()
    assert [row["kind"] for row in read_trajectory(tmp_path)] == ["step"] * 3


def test_a_stream_needs_a_number_of_steps(tmp_path):
    """transformers says so, before anything is generated."""
    with pytest.raises(ValueError, match="max_steps"):
        made(tmp_path, stream(), max_steps=-1).train()
    assert not (tmp_path / "trajectory.jsonl").exists()


def test_a_stream_that_lacks_columns(tmp_path):
    """Its first row is read, so that no batch is generated in vain."""
    with pytest.raises(InvalidInputError, match="train_dataset lacks the columns task, problem_id, metadata; it has"):
        made(tmp_path, stream(), rewards=[AccuracyReward()])
    with pytest.raises(InvalidInputError, match="eval_dataset lacks the column prompt; it has question"):
        made(tmp_path, data(), {"x": IterableDataset.from_generator(lambda: iter([{"question": "a"}]))})
    with pytest.raises(InvalidInputError, match="train_dataset is a stream without rows"):
        made(tmp_path, stream(0))


def test_columns_that_no_reward_reads_are_not_needed(tmp_path):
    """`majority_vote` reads the column `answer` only to know the kind of the answer."""
    prompts = Dataset.from_dict({"prompt": PROMPTS * 4})
    trainer = made(tmp_path, prompts, rewards=[parity, MajorityVoteReward(lambda text, kind: text[:1] or None)])
    trainer.train()
    assert trainer.state.global_step == 3
