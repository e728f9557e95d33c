"""The most probable next tokens of every position: against a softmax by hand, and in a run's tables."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.signal_spec import ESTIMATORS, SignalSpec
from antiphase.signals import entropy, vocabulary_tiles
from antiphase.signals.alternatives import Candidates, top_alternatives
from antiphase.signals.entropy import log_probabilities
from antiphase.signals.measure import token_signals
from antiphase.types import TokenBatch, TokenSignals
from conftest import VOCAB, byte_tokenizer, pure_double, tiny_model

# A softcap, a logit scale, a division of the logits, tied weights, and none of these.
HEADS = ("gemma2", "cohere", "granite", "llama-mqa-tied", "llama-gqa", "gpt2")
OPTIONS = {"num_prompts": 3, "samples": 2, "max_new_tokens": 24, "batch_size": 2, "num_resamples": 20}


def rollouts(side: str = "right") -> TokenBatch:
    generator = torch.Generator().manual_seed(3)
    rows = [[torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in (a, b)]
            for a, b in ((7, 9), (3, 5), (1, 12))]  # fmt: skip
    prompts, completions = zip(*rows, strict=True)
    return TokenBatch.from_ids(prompts, completions, padding_side=side, pad_token_id=2)


def measure(model, batch: TokenBatch, estimator: str = "own", num: int = 6, **changes) -> TokenSignals:
    return token_signals(model, batch, SignalSpec(estimator=estimator, num_alternatives=num, **changes))


def by_hand(model, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
    """p of every generated token's position `[target, vocab]`, from the model's own logits, row by row."""
    rows = []
    for row in range(len(batch)):
        real = batch.attention_mask[row]
        ids, targets = batch.input_ids[row, real], torch.nonzero(batch.completion_mask[row, real]).flatten()
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, targets - 1].double() / temperature
        exponents = (logits - logits.max(-1, keepdim=True).values).exp()
        rows.append(exponents / exponents.sum(-1, keepdim=True))
    return torch.cat(rows)


def at_targets(signals: TokenSignals, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    assert signals.alternatives is not None
    return signals.alternatives.token_ids[batch.completion_mask], signals.alternatives.logprobs[batch.completion_mask]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("architecture", HEADS)
def test_softmax_by_hand_in_float64(architecture: str, temperature: float) -> None:
    batch = rollouts()
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        ids, logprobs = at_targets(measure(model, batch, temperature=temperature), batch)
        p = by_hand(model, batch, temperature)
    order = p.argsort(-1, descending=True)[:, :6]
    assert torch.equal(ids, order)
    torch.testing.assert_close(logprobs, p.gather(-1, order).log(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", HEADS)
def test_softmax_by_hand_in_the_models_dtype(architecture: str, dtype: torch.dtype) -> None:
    batch, model = rollouts(), tiny_model(architecture, dtype)
    ids, logprobs = at_targets(measure(model, batch, "full"), batch)
    assert logprobs.dtype == torch.float32
    p = by_hand(model, batch)
    # Near ties may change places; the values may not.
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    assert (p.gather(-1, ids).log() - logprobs).abs().max() < tolerance
    assert (p.topk(6).values.log() - logprobs).abs().max() < tolerance
    assert (logprobs.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("architecture", ["llama-gqa", "gemma2"])
def test_every_estimator_says_the_same(architecture: str, estimator: str) -> None:
    batch = rollouts("left")
    with pure_double():
        model = tiny_model(architecture, torch.float64)
        found = measure(model, batch, estimator, targets_per_rollout=3, temperature=0.8)
        truth = measure(model, batch, "oracle", temperature=0.8)
    assert torch.equal(found.alternatives.token_ids, truth.alternatives.token_ids)
    torch.testing.assert_close(
        found.alternatives.logprobs, truth.alternatives.logprobs, equal_nan=True, rtol=1e-10, atol=1e-12
    )
    # Every generated token has them, whether its strength was measured or not.
    assert found.measured.sum() < batch.completion_mask.sum()
    assert torch.equal((found.alternatives.token_ids >= 0).all(-1), batch.completion_mask)
    assert torch.equal(found.alternatives.logprobs.isfinite().all(-1), batch.completion_mask)
    assert (found.alternatives.token_ids[~batch.completion_mask] == -1).all()
    assert found.alternatives.logprobs[~batch.completion_mask].isnan().all()


@pytest.mark.parametrize("tiles", [True, False], ids=["tiles", "whole vocabulary"])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_padding_and_chunks_change_nothing(estimator: str, tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = "last" if estimator == "last" else "all"
    shapes = []
    of = Candidates.of

    def watched(logits, *rest):
        shapes.append(tuple(logits.shape))
        return of(logits, *rest)

    monkeypatch.setattr(Candidates, "of", staticmethod(watched))
    if not tiles:
        monkeypatch.setattr(vocabulary_tiles, "plain_linear", lambda _: None)
    with pure_double():
        model = tiny_model("gemma2", torch.float64)
        measure(model, rollouts(), estimator, num=0, layers=layers)  # what is looked at once per model
        whole = at_targets(measure(model, rollouts(), estimator, layers=layers), rollouts())
        # Once per target, also where `full` runs the head again for its gradients.
        assert sum(rows * width for rows, width in shapes) == int(rollouts().completion_mask.sum()) * VOCAB
        monkeypatch.setattr(entropy, "_CHUNK_ELEMENTS", 4 * VOCAB)
        monkeypatch.setattr(vocabulary_tiles, "_TILE", (4, 100))
        shapes.clear()
        for side, budget in (("left", 2048), ("right", 20), ("left", 20)):
            batch = rollouts(side)
            ids, logprobs = at_targets(measure(model, batch, estimator, layers=layers, token_budget=budget), batch)
            assert torch.equal(ids, whole[0])
            torch.testing.assert_close(logprobs, whole[1], rtol=1e-10, atol=1e-12)
    # Never more logits at a time than a tile's, or a chunk's.
    assert max(rows for rows, _ in shapes) == 4
    assert max(rows * width for rows, width in shapes) == 4 * (100 if tiles else VOCAB)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("estimator", ["own", "oracle"])
def test_whole_vocabulary_gives_the_entropy(estimator: str, temperature: float) -> None:
    batch = rollouts()
    with pure_double():
        signals = measure(tiny_model("cohere", torch.float64), batch, estimator, num=VOCAB, temperature=temperature)
    ids, logprobs = at_targets(signals, batch)
    assert torch.equal(ids.sort(-1).values, torch.arange(VOCAB).expand_as(ids))
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(len(ids), dtype=torch.float64))
    mine = -(logprobs.exp() * logprobs).sum(-1)
    torch.testing.assert_close(mine, signals.entropy[batch.completion_mask], rtol=1e-12, atol=1e-12)
    # The token that was taken is among them, with the very log-probability that it has as a token.
    taken = logprobs[ids == batch.input_ids[batch.completion_mask][:, None]]
    assert torch.equal(taken, signals.logprob[batch.completion_mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_other_signals_stay_bitwise_and_none_computes_nothing(
    estimator: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, model = rollouts(), tiny_model("gemma2", dtype)
    some = measure(model, batch, estimator)

    def never(*_) -> None:
        raise AssertionError("nothing was asked for")

    monkeypatch.setattr(Candidates, "of", never)
    monkeypatch.setattr(torch.Tensor, "sort", never)
    none = measure(model, batch, estimator, num=0)
    assert none.alternatives is None
    for name in ("entropy", "logprob", "logprob_control", "self_certainty", "strength_by_projection"):
        torch.testing.assert_close(getattr(some, name), getattr(none, name), equal_nan=True, rtol=0, atol=0)


LEVELS = st.sampled_from([-torch.inf, -2.0, 0.0, 0.5, 3.0])


@given(
    st.integers(1, 12).flatmap(lambda size: st.lists(st.lists(LEVELS, min_size=size, max_size=size), min_size=1)),
    st.integers(1, 12),
)
def test_equal_tokens_come_by_id(rows: list[list[float]], num: int) -> None:
    logits = torch.tensor(rows)
    logits[:, 0] = 1.0  # at least one is finite
    log_p = log_probabilities(logits)
    num = min(num, logits.shape[-1])
    found = top_alternatives(log_p, num)
    for row, ids, values in zip(log_p.tolist(), found.token_ids.tolist(), found.logprobs.tolist(), strict=True):
        wanted = sorted(range(len(row)), key=lambda token: (-row[token], token))[:num]
        assert ids == wanted
        assert values == [row[token] for token in wanted]


@given(
    st.integers(1, 12).flatmap(lambda size: st.lists(st.lists(LEVELS, min_size=size, max_size=size), min_size=1)),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_tiles_of_the_vocabulary_change_no_candidate(rows: list[list[float]], num: int, width: int) -> None:
    logits, best = torch.tensor(rows), None
    for first in range(0, logits.shape[-1], width):
        best = Candidates.of(logits[:, first : first + width], num, first, best)
    for row, ids, values in zip(logits.tolist(), best.token_ids.tolist(), best.logits.tolist(), strict=True):
        assert ids == sorted(sorted(range(len(row)), key=lambda token: (-row[token], token))[:num])
        assert values == [row[token] for token in ids]


def test_equal_tokens_of_a_large_vocabulary() -> None:
    # Half precision leaves few distinct values, so that many tokens share the last place.
    logits = torch.randn(50, 20_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = top_alternatives(log_probabilities(logits), 40)
    values, ids = log_probabilities(logits).sort(dim=-1, descending=True, stable=True)
    assert torch.equal(found.token_ids, ids[:, :40])
    assert torch.equal(found.logprobs, values[:, :40])


def test_more_than_the_vocabulary_is_refused() -> None:
    for estimator in ("own", "oracle"):
        with pytest.raises(InvalidInputError, match=r"301 alternatives .* vocabulary has 300 tokens\. Lower"):
            measure(tiny_model(), rollouts(), estimator, num=301)
    with pytest.raises(InvalidInputError, match="vocabulary has 4 tokens"):
        top_alternatives(torch.zeros(1, 4), 5)


def test_batch_without_completions() -> None:
    signals = measure(tiny_model(), TokenBatch.from_ids([[5, 6]], [[]]), num=2)
    assert signals.alternatives.token_ids.tolist() == [[[-1, -1], [-1, -1]]]
    assert signals.alternatives.logprobs.isnan().all()


@pytest.fixture(scope="module")
def run(model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("alternatives") / "run"
    found = antiphase.probe(
        str(model_dir), estimators=("full:4", "own"), signal_temperature=0.7, out=out, progress=False, figures=False,
        **OPTIONS,
    )  # fmt: skip
    return out, found


def test_table(run) -> None:
    out, found = run
    table = pq.read_table(out / "alternatives.parquet")
    assert {field.name: field.type for field in table.schema} == {
        "model": pa.string(), "rollout_id": pa.string(), "position": pa.int32(), "rank": pa.int32(),
        "token_id": pa.int64(), "token": pa.string(), "logprob": pa.float32(),
    }  # fmt: skip
    frame = table.to_pandas()
    pd.testing.assert_frame_equal(frame, found.alternatives)
    # Once, whatever the number of estimators, in the order of the tokens.
    tokens = found.tokens[found.tokens.estimator == "full"].reset_index(drop=True)
    assert len(frame) == 5 * len(tokens)
    keys = ["model", "rollout_id", "position"]
    pd.testing.assert_frame_equal(frame[frame["rank"] == 0][keys].reset_index(drop=True), tokens[keys])
    assert (frame["rank"].to_numpy().reshape(-1, 5) == np.arange(5)).all()
    assert (np.diff(frame.logprob.to_numpy().reshape(-1, 5)) <= 0).all()
    assert np.exp(frame.logprob.to_numpy(dtype="float64")).reshape(-1, 5).sum(1).max() <= 1 + 1e-6


def test_table_says_what_the_tokens_say(run, model_dir) -> None:
    _, found = run
    tokens = found.tokens[found.tokens.estimator == "full"]
    both = found.alternatives.merge(tokens, on=["model", "rollout_id", "position"], suffixes=("", "_taken"))
    taken = both[both.token_id == both.token_id_taken]
    assert len(taken) > 10
    assert (taken.logprob == taken.logprob_taken).all()
    assert (taken.token == taken.token_taken).all()
    tokenizer, rows = antiphase.load_model(str(model_dir)).tokenizer, found.alternatives.sample(40, random_state=0)
    assert [tokenizer.decode([token]) for token in rows.token_id] == rows.token.tolist()


def test_table_against_the_model(run, model_dir) -> None:
    _, found = run
    model = antiphase.load_model(str(model_dir)).model
    for _, row in found.rollouts[found.rollouts.estimator == "own"].iterrows():
        batch = TokenBatch.from_ids([row.prompt_ids.tolist()], [row.completion_ids.tolist()])
        p = by_hand(model, batch, 0.7)
        mine = found.alternatives[found.alternatives.rollout_id == row.rollout_id]
        ids = torch.tensor(mine.token_id.to_numpy(copy=True)).view(-1, 5)
        logprobs = torch.tensor(mine.logprob.to_numpy(dtype="float64")).view(-1, 5)
        torch.testing.assert_close(p.gather(-1, ids).log(), logprobs, rtol=0, atol=1e-4)
        torch.testing.assert_close(p.topk(5).values.log(), logprobs, rtol=0, atol=1e-4)


def test_saved_and_loaded(run, tmp_path) -> None:
    out, found = run
    pd.testing.assert_frame_equal(antiphase.Fingerprint.load(out).alternatives, found.alternatives)
    copy = antiphase.Fingerprint.load(found.save(tmp_path / "copy"))
    pd.testing.assert_frame_equal(copy.alternatives, found.alternatives)


def test_number_is_an_option_and_moves_no_other_number(run, model_dir, tmp_path) -> None:
    _, found = run
    same = {"estimators": ("full:4", "own"), "signal_temperature": 0.7, "progress": False, **OPTIONS}
    out = tmp_path / "none"
    none = antiphase.probe(str(model_dir), alternatives=0, out=out, figures=False, **same)
    assert none.alternatives is None
    assert not list(out.rglob("alternatives*"))
    pd.testing.assert_frame_equal(none.tokens, found.tokens, check_exact=True)
    pd.testing.assert_frame_equal(none.rollouts, found.rollouts, check_exact=True)
    two = antiphase.probe(str(model_dir), alternatives=2, **same).alternatives
    first_two = found.alternatives[found.alternatives["rank"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(two, first_two)


def test_several_models(model_dir, tmp_path) -> None:
    other = tmp_path / "other"
    tiny_model("qwen3").save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    found = antiphase.probe([str(model_dir), str(other)], share_rollouts=True, progress=False, **OPTIONS)
    first, second = (found.alternatives[found.alternatives.model == name] for name in (str(model_dir), str(other)))
    assert first.position.tolist() == second.position.tolist()
    assert first.token_id.tolist() != second.token_id.tolist()


def test_rollout_without_tokens_has_none(model_dir) -> None:
    given = [{"prompt": "a", "completion": ""}, {"prompt": "b", "completion": "cd"}]
    found = antiphase.probe(str(model_dir), rollouts=given, allow_short=True, progress=False, alternatives=3)
    assert found.alternatives.rollout_id.unique().tolist() == ["prompt-1/0"]
    assert found.alternatives.position.tolist() == [0, 0, 0, 1, 1, 1]
    empty = antiphase.probe(str(model_dir), rollouts=given[:1], allow_short=True, progress=False)
    assert len(empty.alternatives) == 0
