"""The second study's runner: its split, its shuffles, what it stores, a stop in the middle, and its refusals."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import corpora
import emergence_cells
import pytest
import torch
import yaml
from answers_sft import Training
from checkpoint_measures import materials_of
from emergence_budget import describe
from emergence_cells import Study
from emergence_settings import read_settings

from antiphase import probe
from antiphase.errors import InvalidInputError
from antiphase.models.loading import load_model
from antiphase.steps import Splitter

SECOND = Path(__file__).parents[2] / "studies" / "second"
WORDS = ("Wait", "so", "three", "and", "four", "make", "seven", "then", "we", "add", "two")


def sentence(seed):
    return " ".join(WORDS[(seed * step) % len(WORDS)] for step in range(1, 3 + seed % 3)).capitalize() + "."


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """Answers of two kinds to 40 questions, in a file."""
    rows = [
        {"question": f"Q{n}?", "kind": kind, "completion": " ".join(sentence(n + k + shift) for k in range(10))}
        for n in range(40)
        for kind, shift in (("thinking", 0), ("base", 3))
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ANTIPHASE_TRACES", str(path))
    corpora.pairs_of.cache_clear()
    yield rows
    corpora.pairs_of.cache_clear()


def settings_of(tmp_path, model, **changes):
    content = {
        "model": str(model),
        "device": "cpu",
        "threads": 1,
        "seeds": [0],
        "held_out": 0.3,
        "corpora": {"reasoning": {"steps": [0, 1, 2]}, "sentences-shuffled": {"steps": [0, 1, 2]}},
        "train": {"learning_rate": 1e-2, "rows": 2, "answer_tokens": 40, "prompt_tokens": 20},
        "measure": {
            "texts": ["reasoning", "base"],
            "num_texts": 4,
            "text_tokens": 120,
            "num_rollouts": 4,
            "rollout_tokens": 24,
            "estimators": {"own": "all", "last": ["base", "rollouts"]},
            "units": ["step", "fixed:8", "type", "token"],
            "num_resamples": 20,
            "full": {"steps": [0, "last"], "seeds": [0], "texts": ["reasoning", "rollouts"], "num_texts": 2},
            "sums": {"problems": 3, "new_tokens": 4},
        },
        "seconds": {"step": 5, "measurement": 180, "full": 120},
    }
    changes = {key: {**content[key], **value} if key == "measure" else value for key, value in changes.items()}
    content |= changes
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_settings(path)


def stored(out):
    return {path.name: path.read_bytes() for path in sorted((out / "cells").iterdir())}


def quiet(_):
    pass


def run(settings, out, names=()):
    cells = settings.chosen(names)
    study = Study(settings, out, out / "work", quiet)
    study.check(cells)
    study.run(cells)
    return stored(out)


def test_a_stopped_cell_goes_on_with_the_same_bytes(traces, model_dir, tmp_path, monkeypatch):
    settings = settings_of(tmp_path, model_dir)
    whole = run(settings, tmp_path / "whole", ["reasoning"])
    assert sorted(whole) == ["reasoning.s0.1.json", "reasoning.s0.2.json"]
    assert not (tmp_path / "whole" / "work" / "reasoning.s0").exists()
    first, second = (json.loads(whole[f"reasoning.s0.{step}.json"]) for step in (1, 2))
    assert first["model"]["weights"] != second["model"]["weights"]
    assert first["training"]["loss"] != second["training"]["loss"]

    advanced = Training.advance

    def stopping(self):
        if self.step == 1:
            raise KeyboardInterrupt
        advanced(self)

    monkeypatch.setattr(Training, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "stopped", ["reasoning"])
    assert sorted(stored(tmp_path / "stopped")) == ["reasoning.s0.1.json"]
    monkeypatch.setattr(Training, "advance", advanced)

    # The next stop is in the middle of a measurement, after the step was kept.
    measured = emergence_cells.measure_checkpoint

    def failing(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(emergence_cells, "measure_checkpoint", failing)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "stopped", ["reasoning"])
    monkeypatch.setattr(emergence_cells, "measure_checkpoint", measured)
    steps = []
    monkeypatch.setattr(Training, "advance", lambda self: steps.append(self.step))
    assert run(settings, tmp_path / "stopped", ["reasoning"]) == whole
    assert steps == []
    assert "3 cells, 1 done" in describe(settings, settings.cells(), tmp_path / "stopped")
    assert "0 optimizer steps" in describe(settings, settings.chosen(["reasoning"]), tmp_path / "stopped")
    # A kill after the last measurement leaves the checkpoint, and the next call removes it.
    left = tmp_path / "stopped" / "work" / "reasoning.s0"
    left.mkdir(parents=True)
    run(settings, tmp_path / "stopped", ["reasoning"])
    assert not left.exists()


def test_what_is_stored_is_what_a_probe_finds(traces, model_dir, tmp_path):
    settings = settings_of(tmp_path, model_dir)
    found = json.loads(run(settings, tmp_path / "out", ["untrained"])["untrained.s0.0.json"])
    loaded = load_model(str(model_dir), dtype="float32", device="cpu")
    texts = materials_of(settings, loaded.tokenizer).texts["base"]
    rollouts = [
        {"prompt_ids": list(one.prompt_ids), "completion_ids": list(one.answer_ids), "prompt_id": str(number)}
        for number, one in enumerate(texts)
    ]
    direct = probe(
        loaded.model, tokenizer=loaded.tokenizer, rollouts=rollouts, estimators=("own", "last"), num_resamples=20,
        alternatives=0, progress=False,
    )  # fmt: skip
    entries = {(entry["texts"], entry["estimator"]): entry for entry in found["entries"]}
    assert set(entries) == {(t, "own") for t in ("reasoning", "base", "rollouts")} | {
        ("base", "last"), ("rollouts", "last"), ("reasoning", "full"), ("rollouts", "full"),
    }  # fmt: skip
    for estimator in ("own", "last"):
        entry, result = entries["base", estimator], direct.result(None, estimator)
        assert entry["num_tokens"] == result["num_tokens"] > 200
        assert entry["entropy_mean"] == pytest.approx(result["entropy_mean"], abs=1e-5)
        for unit in ("step", "type", "token"):
            pooled, within = entry["units"][unit]["pooled"]["none"], entry["units"][unit]["within"]["none"]
            for end in ("value", "low", "high"):
                assert pooled[end] == pytest.approx(result["units"][unit][end], abs=1e-5)
            assert within["mean"] == pytest.approx(result["units"][unit]["within"]["value"], abs=1e-5)
            each = direct.rollouts[direct.rollouts.estimator == estimator][f"spearman_{unit}"]
            assert within["num"] == each.notna().sum() == len(texts)
            assert within["each"] == pytest.approx(list(each), abs=1e-5)
        given = result["units"]["step"]["given"]
        assert entry["units"]["step"]["pooled"]["length+position"]["value"] == pytest.approx(
            given["both"]["value"], abs=1e-5
        )
        assert entry["controls"]["together"]["partial"]["value"] == pytest.approx(
            result["controls"]["together"]["partial"]["value"], abs=1e-5
        )
        links = {link["link"]: link["value"] for link in result["chain"]}
        assert entry["chain"]["hidden–strength"]["value"] == pytest.approx(links["hidden–strength"], abs=1e-5)


def test_no_text_and_no_token_is_stored(traces, model_dir, tmp_path):
    found = run(settings_of(tmp_path, model_dir), tmp_path / "out", ["untrained"])["untrained.s0.0.json"]
    assert str(tmp_path).encode() not in found

    def texts(value):
        if isinstance(value, dict):
            return [text for each in value.values() for text in texts(each)]
        if isinstance(value, list):
            return [text for each in value for text in texts(each)]
        return [value] if isinstance(value, str) else []

    entries = texts(json.loads(found)["entries"])
    assert set(entries) <= {"reasoning", "base", "rollouts", "own", "last", "full", "mean", "joint"}


def test_no_held_out_question_is_trained_on(traces, model_dir, tmp_path):
    settings = settings_of(tmp_path, model_dir)
    study = Study(settings, tmp_path / "out", tmp_path / "work", quiet)
    trained = {answer.question for corpus in settings.corpora for answer in study.answers(corpus)}
    measured = {one.question for answers in study.materials.texts.values() for one in answers}
    assert trained
    assert measured
    assert not trained & measured
    assert trained | measured <= {row["question"] for row in traces}
    share = sum(corpora.is_held_out(f"question {n}", 0.2) for n in range(2000)) / 2000
    assert share == pytest.approx(0.2, abs=0.03)
    assert corpora.is_held_out("a  b\n", 0.5) == corpora.is_held_out("a b", 0.5)


def test_shuffles_keep_what_they_shuffle():
    text = "One is 3.5. Two!\n\nThree, e.g. four. Five?\nSix"
    starts = [0, *Splitter().starts(text), len(text)]
    parts = Counter(text[a:b].strip() for a, b in itertools.pairwise(starts))
    orders = {corpora.shuffled_sentences(text, str(seed)) for seed in range(20)}
    assert len(orders) > 5
    for order in orders:
        assert all(part in order for part in parts)
        assert Counter(order.split()) == Counter(text.split())
        assert len(Splitter().starts(order)) == len(parts) - 1
    words = {corpora.shuffled_words(text, str(seed)) for seed in range(20)}
    assert len(words) > 15
    assert all(Counter(order.split()) == Counter(text.split()) for order in words)
    assert all(re.findall(r"\s+", order) == re.findall(r"\s+", text) for order in words)


def test_a_long_answer_ends_with_its_last_whole_sentence(traces, model_dir, tmp_path):
    study = Study(settings_of(tmp_path, model_dir), tmp_path / "out", tmp_path / "work", quiet)
    tokenizer = load_model(str(model_dir)).tokenizer
    texts = [tokenizer.decode(answer.answer_ids).rstrip() for answer in study.answers("reasoning")]
    # An answer whose first sentence is already too long is cut inside it.
    several = [text for text in texts if Splitter().starts(text)]
    assert len(several) > 10
    assert all(text.endswith(".") for text in several)


def test_a_checkpoint_of_other_settings_is_refused(traces, model_dir, tmp_path):
    settings = settings_of(tmp_path, model_dir)
    study = Study(settings, tmp_path / "out", tmp_path / "work", quiet)
    training = Training(load_model(str(model_dir)), study.answers("reasoning"), settings.train, 0)
    training.save(tmp_path / "checkpoint.pt", "one")
    training.load(tmp_path / "checkpoint.pt", "one")
    with pytest.raises(InvalidInputError, match=r"other settings or data\. Remove it"):
        training.load(tmp_path / "checkpoint.pt", "another")


def test_results_of_other_data_are_refused(traces, model_dir, tmp_path, monkeypatch):
    settings = settings_of(tmp_path, model_dir)
    run(settings, tmp_path / "out", ["reasoning"])
    other = tmp_path / "other.jsonl"
    rows = [{**row, "completion": row["completion"].replace("hree", "ree")} for row in traces]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ANTIPHASE_TRACES", str(other))
    corpora.pairs_of.cache_clear()
    study = Study(settings, tmp_path / "out", tmp_path / "work", quiet)
    with pytest.raises(InvalidInputError, match="was measured with other data"):
        study.check(settings.chosen(["reasoning"]))


def test_the_shuffled_corpus_has_the_answers_of_the_other_in_the_same_order(traces, model_dir, tmp_path):
    study = Study(settings_of(tmp_path, model_dir), tmp_path / "out", tmp_path / "work", quiet)
    plain, shuffled = study.answers("reasoning"), study.answers("sentences-shuffled")
    assert [one.question for one in plain] == [one.question for one in shuffled]
    same = [one.answer_ids == other.answer_ids for one, other in zip(plain, shuffled, strict=True)]
    assert not all(same)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": {"reason": {"steps": [0, 1]}}}, "unknown corpus 'reason'. There are: reasoning"),
        ({"corpora": {"reasoning": {"steps": [2, 1]}}}, r"steps must be ascending numbers .* got \[2, 1\]"),
        ({"corpora": {"reasoning": {"steps": [1, 2], "later_seeds": [3]}}}, r"later_seeds must be some .* got \[3\]"),
        ({"corpora": {"reasoning": {"steps": [0, 2], "later_seeds": [0]}}}, r"later_seeds must be some .* got \[0\]"),
        (
            {"corpora": {"reasoning": {"steps": [1], "later_seed": [1]}}},
            "unknown option 'later_seed'. There are: steps",
        ),
        ({"held_out": 2}, "held_out must lie between 0 and 1; got 2"),
        ({"more": 1}, "look at more"),
        ({"measure": {"estimators": {"last": ["prose"]}}}, "last names 'prose', which is no set of measured texts"),
        ({"measure": {"estimators": {"lst": "all"}}}, "got 'lst'. Did you mean 'last'"),
    ],
)
def test_refused_settings(traces, model_dir, tmp_path, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        settings_of(tmp_path, model_dir, **changes)


def test_later_seeds_may_have_fewer_steps(tmp_path):
    corpora = {"reasoning": {"steps": [0, 1, 2, 4], "later_seeds": [2]}, "base": {"steps": [0, 1]}}
    settings = settings_of(tmp_path, "no-model", seeds=[3, 0], corpora=corpora)
    assert [(cell.name, cell.steps) for cell in settings.cells()] == [
        ("untrained.s3", (0,)), ("base.s3", (1,)), ("reasoning.s3", (1, 2, 4)),
        ("untrained.s0", (0,)), ("base.s0", (1,)), ("reasoning.s0", (2,)),
    ]  # fmt: skip


def test_refusals_come_before_a_model_is_loaded(traces, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(emergence_cells, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    settings = settings_of(tmp_path, model_dir)
    with pytest.raises(
        InvalidInputError, match=r"--only 'prose' chooses no cell\. There are: untrained.s0, reasoning"
    ):
        settings.chosen(["prose"])
    monkeypatch.delenv("ANTIPHASE_TRACES")
    corpora.pairs_of.cache_clear()
    monkeypatch.setattr("corpus_sources._hub", lambda *_: [])
    with pytest.raises(InvalidInputError, match=r"corpus 'base' needs answers of base models.* Set ANTIPHASE_TRACES"):
        corpora.pairs_of("base")
    monkeypatch.setenv("ANTIPHASE_TRACES", str(tmp_path / "missing.jsonl"))
    with pytest.raises(InvalidInputError, match=r"missing.jsonl' does not exist"):
        run(settings, tmp_path / "out")
    monkeypatch.setenv("ANTIPHASE_PROSE", str(tmp_path / "missing.txt"))
    with pytest.raises(InvalidInputError, match=r"ANTIPHASE_PROSE names the file '.*missing.txt'"):
        corpora.pairs_of("prose")


def test_texts_that_are_too_few_are_refused(traces, model_dir, tmp_path):
    settings = settings_of(tmp_path, model_dir, held_out=0.05)
    with pytest.raises(InvalidInputError, match="4 held-out questions with answers of enough tokens are needed; got"):
        run(settings, tmp_path / "out")


def test_a_folder_of_other_settings_is_refused(traces, model_dir, tmp_path):
    settings = settings_of(tmp_path, model_dir)
    run(settings, tmp_path / "out", ["untrained"])
    other = settings_of(tmp_path, model_dir, train={**settings.train, "learning_rate": 1e-3})
    with pytest.raises(InvalidInputError, match=r"was measured with other settings \(train\)"):
        Study(other, tmp_path / "out", tmp_path / "work", quiet)


def test_prose_is_cut_into_a_first_sentence_and_what_follows(tmp_path, monkeypatch):
    paragraphs = [f"Here is part {n}. " + "More follows here. " * 60 for n in range(6)]
    (tmp_path / "prose.txt").write_text("\n\n".join(paragraphs))
    monkeypatch.setenv("ANTIPHASE_PROSE", str(tmp_path / "prose.txt"))
    corpora.pairs_of.cache_clear()
    found = corpora.pairs_of("prose")
    corpora.pairs_of.cache_clear()
    assert {question for question, _ in found} == {"Here is part 0.", "Here is part 2.", "Here is part 4."}
    assert all(answer.startswith("More follows here.") for _, answer in found)


def test_the_loss_is_that_of_the_answers_tokens(traces, model_dir, tmp_path):
    settings = settings_of(tmp_path, model_dir)
    loaded = load_model(str(model_dir), dtype="float32", device="cpu")
    answers = Study(settings, tmp_path / "out", tmp_path / "work", quiet).answers("reasoning")
    training = Training(loaded, answers, settings.train, 0)
    chosen = [answers[training._row(place)] for place in (0, 1)]
    with torch.no_grad():
        found = []
        for one in chosen:
            ids = torch.tensor([[*one.prompt_ids, *one.answer_ids]])
            logprobs = loaded.model(ids).logits.log_softmax(-1)[0]
            places = range(len(one.prompt_ids), ids.shape[1])
            found += [-logprobs[place - 1, ids[0, place]].item() for place in places]
    training.advance()
    assert training.losses == [pytest.approx(sum(found) / len(found), rel=1e-5)]
    assert training.num_tokens == len(found)


def test_the_shipped_study_reads_and_states_its_budget(tmp_path):
    settings = read_settings(SECOND / "emergence.yaml")
    text = describe(settings, settings.cells(), tmp_path)
    assert text.startswith("study emergence of demo: 21 cells, 0 done")
    assert "left: 1,650 optimizer steps" in text
    assert "39 measurements" in text
    names = [cell.name for cell in settings.cells()]
    assert names[:3] == ["untrained.s0", "reasoning.s0", "base.s0"]
    assert names.index("untrained.s1") == 7
