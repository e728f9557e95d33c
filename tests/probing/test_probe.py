"""`antiphase.probe` from end to end on a tiny model: files, numbers, resuming, several models."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.probing.probe_table import render_table
from antiphase.runs.run_folder import RunFolder
from conftest import byte_tokenizer, tiny_model

OPTIONS = {"num_prompts": 3, "samples": 2, "max_new_tokens": 24, "batch_size": 2, "num_resamples": 50}


@pytest.fixture(scope="module")
def run(model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "run"
    found = antiphase.probe(str(model_dir), estimators=("own", "last", "full:9"), out=out, progress=False, **OPTIONS)
    return out, found


def test_files(run) -> None:
    out, _ = run
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"config.json", "tokens.parquet", "rollouts.parquet", "summary.json"} <= names
    assert not any("parts" in name or name.endswith(".tmp") for name in names)
    figures = {name for name in names if name.startswith("figures/")}
    assert {name.removesuffix(".png") for name in figures if name.endswith(".png")} == {
        name.removesuffix(".svg") for name in figures if name.endswith(".svg")
    }
    for start in ("entropy_strength", "model_comparison", "layer_map", "rollout"):
        assert any(name.startswith(f"figures/{start}") for name in figures)


def test_tokens_table(run) -> None:
    out, found = run
    tokens = pq.read_table(out / "tokens.parquet").to_pandas()
    pd.testing.assert_frame_equal(tokens, found.to_frame())
    wanted = ["model", "prompt_id", "rollout_id", "position", "token_id", "token", "entropy", "logprob", "strength"]
    assert set(wanted) <= set(tokens.columns)
    cells = [f"strength_L{layer:02d}_{name}" for layer in range(3) for name in "QKVO"]
    own, last = tokens[tokens.estimator == "own"], tokens[tokens.estimator == "last"]
    assert (own[cells].mean(axis=1) / own.strength - 1).abs().max() < 1e-5
    # `last` measures one layer; the columns of the others are empty.
    assert last[cells[:8]].isna().all().all()
    assert (last[cells[8:]].mean(axis=1) / last.strength - 1).abs().max() < 1e-5
    assert own.groupby("rollout_id").position.apply(lambda p: p.tolist() == list(range(len(p)))).all()
    # Equal up to rounding: `own` runs prompts and completions as products of other shapes.
    np.testing.assert_allclose(own.entropy, last.entropy, rtol=1e-5, atol=1e-6)
    counts = tokens[tokens.estimator == "full"].groupby("rollout_id", sort=False).strength.agg(["count", "size"])
    assert counts["count"].tolist() == counts["size"].clip(upper=9).tolist()
    assert (counts["size"] > 9).any()


def test_rollouts_table_can_be_probed_again(run, model_dir) -> None:
    out, found = run
    rollouts = found.rollouts[found.rollouts.estimator == "own"]
    assert len(rollouts) == 6
    assert rollouts.prompt_id.nunique() == 3
    given = out.parent / "given.parquet"
    rollouts.to_parquet(given)
    again = antiphase.probe(str(model_dir), rollouts=given, allow_short=True, progress=False, num_resamples=50)
    assert again.spearman == pytest.approx(found.spearman, abs=1e-6)
    # The table of several estimators can be given as it is, as a file or a frame.
    for source in (out / "rollouts.parquet", found.rollouts):
        whole = antiphase.probe(str(model_dir), rollouts=source, allow_short=True, progress=False, num_resamples=50)
        assert whole.tokens.strength.tolist() == again.tokens.strength.tolist()
    assert set(again.rollouts.finish) == {"given"}


def test_summary_numbers_are_those_of_the_tables(run) -> None:
    out, found = run
    summary = json.loads((out / "summary.json").read_text())
    assert summary == found.summary
    assert [result["estimator"] for result in summary["results"]] == ["own", "last", "full"]
    for result in summary["results"]:
        rows = found.tokens[found.tokens.estimator == result["estimator"]].dropna(subset=["strength"])
        rows = rows.astype({"entropy": "float64", "strength": "float64"})
        for method, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
            entry = result[method]
            assert entry["value"] == pytest.approx(reference(rows.entropy, rows.strength).statistic, abs=1e-9)
            assert entry["low"] <= entry["value"] <= entry["high"]
        means = rows.groupby("token_id")[["entropy", "strength"]].mean()
        assert result["spearman_unique"]["value"] == pytest.approx(
            stats.spearmanr(means.entropy, means.strength).statistic, abs=1e-9
        )
        control = stats.spearmanr(rows.entropy, rows.logprob_control).statistic
        assert result["logprob_control"]["value"] == pytest.approx(control, abs=1e-9)
        assert (result["num_tokens"], result["num_rollouts"], result["num_undefined"]) == (
            len(rows),
            6,
            int((rows.groupby("rollout_id").size() < 8).sum()),
        )
        long = rows.groupby("rollout_id").filter(lambda r: len(r) >= 8)
        per_rollout = long.groupby("rollout_id").apply(lambda r: stats.spearmanr(r.entropy, r.strength).statistic)
        assert result["spearman_within"]["value"] == pytest.approx(per_rollout.mean(), abs=1e-9)
    own = found.tokens[found.tokens.estimator == "own"]
    cell = stats.spearmanr(own.entropy, own.strength_L01_K).statistic
    assert summary["results"][0]["by_projection"][1][1] == pytest.approx(cell, abs=1e-9)
    pairs = {tuple(entry["estimators"]): entry for entry in summary["agreement"]}
    assert pairs.keys() == {("own", "last"), ("own", "full"), ("last", "full")}
    full = found.tokens[found.tokens.estimator == "full"].dropna(subset=["strength"])
    both = full.merge(own, on=["rollout_id", "position"])
    expected = stats.spearmanr(both.strength_x, both.strength_y).statistic
    assert pairs["own", "full"]["spearman"]["value"] == pytest.approx(expected, abs=1e-9)
    assert pairs["own", "full"]["num_tokens"] == len(full) > 40
    for key in ("config", "versions", "commit", "seed", "created"):
        assert key in summary


def test_measured_rollouts_are_those_that_token_signals_measures(run, model_dir) -> None:
    _, found = run
    loaded = antiphase.load_model(str(model_dir))
    row = found.rollouts.iloc[4]
    batch = antiphase.TokenBatch.from_ids([row.prompt_ids.tolist()], [row.completion_ids.tolist()])
    signals = antiphase.token_signals(loaded.model, batch)
    (single,) = antiphase.correlate(signals)
    chosen = found.tokens[(found.tokens.rollout_id == row.rollout_id) & (found.tokens.estimator == "own")]
    expected = signals.strength[0, batch.completion_mask[0]].numpy()
    assert chosen.strength.to_numpy() == pytest.approx(expected, rel=1e-4)
    own = found.rollouts[(found.rollouts.rollout_id == row.rollout_id) & (found.rollouts.estimator == "own")].iloc[0]
    assert own.spearman == pytest.approx(single.value, abs=1e-3)


def test_fingerprint_saves_loads_and_prints(run, tmp_path) -> None:
    _, found = run
    loaded = antiphase.Fingerprint.load(found.save(tmp_path / "copy"))
    pd.testing.assert_frame_equal(loaded.tokens, found.tokens)
    pd.testing.assert_frame_equal(loaded.rollouts, found.rollouts)
    assert loaded.summary == found.summary
    assert (loaded.spearman, loaded.interval, loaded.inversion) == (found.spearman, found.interval, -found.spearman)
    text = str(found)
    value = f"{found.spearman:+.3f}".replace("-", "−")
    assert value in text
    assert "own-position term" in text
    assert "no fingerprint" in text
    with pytest.raises(InvalidInputError, match="not an empty folder"):
        found.save(tmp_path / "copy")


def test_plots(run) -> None:
    _, found = run
    for kind in ("entropy_strength", "layer_map", "rollout_track", "model_comparison"):
        assert found.plot(kind).axes
    with pytest.raises(InvalidInputError, match="unknown kind"):
        found.plot("pie")
    with pytest.raises(InvalidInputError, match="no result for model 'x'"):
        found.plot("layer_map", model="x")
    with pytest.raises(InvalidInputError, match="no rollout 'x'"):
        found.plot("rollout_track", rollout_id="x")


def test_same_seed_same_result_and_another_differs(model_dir, run) -> None:
    _, found = run
    again = antiphase.probe(str(model_dir), estimators=("own",), progress=False, **OPTIONS)
    first = found.tokens[found.tokens.estimator == "own"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.tokens[["token_id", "strength"]], first[["token_id", "strength"]])
    other = antiphase.probe(str(model_dir), progress=False, seed=1, **OPTIONS)
    assert other.tokens.token_id.tolist() != again.tokens.token_id.tolist()


def test_model_in_memory_and_list_of_prompts() -> None:
    found = antiphase.probe(
        tiny_model(), tokenizer=byte_tokenizer(), name="mine", prompts=["one?", "two?"], num_prompts="all",
        max_new_tokens=12, progress=False, num_resamples=20,
    )  # fmt: skip
    assert set(found.tokens.model) == {"mine"}
    assert found.rollouts.prompt.tolist() == ["one?", "two?"]
    with pytest.raises(InvalidInputError, match="needs its tokenizer"):
        antiphase.probe(tiny_model())
    with pytest.raises(InvalidInputError, match="Did you mean 'num_prompts'"):
        antiphase.probe("demo", num_promts=3)


@pytest.mark.parametrize("share", [False, True])
def test_several_models(model_dir, tmp_path, share: bool) -> None:
    other = tmp_path / "other"
    tiny_model("qwen3").save_pretrained(other)
    byte_tokenizer(chat_template="{{ messages[-1]['content'] }}!").save_pretrained(other)
    found = antiphase.probe([str(model_dir), str(other)], share_rollouts=share, progress=False, **OPTIONS)
    first, second = (found.rollouts[found.rollouts.model == name] for name in (str(model_dir), str(other)))
    assert first.rollout_id.tolist() == second.rollout_id.tolist()
    equal = [list(a) == list(b) for a, b in zip(first.completion_ids, second.completion_ids, strict=True)]
    assert all(equal) if share else not any(equal)
    assert found.result(model=str(other))["spearman"] != found.result()["spearman"]
    # Each model keeps its own prompt format.
    assert first.num_prompt_tokens.tolist() != second.num_prompt_tokens.tolist()


def test_shared_rollouts_of_another_tokenizer_are_tokenised_anew(model_dir, tmp_path) -> None:
    other = tmp_path / "other"
    tiny_model("qwen2").save_pretrained(other)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["th", "  "])
    tokenizer.save_pretrained(other)
    given = [{"prompt": "What?", "completion": "the path  of the moth"}]
    found = antiphase.probe([str(model_dir), str(other)], rollouts=given, progress=False)
    assert found.rollouts.num_tokens.tolist() == [21, 16]
    assert found.rollouts.completion.nunique() == 1


def test_end_token_is_shared_as_an_end_token(model_dir, tmp_path) -> None:
    other = tmp_path / "other"
    tiny_model("qwen2").save_pretrained(other)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<end>"], special_tokens=True)
    tokenizer.eos_token = "<end>"
    tokenizer.save_pretrained(other)
    found = antiphase.probe(
        [str(model_dir), str(other)], share_rollouts=True, progress=False, **{**OPTIONS, "max_new_tokens": 64}
    )
    first, second = (found.rollouts[found.rollouts.model == name] for name in (str(model_dir), str(other)))
    stopped = [i for i, finish in enumerate(first.finish) if finish == "stop"]
    assert stopped
    for index in stopped:
        theirs, ours = first.iloc[index].completion_ids.tolist(), second.iloc[index].completion_ids.tolist()
        assert theirs[-1] == tokenizer.convert_tokens_to_ids("</s>")
        assert ours[-1] == tokenizer.eos_token_id
        assert "/s" not in second.iloc[index].completion


def test_rows_and_file_are_the_same(model_dir, tmp_path) -> None:
    rows = [{"prompt": f"Why {n}?", "completion": "because of the numbers"} for n in range(3)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, other = (antiphase.probe(str(model_dir), rollouts=r, progress=False) for r in (rows, tmp_path / "r.jsonl"))
    pd.testing.assert_frame_equal(one.tokens, other.tokens)
    assert one.rollouts.num_prompt_tokens.tolist() == other.rollouts.num_prompt_tokens.tolist()


def test_options_in_their_natural_form(model_dir) -> None:
    found = antiphase.probe(
        model_dir, prompts=["a?", "b?"], layers=[0, -1], projections="QO", dtype=torch.float32, progress=False,
        max_new_tokens=12, estimators="own,full:4", num_resamples=10,
    )  # fmt: skip
    assert found.result()["layers"] == [0, 2]
    assert found.result()["projections"] == ["Q", "O"]
    assert found.result(estimator="full")["targets_per_rollout"] == 4
    assert len(found.rollouts) == 4


def test_empty_completion_alone_is_undefined(model_dir) -> None:
    rows = [{"prompt": "a", "completion": ""}]
    found = antiphase.probe(str(model_dir), rollouts=rows, allow_short=True, progress=False)
    assert math.isnan(found.spearman)
    assert found.result()["num_tokens"] == 0


def test_model_names_are_no_markup() -> None:
    name = "runs/[/x] [bold]v2"
    found = antiphase.probe(
        tiny_model(), tokenizer=byte_tokenizer(), name=name, prompts=["a?"], max_new_tokens=12, progress=False
    )
    # The name may be folded, but every character is there.
    assert all(part in str(found) for part in ("runs/[/x]", "[bold]v2"))


@pytest.mark.parametrize("name", ["google/gemma-3-270m", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"])
def test_names_stand_on_one_line(run, name) -> None:
    interval = {"value": -0.1, "low": -0.2, "high": 0.1}
    summary = json.loads(json.dumps(run[1].summary))
    for result in summary["results"]:
        result["units"] = {unit: {**entry, **interval} for unit, entry in result["units"].items()}
    summary["results"] = [{**result, "model": model} for model in ("demo", name) for result in summary["results"]]
    table = render_table(summary).partition("\nρ: ")[0].splitlines()
    # All three intervals are there, so that names have lines of their own.
    assert max(map(len, table)) <= 118
    first = [line.split()[0] for line in table if line.strip()][2:]
    assert first == ["demo", "own", "last", "full", name, "own", "last", "full"]
    assert all(line.count("[−0.200, +0.100]") == 3 for line in table if line.split()[:1] in (["own"], ["full"]))
    # In a table that is narrow enough they have a column.
    for result in summary["results"]:
        result["units"] = {"type": {**result["units"]["type"], "low": None, "high": None}}
    first = [line.split()[:2] for line in render_table(summary).partition("\nρ: ")[0].splitlines() if line.strip()][2:]
    assert first == [[model, estimator] for model in ("demo", name) for estimator in ("own", "last", "full")]


def test_short_rollouts_are_counted_not_zeroed(model_dir) -> None:
    given = [{"prompt": "a", "completion": "b" * n} for n in (1, 4, 30)] + [{"prompt": "c", "completion": ""}]
    with pytest.raises(InvalidInputError, match=r"rollout 0 has 1 completion tokens; .* at least 8"):
        antiphase.probe(str(model_dir), rollouts=given, progress=False)
    found = antiphase.probe(str(model_dir), rollouts=given, allow_short=True, progress=False)
    assert found.result()["num_undefined"] == 3
    assert found.rollouts.spearman.isna().tolist() == [True, True, False, True]
    assert found.rollouts.num_tokens.tolist() == [1, 4, 30, 0]
    only_short = antiphase.probe(str(model_dir), rollouts=given[:1], allow_short=True, progress=False)
    assert math.isnan(only_short.spearman)
    assert all(math.isnan(bound) for bound in only_short.interval)
    assert only_short.result()["spearman"] == {"value": None, "low": None, "high": None}
    assert "undefined" in str(only_short)


def test_pad_equal_to_eos_is_no_problem(tmp_path) -> None:
    # The padding id is the end token, and the end token is measured where the model wrote it.
    model, tokenizer = tiny_model(pad_token_id=2), byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    with torch.no_grad():
        model.lm_head.weight[2] *= 4
    found = antiphase.probe(model, tokenizer=tokenizer, max_new_tokens=40, num_prompts=6, progress=False)
    stopped = found.rollouts[found.rollouts.finish == "stop"]
    assert len(stopped) > 0
    for _, row in stopped.iterrows():
        assert row.completion_ids[-1] == 2
        assert 2 not in row.completion_ids[:-1]
        chosen = found.tokens[found.tokens.rollout_id == row.rollout_id]
        assert chosen.entropy.notna().all()
        assert len(chosen) == row.num_tokens
        alone = antiphase.probe(
            model, tokenizer=tokenizer, progress=False, allow_short=True,
            rollouts=[{"prompt_ids": row.prompt_ids, "completion_ids": row.completion_ids}],
        )  # fmt: skip
        assert alone.tokens.strength.to_numpy() == pytest.approx(chosen.strength.to_numpy(), rel=1e-4)


def test_truncated_tables_are_named(run, tmp_path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    (copy / "tokens.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInputError, match=r"tokens\.parquet cannot be read"):
        antiphase.Fingerprint.load(copy)
    assert RunFolder.open(copy).complete
