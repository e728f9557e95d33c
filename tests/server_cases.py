"""A small inference server with faults on demand, which answers as vLLM, llama.cpp or OpenAI's service does."""

import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from antiphase.models.loading import LoadedModel
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Completion
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_options import Retries, ServerOptions
from conftest import byte_tokenizer, tiny_model

END = 2
KNOWN = {
    "model",
    "prompt",
    "seed",
    "max_tokens",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "stream",
}


@dataclass
class Fault:
    """What the server does in place of an answer."""

    status: int = 500
    text: str = '{"error": {"message": "out of order"}}'
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0.0
    cut: bool = False  # the body ends in the middle of what Content-Length promised
    drop: bool = False  # the connection is closed without an answer


HALF = Fault(200, '{"choices": [{"text": "ab", "finish_re')
NO_CHOICE = Fault(200, '{"choices": []}')
CUT = Fault(200, '{"choices": [{"te', cut=True)
BUSY = Fault(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.2"})


class FakeServer:
    """A server on a free port of this machine.

    Args:
        behind: the address of a real server, which then answers every request that gets no fault.
        kind: `vllm`, `llamacpp`, `openai` (text only, refuses unknown fields) or `text` (takes no token ids either).
        fault: function of the number of a request for a rollout and of its body; None answers well.
        shift: added to every token id that the server shows, as if its tokenizer were another one.
    """

    def __init__(self, kind: str = "vllm", fault: Callable[[int, dict], Fault | None] = lambda *_: None, **changes):
        self.kind, self.fault, self.tokenizer = kind, fault, byte_tokenizer()
        self.models, self.key, self.tokenize = ["tiny"], None, kind in ("vllm", "llamacpp")
        self.listing: tuple[int, Any] | Fault | None = None
        self.strict, self.behind, self.narrow = True, None, kind in ("openai", "text")
        self.shift = self.extra_prompt = self.port = 0
        self.edit: Callable[[dict], Any] = lambda payload: payload
        for name, value in changes.items():
            setattr(self, name, value)
        self.bodies: list[dict] = []
        self.seen: list[str] = []
        self.under_way = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def rollouts(self) -> list[dict]:
        """The requests for rollouts: all except those of the check, which ask for 16 tokens or for 1."""
        return [body for body in self.bodies if body["max_tokens"] not in (1, 16)]

    def reply(self, path: str, body: dict) -> tuple[int, Any] | Fault:
        if path == "/v1/models" and self.listing is not None:
            return self.listing
        if path == "/v1/models":
            owner = {"vllm": "vllm", "llamacpp": "llamacpp"}.get(self.kind, "somebody")
            return 200, {"data": [{"id": name, "owned_by": owner} for name in self.models]}
        if path == "/tokenize" and self.tokenize:
            ids = self.tokenizer(body["prompt"], add_special_tokens=False).input_ids
            return 200, {"tokens": [token + self.shift for token in ids]}
        if path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        with self.lock:
            self.bodies.append(body)
            number = len(self.rollouts) - 1
        if body["max_tokens"] not in (1, 16):
            fault = self.fault(number, body)
            if fault is not None:
                return fault
        if self.strict and body["model"] not in self.models:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if self.narrow and set(body) - KNOWN - {"generation_config"}:
            return 400, {"error": {"message": "Unrecognized request argument supplied"}}
        if self.kind == "openai" and "generation_config" in body:
            return 400, {"error": {"message": "Unrecognized request argument supplied: generation_config"}}
        if self.kind == "text" and not isinstance(body["prompt"], str):
            return 422, {"detail": "prompt must be a string."}
        return 200, self.edit(self.completion(body))

    def passed_on(self, path: str, body: dict) -> tuple[int, Any] | Fault:
        """The answer of the server behind this one, or a fault."""
        if body.get("max_tokens", 1) not in (1, 16):
            with self.lock:
                self.bodies.append(body)
                number = len(self.rollouts) - 1
            fault = self.fault(number, body)
            if fault is not None:
                return fault
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.behind + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return Fault(error.code, error.read().decode())

    def completion(self, body: dict) -> dict:
        prompt = body["prompt"]
        prompt = list(prompt) if isinstance(prompt, list) else self.tokenizer(prompt).input_ids
        ids = sampled(prompt, body["seed"], body["max_tokens"])
        shown = ids[:-1] if ids[-1] == END else ids
        choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode(shown)}
        choice["finish_reason"] = "stop" if ids[-1] == END else "length"
        payload: dict[str, Any] = {"model": body["model"], "choices": [choice]}
        payload["usage"] = {"prompt_tokens": len(prompt) + self.extra_prompt, "completion_tokens": len(ids)}
        if self.kind == "vllm" and body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        if self.kind == "llamacpp" and body.get("return_tokens") and body.get("verbose"):
            payload["__verbose"] = {"tokens": ids}
        return payload


def sampled(prompt: list[int], seed: int, length: int) -> list[int]:
    """The completion that the server generates: letters, and an end token in about half of the cases."""
    draw = random.Random(f"{prompt}/{seed}")
    letters = byte_tokenizer()("abcdefghijklmnopqrstuvwxyz 0123456789.\n").input_ids
    ids = [draw.choice(letters) for _ in range(length)]
    return [*ids[: draw.randrange(1, length)], END] if length > 1 and draw.random() < 0.5 else ids


@contextmanager
def serving(
    kind: str = "vllm", fault: Callable[[int, dict], Fault | None] = lambda *_: None, **changes
) -> Iterator[FakeServer]:
    fake = FakeServer(kind, fault, **changes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer({})

        def do_POST(self):
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body):
            fake.seen.append(self.path)
            if fake.key is not None and self.headers.get("Authorization") != f"Bearer {fake.key}":
                said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
                self.send(401, {}, json.dumps({"error": {"message": said}}))
                return
            with fake.lock:
                fake.under_way += 1
                fake.most = max(fake.most, fake.under_way)
            try:
                time.sleep(0.01)
                reply = fake.reply(self.path, body) if fake.behind is None else fake.passed_on(self.path, body)
            finally:
                with fake.lock:
                    fake.under_way -= 1
            if isinstance(reply, Fault):
                self.fail(reply)
            else:
                self.send(reply[0], {}, json.dumps(reply[1]))

        def fail(self, fault: Fault):
            stopped.wait(fault.stall)
            if fault.drop:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            more = 50 if fault.cut else 0
            self.send(fault.status, fault.headers, fault.text, more)
            self.close_connection = self.close_connection or fault.cut

        def send(self, status, headers, text, more=0):
            data = text.encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) + more))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # The client went away.
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    stopped = threading.Event()
    with Server(("127.0.0.1", fake.port), Handler) as server:
        fake.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


FAST = Retries(attempts=4, first=0.02, longest=0.1, longest_named=1.0, grace=0.5)
SAMPLING = Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=3)
PROMPTS = [[40, 41, 42], [50, 51, 52, 53], [60], [40, 41, 42], [70, 71], [80, 81, 82], [90], [91, 92]]
SEEDS = [2**40 + 7, 1, 2, 3, 4, 5, 6, 2**63 - 1]


def loaded_tiny() -> LoadedModel:
    return LoadedModel("tiny", tiny_model(), byte_tokenizer(), None)


def engine_of(server: FakeServer | str, model: str = "tiny", **changes):
    url = server if isinstance(server, str) else server.url
    options = {"retries": FAST, "request_timeout": 5.0, "concurrency": 3, **changes}
    return make_generator("openai", loaded_tiny(), server=ServerOptions(url, model, **options))


def expected() -> list[Completion]:
    found = [sampled(prompt, seed % 2**31, 8) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    return [Completion(tuple(ids), "stop" if ids[-1] == END else "length") for ids in found]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    """Tests that import this fixture reach the servers of this machine without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
