"""The engine `openai` against a real server, `transformers serve`, with a tiny model on the CPU."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import antiphase
from antiphase.errors import ServerError
from antiphase.models.loading import load_model
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.kept_rollouts import kept_counts
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_options import Retries, ServerOptions
from antiphase.runs import server_choice
from conftest import tiny_model
from server_cases import BUSY, CUT, HALF, Fault, free_port, serving

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
    # Without a cache of the hub, the server answers a request for its models with status 500.
    cache = path.with_name("cache")
    cache.mkdir()
    environment["HF_HUB_CACHE"] = str(cache)
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


PROBE = {
    "num_prompts": 2, "samples": 2, "max_new_tokens": 17, "num_resamples": 10, "batch_size": 3, "progress": False,
    "figures": False, "report": False, "engine": "openai", "concurrency": 1,
}  # fmt: skip


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
    options = {**PROBE, "base_url": url}
    first = antiphase.probe(str(path), out=tmp_path / "first", **options)
    again = antiphase.probe(str(path), **{**options, "batch_size": 16})
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


@pytest.mark.slow
def test_with_faults_between_the_tables_are_the_same(served, tmp_path, monkeypatch) -> None:
    path, url = served
    monkeypatch.setattr(server_choice, "RETRIES", Retries(attempts=3, first=0.02, longest=0.1))
    whole = antiphase.probe(str(path), out=tmp_path / "whole", base_url=url, **PROBE)
    behind, options = {"behind": url.removesuffix("/v1")}, {**PROBE, "request_timeout": 3.0}
    # Each fault that passes costs a repetition and nothing else.
    passing = {0: BUSY, 1: Fault(500), 3: CUT, 4: HALF, 6: Fault(drop=True), 7: Fault(stall=30)}
    with serving(fault=lambda number, _: passing.get(number), **behind) as server:
        found = antiphase.probe(str(path), base_url=server.url, **options)
    assert len(server.rollouts) == len(passing) + 4
    assert_frame_equal(found.tokens, whole.tokens, check_exact=True)
    # Each fault that lasts ends the run. Then --resume requests only what is missing.
    out, asked = tmp_path / "cut", 0
    for fault in (Fault(stall=30), Fault(500), HALF):
        with serving(fault=lambda number, _, fault=fault: fault if number else None, **behind) as server:
            began = time.monotonic()
            with pytest.raises(ServerError, match=r"rollouts of the batch are finished.*--resume"):
                antiphase.probe(str(path), out=out, resume=True, base_url=server.url, **options)
            assert time.monotonic() - began < 30
        asked += 1
        kept = [len(file.read_text().splitlines()) for file in out.glob("parts/*/*.kept.jsonl")]
        assert sum(kept) == asked
    gone = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ServerError, match="the connection failed"):
        antiphase.probe(str(path), out=out, resume=True, base_url=gone, **options)
    with serving(**behind) as server:
        antiphase.probe(str(path), out=out, resume=True, base_url=server.url, **options)
    assert len(server.rollouts) == 4 - asked
    for name in ("tokens", "rollouts", "steps", "alternatives"):
        tables = [pq.read_table(folder / f"{name}.parquet").to_pandas() for folder in (tmp_path / "whole", out)]
        assert_frame_equal(*tables, check_exact=True)
    results = [json.loads((folder / "summary.json").read_text())["results"] for folder in (tmp_path / "whole", out)]
    assert results[0] == results[1]
    assert not (out / "parts").exists()
