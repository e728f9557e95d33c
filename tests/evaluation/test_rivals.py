"""The rivals of ι in evaluations, probes and comparisons."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

import antiphase
from antiphase.evaluation.comparison_formats import render_comparison
from antiphase.evaluation.evaluation_folder import EvalFolder
from antiphase.evaluation.result import Evaluation
from antiphase.evaluation.rivals import (
    HEADER,
    adds,
    compare_with_rivals,
    evaluation_rivals,
    rival_rows,
    rivals_note,
    shared_notes,
)
from antiphase.evaluation.shared_rollouts import delta_logprob, describe_shared
from antiphase.evaluation.task_metrics import inside_metrics
from antiphase.figures.evaluation import right_from_wrong
from antiphase.page.subjects import model_labels
from antiphase.runs.rivals import LATER, SCORES, rival_correlations, rollout_score
from antiphase.signals.measure import token_signals
from antiphase.statistics.chain import interval_dict
from antiphase.statistics.rank_covariance import within_problem_association
from antiphase.types import SignalSpec, TokenBatch
from conftest import tiny_model
from evaluation_cases import TASK, given, scored

PATTERN = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]
MIXED = 5


@pytest.fixture(scope="module")
def found(model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("rivals") / "run"
    return scored(model_dir, PATTERN, out=out, step_strength="joint", splitter="fixed:4", min_steps=3), out


def areas(rows, score):
    groups = rows.assign(score=score).groupby("problem_id", sort=False)
    return np.array([roc_auc_score(g.correct, g.score) for _, g in groups if g.correct.nunique() == 2])


def test_scores_are_means_over_tokens_and_steps(found):
    rows, tokens, steps = found[0].rollouts, found[0].tokens, found[0].steps
    means = tokens.groupby("rollout_id")[["impurity", "attention_entropy", "unembedding_norm"]].mean()
    for name in means:
        np.testing.assert_allclose(rows[f"{name}_mean"], means[name][rows.rollout_id], rtol=1e-5)
    ranks = steps.groupby("rollout_id").effective_rank.mean()
    np.testing.assert_allclose(rows.effective_rank_mean, ranks[rows.rollout_id], rtol=1e-5)
    assert (steps.effective_rank >= 1).all()
    assert (steps.effective_rank <= steps.num_tokens + 1e-4).all()
    assert (rollout_score(rows, "low_attention_entropy") == -rows.attention_entropy_mean).all()
    assert (rollout_score(rows, "effective_rank") == rows.effective_rank_mean).all()


@pytest.mark.parametrize("estimator", ["own", "oracle-own"])
def test_a_gradient_of_zeros_is_left_out_of_the_effective_rank(estimator):
    """The first step's token attends to the prompt's only token, so the gradients of Q and K are zero."""
    batch = TokenBatch.from_ids([[5]], [[7, 8, 9, 10, 11, 12]])
    steps = torch.tensor([[0, 0, 1, 1, 1, 2, 2]])
    model = tiny_model()
    every, some = (
        token_signals(
            model, batch, SignalSpec(estimator, step_strength="joint", projections=names), steps=steps
        ).steps.effective_rank[0]
        for names in (("Q", "K", "V", "O"), ("V", "O"))
    )
    assert every[0] == some[0] == pytest.approx(1, abs=1e-4)
    assert every[1:].isfinite().all()
    only = SignalSpec(estimator, step_strength="joint", projections=("Q", "K"))
    assert token_signals(model, batch, only, steps=steps).steps.effective_rank[0, 0].isnan()


def test_every_score_is_judged_as_iota_is(found):
    rows, inside = found[0].rollouts, found[0].result()["inside"]
    assert list(inside["auroc"]) == list(SCORES) == list(inside["rivals"])
    for name in LATER:
        score = rollout_score(rows, name)
        assert inside["auroc"][name]["value"] == pytest.approx(areas(rows, score).mean())
        picked = [g.correct[g.score.idxmax()] for _, g in rows.assign(score=score).groupby("problem_id", sort=False)]
        assert inside["best_of"]["4"][name]["accuracy"]["value"] == pytest.approx(np.mean(picked))


def test_iota_is_compared_with_every_score_on_the_same_problems(found):
    rows, inside = found[0].rollouts, found[0].result()["inside"]
    inversion, problems = -rows.spearman.to_numpy(), rows.problem_id.tolist()
    correct = rows.correct.to_numpy(dtype=bool)
    assert inside["rivals"]["inversion"]["difference"] is None
    for entry in inside["rivals"].values():
        assert entry["inversion_auroc"] == inside["auroc"]["inversion"]
        assert entry["alone"] == inside["rivals"]["inversion"]["beside"]
    alone = within_problem_association(inversion, correct, problems)
    assert inside["rivals"]["inversion"]["beside"]["value"] == pytest.approx(alone.value)
    for name in list(SCORES)[1:]:
        score, entry = rollout_score(rows, name), inside["rivals"][name]
        gap = areas(rows, inversion).mean() - areas(rows, score).mean()
        assert entry["difference"]["difference"] == pytest.approx(gap)
        assert entry["difference"]["num_problems"] == entry["beside"]["num_problems"] == MIXED
        beside = within_problem_association(inversion, correct, problems, [score])
        assert entry["beside"]["value"] == pytest.approx(beside.value)
        # Five problems are too few for the six series of some scores: then there is no interval.
        assert entry["beside"] == {**interval_dict(beside), "num_problems": MIXED}
        assert adds(entry) == (beside.low > 0)
        assert entry["auroc"] == inside["auroc"][name]


def test_the_numbers_of_a_row_are_over_the_same_rollouts():
    """The score is known for the last 10 of 20 problems, in which ι does not go with correctness."""
    generator = np.random.default_rng(3)
    places = np.repeat(np.arange(20), 4)
    problems, correct = places.tolist(), np.tile([True, False, False, True], 20)
    inversion = np.where(places < 10, correct * 5.0, 0.0) + generator.normal(size=80)
    late = places >= 10
    partly = np.where(late, generator.normal(size=80), np.where(places < 5, np.inf, np.nan))
    found = compare_with_rivals({"inversion": inversion, "partly": partly}, correct, problems)
    entry, own = found["partly"], found["inversion"]
    part = within_problem_association(inversion[late], correct[late], places[late].tolist())
    assert entry["alone"] == {"value": part.value, "low": part.low, "high": part.high, "num_problems": 10}
    assert abs(entry["alone"]["value"]) < own["alone"]["value"] / 2
    assert own["alone"]["num_problems"] == 20
    for key in ("auroc", "inversion_auroc", "difference", "beside"):
        assert entry[key]["num_problems"] == 10
    gap = entry["inversion_auroc"]["value"] - entry["auroc"]["value"]
    assert entry["difference"]["difference"] == pytest.approx(gap)
    row = rival_rows({"shuffled": entry}, {})[0]
    shown = dict(zip(HEADER, row, strict=True))
    assert shown["problems"] == "10"
    assert shown["AUROC of ι"] == f"{entry['inversion_auroc']['value']:.3f}"
    assert shown["ι alone"].startswith(f"{part.value:+.3f}".replace("-", "−"))


def test_the_gain_of_a_score_is_over_problems_that_have_it(found):
    rows = found[0].rollouts
    known = rows.problem_id.isin(rows.problem_id.unique()[2:])
    partly = rows.assign(impurity_mean=rows.impurity_mean.where(known))
    gain = inside_metrics(partly, [4])["best_of"]["4"]["low_impurity"]["gain"]
    assert gain == inside_metrics(rows[known], [4])["best_of"]["4"]["low_impurity"]["gain"]
    assert gain["num_problems"] == 4


def test_the_console_names_the_scores_and_the_missing_correction(found):
    (result,) = found[0].summary["results"]
    entry = {"alone": {}, "beside": {"value": 0.5, "low": 0.1, "high": 0.7, "num_problems": 9}}
    less = {"alone": {}, "beside": {"value": 0.5, "low": -0.1, "high": 0.7, "num_problems": 9}}
    rivals = {"inversion": entry, "shortness": less, "logprob": less}
    none = rivals_note({**result, "inside": {"rivals": rivals}})
    assert none.startswith("For none of the 2 other scores is it shown that ι adds something (")
    assert "not corrected for the number of scores" in none
    one = rivals_note({**result, "inside": {"rivals": {**rivals, "logprob": entry}}})
    assert one.startswith("For 1 of the 2 other scores is it shown that ι adds something: logprob (")


def test_page_and_console_show_the_rivals(found):
    evaluation, out = found
    results = evaluation.summary["results"]
    (table,) = evaluation_rivals(results, model_labels(results, None))
    assert table.title.endswith("own; ι over tokens")
    assert table.header == HEADER
    assert [row[0] for row in table.rows] == ["ι (inversion)", *list(SCORES)[1:]]
    assert all(len(row) == len(HEADER) and all(row) for row in table.rows)
    assert next(row for row in table.rows if row[0] == "low_attention_entropy")[2] == "arXiv 2605.07660"
    assert table in evaluation.document().tables
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "what else tells right from wrong" in page
    (result,) = evaluation.summary["results"]
    assert rivals_note(result) in " ".join(str(evaluation).split())
    figure = right_from_wrong(evaluation.summary["results"])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-4:] == ["low impurity", "low attention entropy", "‖w_y‖", "effective rank"]
    shown = str(evaluation)
    assert not any(f" {name} " in shown.partition("Intervals")[0] for name in LATER)


def test_undefined_scores_are_null_and_left_out(model_dir):
    evaluation = scored(model_dir, PATTERN)  # the strength of a step is a mean, so it has no singular values
    inside = evaluation.result()["inside"]
    assert evaluation.rollouts.effective_rank_mean.isna().all()
    assert inside["auroc"]["effective_rank"]["value"] is None
    assert "effective_rank" not in inside["rivals"]
    assert "effective_rank" not in inside["best_of"]["4"]
    json.dumps(inside, allow_nan=False)


def test_folders_of_older_versions_still_load(found, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for path in found[1].iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_text(path.read_text())
    new = ("impurity", "attention_entropy")
    found[0].tokens.drop(columns=list(new)).to_parquet(folder / "tokens.parquet")
    found[0].rollouts.drop(columns=[SCORES[name].column for name in LATER]).to_parquet(folder / "rollouts.parquet")
    found[0].steps.drop(columns="effective_rank").to_parquet(folder / "steps.parquet")
    summary = json.loads((folder / "summary.json").read_text())
    for result in summary["results"]:
        del result["inside"]["rivals"], result["signals"]["rivals"]
        for name in LATER:
            del result["inside"]["auroc"][name]
    (folder / "summary.json").write_text(json.dumps(summary))
    old = Evaluation.load(folder)
    assert "sums" not in str(old)
    results = old.summary["results"]
    assert evaluation_rivals(results, model_labels(results, None)) == []
    comparison = antiphase.compare([f"old={folder}", f"new={found[1]}"])
    rows = next(iter(comparison.tasks.values()))["entrants"]
    assert set(rows[1]["rivals"]) - set(rows[0]["rivals"]) == set(LATER)
    # Both folders are of one model, so Δ ln p would be noise.
    assert rows[0]["shared_rollouts"] is None
    assert rows[1]["shared_rollouts"] == {"num_shared": 24, "num_rollouts": 24, "same_logprob": True}
    said = " ".join(render_comparison(comparison).split())
    assert "old also measured 24 of the 24 sampled rollouts of new. Both give them the same ln p" in said
    assert EvalFolder.open(folder).complete
    from antiphase.report.sources import read_run

    assert read_run(folder).tables == []
    assert len(read_run(found[1]).tables) == 1


# Δ ln p, where two models share rollouts


def test_delta_logprob_is_the_mean_difference_over_tokens(found, model_dir, tmp_path):
    first, out = found
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_dir)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    other_dir = tmp_path / "other"
    model.save_pretrained(other_dir)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(other_dir)
    options = {"step_strength": "joint", "splitter": "fixed:4", "min_steps": 3}
    second = scored(other_dir, PATTERN, out=tmp_path / "second", **options)
    both = first.tokens.merge(second.tokens, on=["rollout_id", "position"], suffixes=("", "_other"))
    by_hand = (both.logprob_other - both.logprob).groupby(both.rollout_id).mean()
    found_delta = delta_logprob(second.rollouts, [first.rollouts])
    np.testing.assert_allclose(found_delta, by_hand[second.rollouts.rollout_id], atol=1e-5)
    assert np.abs(found_delta).min() > 0

    comparison = antiphase.compare([f"base={out}", f"after={tmp_path / 'second'}"], out=tmp_path / "comparison")
    base, after = next(iter(comparison.tasks.values()))["entrants"]
    assert "delta_logprob" not in base["rivals"]
    entry = after["rivals"]["delta_logprob"]
    assert after["shared_rollouts"] == {"num_shared": 24, "num_rollouts": 24, "same_logprob": False}
    rows = second.rollouts
    assert entry["auroc"]["value"] == pytest.approx(areas(rows, found_delta).mean())
    picked = [g.correct[g.score.idxmax()] for _, g in rows.assign(score=found_delta).groupby("problem_id", sort=False)]
    assert entry["gain"]["value"] == pytest.approx(np.mean(picked) - rows.correct.mean())
    assert after["rivals"]["low_entropy"]["auroc"] == second.result()["inside"]["auroc"]["low_entropy"]
    assert "Δ ln p" in (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    assert f"AUROC {entry['auroc']['value']:.3f}" in " ".join(render_comparison(comparison).split())


def test_rollouts_with_other_tokens_are_not_shared(found):
    rows = found[0].rollouts
    other = rows.copy()
    other["completion_ids"] = [
        np.append(ids, 7) if place % 2 else ids for place, ids in enumerate(rows.completion_ids)
    ]
    other["logprob_mean"] = rows.logprob_mean - 1
    delta = delta_logprob(rows, [other])
    assert np.isnan(delta[1::2]).all()
    np.testing.assert_allclose(delta[::2], 1)
    assert np.isnan(delta_logprob(rows, [other.assign(problem_id="x")])).all()
    # The same rollouts in another order, with other numbers of their samples, are shared all the same.
    turned = rows.assign(logprob_mean=rows.logprob_mean - 2, sample=3 - rows["sample"]).iloc[::-1]
    np.testing.assert_allclose(delta_logprob(rows, [turned]), 2)


def test_delta_logprob_takes_all_seeds_of_the_reference(found):
    rows = found[0].rollouts
    seeds = [rows.assign(logprob_mean=rows.logprob_mean - lower) for lower in (1, 3)]
    np.testing.assert_allclose(delta_logprob(rows, seeds), 2)
    np.testing.assert_allclose(delta_logprob(rows, seeds[::-1]), 2)
    part = seeds[1].iloc[:10]
    np.testing.assert_allclose(delta_logprob(rows, [seeds[0], part]), [2] * 10 + [1] * 14)


@pytest.mark.parametrize(("noise", "same"), [(1e-6, True), (1e-3, False)])
def test_the_noise_of_two_runs_is_no_score(noise, same):
    delta = np.array([np.nan, noise, -noise, noise / 2])
    assert describe_shared(delta) == {"num_shared": 3, "num_rollouts": 4, "same_logprob": same}
    row = {"name": "b", "shared_rollouts": describe_shared(np.array([noise, np.nan])), "rivals": {}}
    (note,) = shared_notes({"reference": "a", "entrants": [{"name": "a", "shared_rollouts": None}, row]})
    assert note.startswith("a also measured 1 of the 2 sampled rollouts of b. ")
    assert ("the same ln p" in note) == same


def test_seeds_of_one_method_are_compared_within_a_seed(model_dir, tmp_path):
    for name, seed in (("a-0", 0), ("a-1", 1), ("b-0", 0), ("b-1", 1)):
        pattern = [list(reversed(row)) if name == "a-1" else row for row in PATTERN]
        scored(model_dir, pattern, out=tmp_path / name, seed=seed)
    comparison = antiphase.compare([f"a={tmp_path}/a-*", f"b={tmp_path}/b-*"])
    row = next(iter(comparison.tasks.values()))["entrants"][0]
    tables = [Evaluation.load(tmp_path / name).rollouts for name in ("a-0", "a-1")]
    both = np.mean([areas(rows, -rows.num_tokens) for rows in tables], axis=0)
    assert row["rivals"]["shortness"]["auroc"]["value"] == pytest.approx(both.mean())
    assert row["rivals"]["shortness"]["auroc"]["num_problems"] == MIXED


# Probes


def test_a_probe_correlates_rivals_with_iota(found, model_dir):
    rows = [{"prompt": row.prompt, "completion": row.completion} for row in found[0].rollouts.itertuples()]
    made = antiphase.probe(
        str(model_dir), rollouts=rows, progress=False, min_tokens=8, unit="token", step_strength="joint",
        splitter="fixed:4", num_resamples=50,
    )  # fmt: skip
    entries, table = made.result()["rivals"], made.rollouts
    assert list(entries) == list(SCORES)[1:]
    for name, entry in entries.items():
        truth = stats.spearmanr(rollout_score(table, name), -table.spearman).statistic
        assert entry["value"] == pytest.approx(truth, abs=1e-9)
        assert entry["low"] < entry["value"] < entry["high"]
        assert entry["num_rollouts"] == len(table)
    (shown,) = made.document().tables
    assert [row[0] for row in shown.rows] == list(SCORES)[1:]
    controls = made.result()["controls"]
    tokens = made.tokens
    for name, series in (("surprisal", -tokens.logprob), ("impurity", tokens.impurity)):
        rho = stats.spearmanr(series, tokens.entropy).statistic
        assert controls[name]["entropy"]["value"] == pytest.approx(rho, abs=1e-6)
    ranks = [stats.rankdata(x) for x in (tokens.entropy, tokens.strength, tokens.attention_entropy)]
    cor = np.corrcoef(ranks)
    partial = (cor[0, 1] - cor[0, 2] * cor[1, 2]) / np.sqrt((1 - cor[0, 2] ** 2) * (1 - cor[1, 2] ** 2))
    assert controls["attention_entropy"]["partial"]["value"] == pytest.approx(partial, abs=1e-6)


def test_a_score_that_almost_never_varies_has_no_interval(found):
    """31 of 32 rollouts have one length. A resample that lacks the prompt of the other one has no correlation."""
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({"prompt_id": np.repeat(np.arange(16), 2), "spearman": generator.normal(size=32)})
    rows["num_tokens"] = np.where(np.arange(32) == 5, 30, 64)
    rows["logprob_mean"] = generator.normal(size=32)
    entries = rival_correlations(rows, "token", num_resamples=300, seed=0)
    assert entries["shortness"]["value"] is not None
    assert entries["shortness"]["low"] is entries["shortness"]["high"] is None
    assert entries["logprob"]["low"] < entries["logprob"]["value"] < entries["logprob"]["high"]


def test_an_infinite_score_is_left_out(found):
    rows = found[0].rollouts.assign(self_certainty_mean=np.inf)
    rows.loc[:4, "self_certainty_mean"] = np.arange(5.0)
    entries = rival_correlations(rows.assign(prompt_id=rows.problem_id), "token", num_resamples=20, seed=0)
    assert entries["self_certainty"]["num_rollouts"] == 5
    assert entries["shortness"]["num_rollouts"] == len(rows)
    json.dumps(inside_metrics(rows, [4]), allow_nan=False)


def test_an_estimator_without_attention_weights_has_no_attention_entropy(model_dir):
    rows = given(PATTERN[:2], TASK)
    pairs = [{"prompt": "What is this?", "completion": row["completion"]} for row in rows]
    made = antiphase.probe(
        str(model_dir), rollouts=pairs, estimators=("own", "full:2"), progress=False, num_resamples=20
    )
    by_estimator = made.tokens.groupby("estimator").attention_entropy.count()
    assert by_estimator["full"] == 0
    assert by_estimator["own"] == (made.tokens.estimator == "own").sum()
    assert pd.isna(made.rollouts[made.rollouts.estimator == "full"].attention_entropy_mean).all()
    assert "low_attention_entropy" not in made.result(estimator="full")["rivals"]
    assert made.result(estimator="full")["controls"]["attention_entropy"]["partial"]["value"] is None
