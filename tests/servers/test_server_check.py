"""The check of a server before the first rollout: its models, its tokenizer, its key."""

import time

import pytest

from antiphase.errors import InvalidInputError, ServerError
from server_cases import (
    PROMPTS,
    SAMPLING,
    SEEDS,
    FakeServer,
    Fault,
    engine_of,
    expected,
    no_proxy,  # noqa: F401  # a fixture of every test here
    serving,
)


def refused(match: str, kind: str = "vllm", *, model: str = "tiny", **changes) -> FakeServer:
    with serving(kind, **changes) as server, pytest.raises(InvalidInputError, match=match):
        engine_of(server, model)
    assert not server.rollouts
    return server


def test_another_tokenizer_is_found_before_a_rollout_is_asked_for() -> None:
    refused(r"tokenizer is not that of the measured model.*token 0 is \d+, expected \d+", shift=1)
    # Without /tokenize, the number of tokens tells.
    refused(r"has \d+ tokens by the server and \d+ by", "openai", edit=one_more_prompt_token_of_text)
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
    message = r"not offer the model 'tinny'\. The server lists 'tiny'\. Did you mean 'tiny'\?.*--served-model"
    server = refused(message, model="tinny")
    assert server.seen == ["/v1/models"]
    refused(r"(?s)The server lists 'tiny'.*The model `other` does not exist", "openai", model="other")
    # A server that takes any name, and answers with the model that it has.
    other = {"strict": False, "edit": lambda payload: payload | {"model": "tiny"}}
    refused("server lists 'tiny'.*A request for 'tiny-2' was answered by 'tiny'", "openai", model="tiny-2", **other)


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
    refused("accepts no form of request.*status 400: Unrecognized request argument", narrow=True)


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
