"""The engine `openai` against a small server: what is sent, and what happens after a fault."""

import json
import threading
import time

import pytest

from antiphase.errors import AntiphaseError, InvalidInputError, ServerError
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Completion
from antiphase.rollouts.kept_rollouts import KeptRollouts, kept_counts
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_options import Retries, ServerOptions
from antiphase.rollouts.server_protocol import DIALECTS
from server_cases import (
    BUSY,
    CUT,
    FAST,
    HALF,
    NO_CHOICE,
    PROMPTS,
    SAMPLING,
    SEEDS,
    FakeServer,
    Fault,
    engine_of,
    expected,
    free_port,
    loaded_tiny,
    no_proxy,  # noqa: F401  # a fixture of every test here
    serving,
)

# --- what is sent, and what comes back ---


def test_each_rollout_is_one_request_with_its_own_seed_and_explicit_sampling() -> None:
    ticks: list[float] = []
    with serving() as server:
        engine = engine_of(server)
        assert engine.complete(PROMPTS, SAMPLING, SEEDS, tick=ticks.append) == expected()
        assert engine.complete([], SAMPLING, []) == []
    assert {completion.finish for completion in expected()} == {"stop", "length"}
    assert sum(ticks) == pytest.approx(1)
    assert len([tick for tick in ticks if tick]) == len(PROMPTS)
    assert 1 < server.most <= 3
    assert engine.facts == {"server": {"kind": "vLLM", "model": "tiny", "prompts": "ids", "completions": "ids"}}
    assert set(engine.versions) == {"httpx"}
    bodies = {json.dumps(body["prompt"]) + str(body["seed"]): body for body in server.rollouts}
    assert len(bodies) == len(PROMPTS)
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        assert bodies[json.dumps(prompt) + str(seed % 2**31)] == {
            "model": "tiny",
            "prompt": prompt,
            "seed": seed % 2**31,
            "max_tokens": 8,
            "temperature": 0.7,
            "top_p": 0.9,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "n": 1,
            "stream": False,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [2],
            "skip_special_tokens": False,
            "return_token_ids": True,
            "repeat_penalty": 1.0,
            "samplers": ["temperature", "top_p"],
            "mirostat": 0,
            "return_tokens": True,
            "verbose": True,
        }


@pytest.mark.parametrize(
    ("kind", "sent", "returned"), [("llamacpp", "ids", "ids"), ("openai", "ids", "text"), ("text", "text", "text")]
)
def test_servers_that_take_or_return_less(kind, sent, returned, tmp_path) -> None:
    with serving(kind) as server:
        engine = engine_of(server)
        engine.keep_in(tmp_path / "kept.jsonl")
        assert engine.complete(PROMPTS, SAMPLING, SEEDS) == expected()
    shown = {"kind": "llama.cpp" if kind == "llamacpp" else "unknown", "model": "tiny"}
    assert engine.facts == {"server": {**shown, "prompts": sent, "completions": returned}}
    assert {type(body["prompt"]) for body in server.rollouts} == {list if sent == "ids" else str}
    count = len(PROMPTS) if returned == "text" else 0
    assert kept_counts([tmp_path / "kept.jsonl"]) == {
        "num_retokenised": count,
        "num_other_text": 0,
        "num_other_length": 0,
    }
    if kind == "text":
        config = json.loads(server.rollouts[0]["generation_config"])
        assert config["top_k"] == 0
        assert config["do_sample"] is True
        assert config["eos_token_id"] == [2]
        assert config["temperature"] == 0.7


def test_greedy_decoding_is_asked_for_as_such() -> None:
    greedy = Sampling(max_new_tokens=4, temperature=0)
    bodies = [dialect.body("m", [5], greedy, [2, 7], 1) for dialect in DIALECTS]
    assert [body.get("temperature") for body in bodies] == [0, 0, None, 0]
    config = json.loads(bodies[2]["generation_config"])
    assert config["do_sample"] is False
    assert "temperature" not in config
    assert config["eos_token_id"] == [2, 7]


def test_what_a_text_loses_is_counted(tmp_path) -> None:
    def lossy(payload):
        choice = payload["choices"][0]
        choice["text"] = choice["text"][:-1] + "\ufffd" if choice["finish_reason"] == "length" else choice["text"][:-1]
        return payload

    with serving("openai") as server:
        engine = engine_of(server)
        server.edit = lossy
        engine.keep_in(tmp_path / "kept.jsonl")
        found = engine.complete(PROMPTS, SAMPLING, SEEDS)
    counts = kept_counts([tmp_path / "kept.jsonl"])
    cut = sum(one.finish == "length" for one in expected())
    assert counts["num_retokenised"] == len(PROMPTS)
    assert counts["num_other_text"] == cut > 0
    assert counts["num_other_length"] == len(PROMPTS)  # one letter less, or three bytes in place of one
    assert all(len(one.ids) <= 8 for one in found)
    assert [one.finish for one in found] == [one.finish for one in expected()]


def test_a_server_that_ignores_our_end_token_is_cut_after_it() -> None:
    extra = expected()[1].ids[0]
    with serving() as server:
        loaded = loaded_tiny()
        options = ServerOptions(server.url, "tiny", retries=FAST)
        engine = make_generator("openai", loaded, end_ids=[extra], server=options)
        found = engine.complete(PROMPTS, SAMPLING, SEEDS)
    for one, whole in zip(found, expected(), strict=True):
        cut = whole.ids.index(extra) + 1 if extra in whole.ids else len(whole.ids)
        assert one == Completion(whole.ids[:cut], "stop" if extra in whole.ids else whole.finish)
    assert found[1] == Completion((extra,), "stop")


# --- faults that pass ---


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        HALF,
        NO_CHOICE,
        CUT,
        Fault(drop=True),
        Fault(200, '{"choices": [{"text": 7}]}'),
        *(Fault(status) for status in (500, 502, 503, 504)),
    ],
    ids=lambda fault: f"{fault.status}{'-cut' if fault.cut else ''}{'-drop' if fault.drop else ''}{len(fault.text)}",
)
def test_a_passing_fault_costs_a_repetition_and_nothing_else(fault) -> None:
    with serving(fault=lambda number, _: fault if number in (1, 4) else None) as server:
        began = time.monotonic()
        assert engine_of(server).complete(PROMPTS, SAMPLING, SEEDS) == expected()
        took = time.monotonic() - began
    assert len(server.rollouts) == len(PROMPTS) + 2
    assert took > 0.2 or fault is not BUSY
    assert took < 5


def test_a_stall_is_repeated_once() -> None:
    with serving(fault=lambda number, _: Fault(stall=20) if number == 0 else None) as server:
        engine = engine_of(server, request_timeout=0.5)
        assert engine.complete(PROMPTS, SAMPLING, SEEDS) == expected()
    assert len(server.rollouts) == len(PROMPTS) + 1


def test_a_server_that_starts_late_is_waited_for() -> None:
    with serving() as server:
        engine = engine_of(server)
        port = server.port
    result: list = []
    patient = Retries(attempts=12, first=0.1, longest=0.3)
    engine._options = ServerOptions(f"http://127.0.0.1:{port}/v1", "tiny", retries=patient)
    thread = threading.Thread(target=lambda: result.append(engine.complete(PROMPTS, SAMPLING, SEEDS)))
    thread.start()
    time.sleep(0.3)
    assert not result
    with serving(port=port):
        thread.join(20)
    assert result == [expected()]


# --- faults that do not pass: a clear end, within a bounded time, and finished rollouts are kept ---


def of_prompt(prompt: list[int], fault: Fault):
    """The same fault for each request with this prompt."""
    return lambda _, body: fault if body["prompt"] == prompt else None


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (Fault(503), ServerError, r"failed in 4 attempts\. The last time: status 503: out of order"),
        (HALF, ServerError, "not whole JSON"),
        (NO_CHOICE, ServerError, "should contain 1 choice, but contains 0"),
        (CUT, ServerError, "the connection failed"),
        (Fault(stall=30), ServerError, r"failed in 2 attempts.*no whole answer within 0\.6 seconds"),
        (Fault(400, '{"message": "prompt is too long"}'), InvalidInputError, "status 400: prompt is too long"),
        (Fault(403, "no\nentry"), InvalidInputError, "status 403: no entry"),
        (Fault(404, '{"detail": "gone"}'), InvalidInputError, "status 404: gone.*--base-url"),
        (Fault(302, "elsewhere"), InvalidInputError, "status 302: elsewhere"),
    ],
    ids=["503", "half", "no choice", "cut", "stall", "400", "403", "404", "302"],
)
def test_a_lasting_fault_ends_the_batch_and_the_finished_rollouts_are_kept(fault, kind, message, tmp_path) -> None:
    path = tmp_path / "parts" / "kept.jsonl"
    bad = PROMPTS[5]
    with serving(fault=of_prompt(bad, fault)) as server:
        engine = engine_of(server, request_timeout=0.6)
        engine.keep_in(path)
        began = time.monotonic()
        with pytest.raises(kind, match=rf"(?s)rollout 5: .*{message}.*of 8 rollouts of the batch.*--resume"):
            engine.complete(PROMPTS, SAMPLING, SEEDS)
        assert time.monotonic() - began < 6
        kept = KeptRollouts(path).read()
        assert 4 <= len(kept) <= 7
        # Without the fault, only the missing rollouts are asked for.
        server.fault = lambda *_: None
        before, ticks = len(server.rollouts), []
        assert engine.complete(PROMPTS, SAMPLING, SEEDS, tick=ticks.append) == expected()
        assert len(server.rollouts) - before == len(PROMPTS) - len(kept)
        assert sum(ticks) == pytest.approx(1)
        # And no others are kept.
        assert engine.complete(PROMPTS, SAMPLING, SEEDS) == expected()
        assert len(server.rollouts) - before == len(PROMPTS) - len(kept)


def test_the_deadline_ends_a_batch(tmp_path) -> None:
    with serving(fault=of_prompt(PROMPTS[2], Fault(stall=30))) as server:
        engine = engine_of(server, request_timeout=20.0, deadline=1.0)
        engine.keep_in(tmp_path / "kept.jsonl")
        began = time.monotonic()
        with pytest.raises(ServerError, match=r"deadline of 1 seconds passed: 7 of 8 rollouts.*--deadline"):
            engine.complete(PROMPTS, SAMPLING, SEEDS)
        assert time.monotonic() - began < 4
    assert len(KeptRollouts(tmp_path / "kept.jsonl").read()) == 7


def test_after_a_failure_the_requests_under_way_may_finish(tmp_path) -> None:
    def fault(_, body):
        slow = Fault(200, json.dumps(FakeServer().completion(body)), stall=0.3)
        return {(50, 51, 52, 53): slow, (60,): Fault(400)}.get(tuple(body["prompt"]))

    with serving(fault=fault) as server:
        engine = engine_of(server)
        engine.keep_in(tmp_path / "kept.jsonl")
        with pytest.raises(InvalidInputError, match="rollout 2"):
            engine.complete(PROMPTS[:3], SAMPLING, SEEDS[:3])
    assert {rollout.ids for rollout in KeptRollouts(tmp_path / "kept.jsonl").read().values()} >= {expected()[1].ids}


def test_nobody_listens() -> None:
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"/models failed in 4 attempts.*the connection failed"):
        engine_of(f"http://127.0.0.1:{free_port()}/v1")
    assert time.monotonic() - began < 3
    assert issubclass(ServerError, ConnectionError)
    assert issubclass(ServerError, AntiphaseError)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(token_ids=[5, 700, 5, 5, 5, 5, 5, 5]), "token id 700.*vocabulary of the measured model"),
        (lambda c: c.update(finish_reason="abort"), "finish reason 'abort'"),
        (lambda c: c.update(token_ids=[5, 6], finish_reason="stop"), "last token is 6 and the end tokens are"),
        (lambda c: c.update(token_ids=[5, 6], finish_reason="length"), "off at 2 of 8 tokens"),
        (lambda c: c.update(prompt_token_ids=[40, 41, 43]), "token 2 is 43, expected 42"),
    ],
)
def test_answers_that_cannot_be_used(edit, message) -> None:
    def edited(payload):
        edit(payload["choices"][0])
        return payload

    with serving() as server:
        engine = engine_of(server)
        server.edit = edited
        with pytest.raises(InvalidInputError, match=message):
            engine.complete(PROMPTS[:1], SAMPLING, SEEDS[:1])
    assert len(server.rollouts) == 1


def test_an_end_token_that_only_the_servers_reason_names_is_added() -> None:
    with serving() as server:
        engine = engine_of(server)
        server.edit = lambda p: (
            p | {"choices": [p["choices"][0] | {"token_ids": [9], "stop_reason": 2, "finish_reason": "stop"}]}
        )
        assert engine.complete(PROMPTS[:1], SAMPLING, SEEDS[:1]) == [Completion((9, 2), "stop")]
