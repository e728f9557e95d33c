"""The signs of collapse: what raises the alarm, what does not, and how rarely noise does."""

import math
import random

import pytest
import torch

from antiphase.inversion.alarm import WATCHED, collapse_signs
from antiphase.inversion.rollout_facts import digest
from antiphase.inversion.step_metrics import distinct_share

WINDOW = 20
NAN = [math.nan] * WINDOW


def line(start, end):
    return [start + (end - start) * step / (WINDOW - 1) for step in range(WINDOW)]


def curve(start, end):
    return [start * (end / start) ** (step / (WINDOW - 1)) for step in range(WINDOW)]


def names(**history):
    return [sign.name for sign in collapse_signs({key.replace("_", "/", 1): v for key, v in history.items()}, WINDOW)]


def test_the_public_run_of_self_certainty_without_kl():
    """The answers had 7 tokens at step 20, and accuracy had gone from 0.46 to 0.002 while the reward rose.

    These numbers are public. The curves between the ends, and the reward, are ours.
    """
    history = {"rollout/length": curve(160, 7), "task/mean": line(14, 24), "task/accuracy": curve(0.46, 0.002)}
    (sign,) = collapse_signs(history, WINDOW)
    assert sign.name == "shorter"
    assert "rollout/length 118 → 10" in sign.text
    assert "task/accuracy 0.28" in sign.text
    (blind,) = collapse_signs({**history, "task/accuracy": NAN}, WINDOW)
    assert blind.name == "shorter"
    assert "while the reward rose (task/mean 15.1 → 22.9)" in blind.text
    assert not collapse_signs({key: values[:-1] for key, values in history.items()}, WINDOW)


def test_each_sign():
    flat, up = line(0.5, 0.5), line(0.1, 0.9)
    assert names(rollout_length=curve(100, 20), task_accuracy=flat) == ["shorter"]
    assert names(rollout_length=curve(100, 900), task_accuracy=flat) == ["longer"]
    assert names(rollout_truncated=line(0.0, 1.0), task_accuracy=flat) == ["limit"]
    assert names(rollout_repetition=line(0.1, 0.8), task_accuracy=flat) == ["repetition"]
    assert names(rollout_distinct=curve(1.0, 0.125), task_mean=up, task_accuracy=NAN) == ["equal"]
    assert names(inversion_mean=up, task_accuracy=line(0.9, 0.1)) == ["accuracy"]
    both = names(inversion_mean=up, task_accuracy=line(0.9, 0.1), rollout_length=curve(100, 20))
    assert both == ["accuracy", "shorter"]


def test_a_training_that_gets_better_shows_no_sign():
    learning = {"task_accuracy": line(0.2, 0.6), "task_mean": line(0.2, 0.6)}
    for change in (
        {"rollout_length": curve(400, 90)},
        {"rollout_length": curve(100, 400)},
        {"rollout_truncated": line(0, 1)},
        {"rollout_repetition": line(0, 0.8)},
        {"inversion_mean": line(0, 1)},
    ):
        assert names(**learning, **change) == []


def test_right_answers_may_be_equal():
    """With a verifier, equal completions are no sign, even if its accuracy is 1 in every batch."""
    assert names(rollout_distinct=curve(1.0, 0.125), task_accuracy=[1.0] * WINDOW, task_mean=line(0, 1)) == []


def test_slow_changes_are_no_sign():
    flat = line(0.5, 0.5)
    assert names(rollout_length=line(200, 100), task_accuracy=flat) == []
    assert names(rollout_length=line(100, 200), task_accuracy=flat) == []
    assert names(rollout_repetition=line(0.1, 0.3), task_accuracy=flat) == []
    assert names(rollout_truncated=line(0.1, 0.4), task_accuracy=flat) == []


def test_without_a_verifier_the_reward_must_rise():
    assert names(rollout_length=curve(100, 10), task_mean=line(1, 1), task_accuracy=NAN) == []
    assert names(rollout_length=curve(100, 10), task_mean=line(2, 1), task_accuracy=NAN) == []
    only = {"task_mean": NAN, "task_accuracy": NAN, "inversion_mean": line(0.1, 0.5)}
    assert names(rollout_length=curve(100, 10), **only) == ["shorter"]


def noise(generator, verifier):
    """Independent noise of 20 batches: lengths with a spread of 30 %, shares with a spread of 0.1."""
    spread = {"rollout/length": (200, 60), "task/mean": (0.5, 0.1), "inversion/mean": (0.1, 0.05)}
    return {
        name: [math.nan] * WINDOW
        if name == "task/accuracy" and not verifier
        else [generator.gauss(*spread.get(name, (0.4, 0.1))) for _ in range(WINDOW)]
        for name in WATCHED
    }


@pytest.mark.parametrize("verifier", [True, False])
def test_noise_raises_no_sharp_sign(verifier):
    generator = random.Random(7)
    found = [collapse_signs(noise(generator, verifier), WINDOW) for _ in range(2000)]
    assert sum(bool(signs) for signs in found) <= 2
    assert not {sign.name for signs in found for sign in signs} - {"accuracy"}


def test_wandering_lengths_rarely_raise_a_sign():
    """A random walk whose steps change the mean length by 10 % raises a sign in fewer than 1 of 100 windows."""
    generator = random.Random(3)
    raised = 0
    for _ in range(2000):
        lengths, level = [], math.log(200)
        for _ in range(WINDOW):
            level += generator.gauss(0, 0.1)
            lengths.append(math.exp(level))
        history = {**noise(generator, True), "rollout/length": lengths}
        raised += any(sign.name in ("shorter", "longer") for sign in collapse_signs(history, WINDOW))
    assert raised < 20


def test_distinct_completions():
    assert distinct_share(torch.tensor([1.0, 1, 2, 3]), 2) == 0.75
    assert distinct_share(torch.tensor([1.0, 1, 1, 1]), 4) == 0.25
    numbers = {digest([i, i * i % 251, 7]) for i in range(3000)}
    assert len(numbers) >= 2999
    assert digest([1, 23]) != digest([12, 3])
    assert max(numbers) < 2**24
    assert all(float(torch.tensor(float(number), dtype=torch.float32)) == number for number in numbers)


def test_a_metric_that_is_mostly_unknown_gives_no_sign():
    """A verifier that judged 9 of 20 batches says too little, whatever its slope. With 10 of them it counts."""

    def judged(values, count):
        known = {round(i * (WINDOW - 1) / (count - 1)) for i in range(count)}
        assert len(known) == count
        return [value if place in known else math.nan for place, value in enumerate(values)]

    up, down = line(0.1, 0.9), line(0.9, 0.1)
    assert names(inversion_mean=up, task_accuracy=judged(down, 9)) == []
    assert names(inversion_mean=up, task_accuracy=judged(down, 10)) == ["accuracy"]
    assert names(inversion_mean=judged(up, 9), task_accuracy=down) == []
    shorter, better = {"rollout_length": curve(100, 20)}, line(0.1, 0.9)
    assert names(**shorter, task_accuracy=judged(better, 10), task_mean=better) == []
    # As if there were no verifier: the reward rose.
    assert names(**shorter, task_accuracy=judged(better, 9), task_mean=better) == ["shorter"]
    assert names(rollout_length=judged(curve(100, 20), 9), task_accuracy=line(0.5, 0.5)) == []
