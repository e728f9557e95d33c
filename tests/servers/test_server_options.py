"""The file of kept rollouts, the options of a server, and requests from a notebook."""

import asyncio
import contextlib
import signal
import threading
import time

import pytest

import antiphase.rollouts.openai_engine as engine_module
from antiphase.errors import InvalidInputError
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.kept_rollouts import KeptRollout, KeptRollouts, kept_counts
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_batch import run_here, run_rows
from antiphase.rollouts.server_options import ServerOptions
from server_cases import (
    PROMPTS,
    SAMPLING,
    SEEDS,
    Fault,
    engine_of,
    expected,
    loaded_tiny,
    no_proxy,  # noqa: F401  # a fixture of every test here
    serving,
)


def test_half_a_line_of_a_killed_process_is_ignored(tmp_path) -> None:
    kept, path = KeptRollouts(tmp_path / "kept.jsonl"), tmp_path / "kept.jsonl"
    first, second = KeptRollout((5, 2), "stop"), KeptRollout((7,), "length", True, True, False)
    kept.add("a", first)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "b", "ids": [4')
    assert kept.read() == {"a": first}
    kept.add("c", second)
    assert kept.read() == {"a": first, "c": second}
    assert kept_counts([path]) == {"num_retokenised": 1, "num_other_text": 1, "num_other_length": 0}
    assert kept_counts([]) == {}
    assert KeptRollouts(None).read() == {}


def test_a_kept_rollout_is_used_for_the_same_request_only(tmp_path) -> None:
    with serving() as server:
        engine = engine_of(server)
        for number, (sampling, seed) in enumerate(
            [(SAMPLING, 1), (SAMPLING, 2), (Sampling(max_new_tokens=8), 1), (Sampling(max_new_tokens=9), 1)], 1
        ):
            engine.keep_in(tmp_path / "kept.jsonl")
            for _ in range(2):
                engine.complete([[40, 41]], sampling, [seed])
            assert len(server.rollouts) == number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "base_url must be an address"),
        ({"base_url": "ftp://x/v1"}, "base_url must be an address"),
        ({"base_url": "http://x:y/v1"}, "base_url must be an address"),
        ({"base_url": "http://me:secret@x/v1"}, "must not contain a user name or a password"),
        ({"model": ""}, "served_model is empty"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"request_timeout": 0}, "request_timeout must be a positive number"),
        ({"deadline": float("inf")}, "deadline must be a positive number"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        ServerOptions(**{"base_url": "http://x/v1", "model": "m", **options})
    assert "secret" not in str(caught.value)


def test_a_notebook_with_a_running_loop_can_ask_a_server() -> None:
    async def cell():
        return engine_of(server).complete(PROMPTS, SAMPLING, SEEDS)

    with serving() as server:
        assert asyncio.run(cell()) == expected()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_a_notebook_stops_the_requests(tmp_path) -> None:
    def fault(_, body):
        if body["prompt"] != PROMPTS[2]:
            return None
        if len(server.rollouts) == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return Fault(stall=30)

    async def cell():
        engine = engine_of(server, request_timeout=8.0, concurrency=1)
        engine.keep_in(tmp_path / "kept.jsonl")
        return engine.complete(PROMPTS, SAMPLING, SEEDS)

    # As in a notebook, the loop itself does nothing about Ctrl-C, which `asyncio.run` does.
    loop = asyncio.new_event_loop()
    began = time.monotonic()
    with contextlib.closing(loop), serving(fault=fault) as server, pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    assert time.monotonic() - began < 5
    assert len(server.rollouts) == 3
    assert len(KeptRollouts(tmp_path / "kept.jsonl").read()) == 2


@pytest.mark.parametrize("deadline", [None, 0.5])
def test_an_unexpected_error_of_a_row_ends_the_others(deadline) -> None:
    cancelled = []

    async def work(row: int) -> None:
        if row == 1:
            await asyncio.sleep(0.1)
            raise ZeroDivisionError
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(row)
            raise

    async def batch():
        return await run_rows(range(4), work, asyncio.Event(), concurrency=3, deadline=deadline, grace=4.0)

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run_here(batch())
    assert time.monotonic() - began < 2
    assert cancelled == [0, 2]


def test_without_a_model_or_a_server_the_engine_cannot_be_made() -> None:
    with pytest.raises(InvalidInputError, match="needs a loaded model"):
        make_generator("openai", loaded_tiny())
    with pytest.raises(InvalidInputError, match="needs a loaded model"):
        engine_module.make(None, server=ServerOptions("http://x/v1", "m"))
