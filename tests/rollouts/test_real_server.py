"""The engine `openai` against a real server, `transformers serve`, with a tiny model on the CPU."""

import os
import subprocess
import sys
import time
import urllib.request

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import antiphase
from antiphase.models.loading import load_model
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.kept_rollouts import kept_counts
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_options import ServerOptions
from conftest import tiny_model
from server_cases import free_port

for package in ("fastapi", "openai", "uvicorn"):
    pytest.importorskip(package, reason="pip install 'transformers[serving]'")

SECONDS_TO_START = 180


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each printable ASCII character, so that every completion is a text that keeps its tokens."""
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    vocab = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The directory of a model, and the address of a `transformers serve` that serves it."""
    path, port = tmp_path_factory.mktemp("served") / "tiny", free_port()
    tokenizer = letter_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(path)]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = path.with_name("log.txt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            end = time.monotonic() + SECONDS_TO_START
            while not _answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            yield path, f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_greedy_completions_of_the_server_are_those_of_the_engine_transformers(served, tmp_path) -> None:
    path, url = served
    loaded = load_model(str(path), dtype="float32")
    prompts = [loaded.tokenizer(text).input_ids for text in ("What is 2 + 2?", "abc", "Say it:\n", "Z")]
    greedy = Sampling(max_new_tokens=12, temperature=0)
    engine = make_generator("openai", loaded, server=ServerOptions(url, str(path)))
    assert engine.facts["server"] == {"kind": "unknown", "model": str(path), "prompts": "text", "completions": "text"}
    engine.keep_in(tmp_path / "kept.jsonl")
    found = engine.complete(prompts, greedy, range(4))
    expected = make_generator("transformers", loaded).complete(prompts, greedy, range(4))
    special = [any(token in (0, 1) for token in one.ids) for one in expected]
    for one, other, lost in zip(found, expected, special, strict=True):
        assert one == other or lost  # A text lacks the special tokens in its middle.
    assert sum(special) < 4
    counts = kept_counts([tmp_path / "kept.jsonl"])
    assert counts == {"num_retokenised": 4, "num_other_text": 0, "num_other_length": sum(special)}


def test_a_probe_by_the_server_is_measured_here_and_repeats_with_its_seeds(served, tmp_path) -> None:
    path, url = served
    options = {"num_prompts": 2, "samples": 2, "max_new_tokens": 16, "num_resamples": 10, "progress": False}
    options |= {"engine": "openai", "base_url": url, "concurrency": 1, "figures": False, "report": False}
    first = antiphase.probe(str(path), out=tmp_path / "first", **options)
    again = antiphase.probe(str(path), batch_size=3, **options)
    assert len(first.rollouts) == 4
    assert first.rollouts.completion.nunique() == 4
    # With one request at a time, the seeds decide; the size of the batch does not matter.
    assert first.rollouts.completion.tolist() == again.rollouts.completion.tolist()
    assert (
        antiphase.probe(str(path), seed=1, **options).rollouts.completion.tolist()
        != first.rollouts.completion.tolist()
    )
    (result,) = first.summary["results"]
    assert result["num_retokenised"] == 4
    assert result["num_other_text"] == 0
    assert "the server returned 4 rollouts as text" in " ".join(str(first).split())
    assert first.tokens.logprob.notna().all()
    assert not (tmp_path / "first" / "parts").exists()
