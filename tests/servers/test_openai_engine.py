"""The engine `openai` against a small server: what is sent, what is checked first, what happens after a fault."""

import asyncio
import json
import signal
import threading
import time

import pytest

import antiphase.rollouts.openai_engine as engine_module
from antiphase.errors import AntiphaseError, InvalidInputError, ServerError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Completion
from antiphase.rollouts.kept_rollouts import KeptRollout, KeptRollouts, kept_counts
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_batch import run_here, run_rows
from antiphase.rollouts.server_options import Retries, ServerOptions
from antiphase.rollouts.server_protocol import DIALECTS
from conftest import byte_tokenizer, tiny_model
from server_cases import BUSY, CUT, END, HALF, NO_CHOICE, FakeServer, Fault, free_port, sampled, serving

FAST = Retries(attempts=4, first=0.02, longest=0.1, longest_named=1.0, grace=0.5)
SAMPLING = Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=3)
PROMPTS = [[40, 41, 42], [50, 51, 52, 53], [60], [40, 41, 42], [70, 71], [80, 81, 82], [90], [91, 92]]
SEEDS = [2**40 + 7, 1, 2, 3, 4, 5, 6, 2**63 - 1]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def loaded_tiny() -> LoadedModel:
    return LoadedModel("tiny", tiny_model(), byte_tokenizer(), None)


def engine_of(server: FakeServer | str, model: str = "tiny", **changes):
    url = server if isinstance(server, str) else server.url
    options = {"retries": FAST, "request_timeout": 5.0, "concurrency": 3, **changes}
    return make_generator("openai", loaded_tiny(), server=ServerOptions(url, model, **options))


def expected() -> list[Completion]:
    found = [sampled(prompt, seed % 2**31, 8) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    return [Completion(tuple(ids), "stop" if ids[-1] == END else "length") for ids in found]


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
        (lambda c: c.update(prompt_token_ids=[40, 41, 43]), "token 2 is 42 here and 43 there"),
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


# --- the check before the first rollout ---


def refused(match: str, kind: str = "vllm", *, model: str = "tiny", **changes) -> FakeServer:
    with serving(kind, **changes) as server, pytest.raises(InvalidInputError, match=match):
        engine_of(server, model)
    assert not server.rollouts
    return server


def test_another_tokenizer_is_found_before_a_rollout_is_asked_for() -> None:
    refused(r"tokenizer is not that of the measured model.*token 0 is \d+ here and \d+ there", shift=1)
    # Without /tokenize, the number of tokens tells.
    refused(r"has \d+ tokens there and \d+ here", "openai", edit=one_more_prompt_token_of_text)
    refused(r"read \d+ prompt tokens, but the prompt has", "openai", extra_prompt=1)
    refused(r"read \d+ prompt tokens, but the prompt has", "text", extra_prompt=1)
    # The ids decode to another text.
    refused("decode to .* here, but the server's text is 'Elsewhere'", edit=with_text("Elsewhere"))


def one_more_prompt_token_of_text(payload):
    if payload["usage"]["completion_tokens"] == 1:
        payload["usage"]["prompt_tokens"] += 5
    return payload


def with_text(text):
    def edit(payload):
        payload["choices"][0]["text"] = text
        return payload

    return edit


def test_a_server_whose_tokens_cannot_be_known_is_refused() -> None:
    refused("does not count the tokens of a prompt", "text", edit=lambda p: p | {"usage": {}})
    refused("neither returns token ids nor counts", "openai", edit=lambda p: p | {"usage": {}})


def test_another_model_is_refused_with_the_names_of_the_servers_models() -> None:
    server = refused(r"does not offer 'tinny': it lists 'tiny'\. Did you mean 'tiny'\?.*--served-model", model="tinny")
    assert server.seen == ["/v1/models"]
    refused(r"(?s)it lists 'tiny'.*The model `other` does not exist", "openai", model="other")
    # A server that takes any name, and answers with the model that it has.
    other = {"strict": False, "edit": lambda payload: payload | {"model": "tiny"}}
    refused("it lists 'tiny'.*It answered with the model 'tiny'", "openai", model="tiny-2", **other)


def test_a_server_that_cannot_list_its_models_is_asked_for_a_completion() -> None:
    for status in (404, 405, 500, 501):
        with serving("text", listing=Fault(status)) as server:
            assert engine_of(server).complete(PROMPTS, SAMPLING, SEEDS) == expected()
    # `transformers serve` adds a revision to the name.
    with serving("text", listing=(200, {"data": []}), edit=lambda payload: payload | {"model": "tiny@main"}) as server:
        assert engine_of(server).complete(PROMPTS, SAMPLING, SEEDS) == expected()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_too_busy_to_list_its_models_is_not_taken_for_an_unknown_one(status) -> None:
    match = rf"/models failed in 4 attempts\. The last time: status {status}: out of order"
    # This server refuses the first way of asking. An unknown server would now be asked with fewer options.
    with serving(narrow=True, listing=Fault(status)) as server, pytest.raises(ServerError, match=match):
        engine_of(server)
    assert not server.bodies


def test_a_server_that_refuses_to_list_its_models_is_not_asked_further() -> None:
    with serving(listing=Fault(400)) as server, pytest.raises(InvalidInputError, match=r"/models refused.*status 400"):
        engine_of(server)
    assert not server.bodies


def test_a_server_without_completions_is_refused() -> None:
    with serving() as server, pytest.raises(InvalidInputError, match=r"status 404: Not Found.*offers only chats"):
        engine_of(server.url.removesuffix("/v1") + "/v2")


def test_a_known_server_that_refuses_the_sampling_options_is_not_asked_with_fewer() -> None:
    refused("takes no request.*status 400: Unrecognized request argument", narrow=True)


def test_the_key_is_sent_and_never_shown(monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(key="sk-secret") as server:
        with pytest.raises(InvalidInputError, match=r"status 401: Incorrect API key.*None\. Put the server's key"):
            engine_of(server)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        with pytest.raises(InvalidInputError, match=r"Bearer \*\*\*") as caught:
            engine_of(server)
        assert "sk-wrong" not in str(caught.value)
        with pytest.raises(InvalidInputError, match="MY_KEY, which api_key_env names, is not set"):
            engine_of(server, api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "sk-secret")
        engine = engine_of(server, api_key_env="MY_KEY")
        assert engine.complete(PROMPTS, SAMPLING, SEEDS) == expected()


def test_the_check_ends_at_the_deadline() -> None:
    message = r"could not be checked within the deadline of 0\.5 seconds"
    with serving(edit=lambda _: time.sleep(1.5)) as server, pytest.raises(ServerError, match=message):
        engine_of(server, deadline=0.5)


# --- the file of kept rollouts, and the options ---


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
    with serving(fault=fault) as server, pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    loop.close()
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
