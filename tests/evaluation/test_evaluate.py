"""`evaluate`: verdicts and signals on the same rollouts, files, resuming."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from antiphase import probe
from antiphase.errors import InvalidInputError
from antiphase.evaluation import evaluate as runner
from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.result import Evaluation
from antiphase.models.loading import load_model
from antiphase.rollouts.sampling import Sampling, generate
from evaluation_cases import TASK, completion, given, problems, scored, write_rows

SMALL = {
    "tasks": (TASK,),
    "num_problems": 5,
    "samples": 3,
    "max_new_tokens": 12,
    "batch_size": 4,
    "progress": False,
    "num_resamples": 50,
}


@pytest.fixture(scope="module")
def generated(model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "run"
    return evaluate(str(model_dir), out=out, **SMALL), out


def test_accuracies_by_hand(model_dir):
    found = scored(model_dir, [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    metrics = found.result()["metrics"]
    assert metrics["avg@4"]["value"] == pytest.approx((0.5 + 0 + 1 + 0.25) / 4)
    assert metrics["pass@1"]["value"] == pytest.approx(metrics["avg@4"]["value"])
    # pass@2 = 1 − C(n−c, 2)/C(4, 2): 1 − 1/6, 0, 1, 1 − 3/6.
    assert metrics["pass@2"]["value"] == pytest.approx((5 / 6 + 0 + 1 + 0.5) / 4)
    assert metrics["pass@4"]["value"] == pytest.approx(0.75)
    # The vote of all four: a tie of two answers, wrong, right, wrong (three votes against one).
    assert metrics["maj@4"]["value"] == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert metrics["truncated"]["value"] is None
    assert metrics["avg@4"]["num_problems"] == 4
    assert metrics["avg@4"]["low"] < metrics["avg@4"]["value"] < metrics["avg@4"]["high"]


def test_what_gives_no_answer_has_no_vote(model_dir):
    """Of the three answers that hide in thoughts without an end, none counts, whatever the tags of the thoughts."""
    (problem,) = problems(1)
    for tags, think in ((None, "<think>"), (("<plan> </plan>",), "<plan>")):
        texts = [
            *[think + completion(problem, False)] * 3,
            think + "A9" + think.replace("<", "</") + completion(problem, True),
        ]
        rows = [{"problem_id": problem.problem_id, "completion": text} for text in texts]
        options = {"tasks": (TASK,), "unit": "token", "num_problems": 1, "progress": False, "num_resamples": 50}
        found = evaluate(str(model_dir), rollouts=rows, think_tags=tags, **options)
        assert found.rollouts.answer.isna().tolist() == [True] * 3 + [False]
        assert found.rollouts.outcome.tolist() == ["no answer"] * 3 + ["right"]
        assert found.summary["results"][0]["metrics"]["maj@4"]["value"] == 1
        assert found.summary["config"]["think_tags"] == (tags and list(tags))


def test_inside_a_model_against_scikit_learn(model_dir):
    pattern = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]
    found = scored(model_dir, pattern, unit="token")
    rows, inside = found.rollouts, found.result()["inside"]
    areas = [
        roc_auc_score(group.correct, -group.spearman)
        for _, group in rows.groupby("problem_id", sort=False)
        if group.correct.nunique() == 2
    ]
    assert rows.spearman.notna().all()
    assert inside["auroc"]["inversion"]["value"] == pytest.approx(np.mean(areas))
    assert inside["auroc"]["inversion"]["num_problems"] == 3
    # Later samples are longer and wrong: the shorter of two is right, but in the third problem only two times of four.
    assert inside["auroc"]["shortness"]["value"] == pytest.approx((1 + 0.75 + 1) / 3)
    best = inside["best_of"]["4"]
    assert best["oracle"]["accuracy"]["value"] == 0.75
    assert best["shortness"]["accuracy"]["value"] == 0.75
    assert best["random"]["gain"]["value"] == 0
    picked = [group.correct[group.spearman.idxmin()] for _, group in rows.groupby("problem_id", sort=False)]
    assert best["inversion"]["accuracy"]["value"] == pytest.approx(np.mean(picked))


def test_signals_are_those_of_a_probe_on_the_same_rollouts(generated, model_dir):
    found, _ = generated
    again = probe(str(model_dir), rollouts=found.rollouts, progress=False, min_tokens=8, allow_short=True)
    both = found.rollouts.merge(again.rollouts, on="rollout_id", suffixes=("", "_probe"))
    assert len(both) == len(found.rollouts) == 5 * 4
    for name in ("spearman", "entropy_mean", "strength_mean", "logprob_mean", "self_certainty_mean", "shuffled"):
        np.testing.assert_allclose(both[name], both[f"{name}_probe"], atol=1e-5)


def test_verdicts_are_the_verifiers(model_dir):
    pattern = [[1, 0], [0, 1], [1, 1], [0, 0]]
    rows = scored(model_dir, pattern).rollouts
    assert rows.correct.tolist() == [bool(right) for samples in pattern for right in samples]
    assert (rows.answer == rows.reference).tolist() == rows.correct.tolist()
    assert rows.reference.tolist() == [problem.answer for problem in problems(4) for _ in range(2)]
    assert set(rows.outcome) == {"right", "wrong"}


def test_greedy_is_greedy(generated, model_dir):
    found, _ = generated
    loaded = load_model(str(model_dir))
    greedy = found.rollouts[found.rollouts.greedy]
    prompts = [ids.tolist() for ids in greedy.prompt_ids]
    expected = generate(loaded, prompts, Sampling(12, temperature=0.0), [0] * len(prompts))
    assert [ids.tolist() for ids in greedy.completion_ids] == [ids for ids, _ in expected]
    assert greedy["sample"].eq(-1).all()


def test_prompts_are_those_of_training(generated, model_dir):
    from antiphase.tasks.task_rewards import rows
    from antiphase.training.inputs import prompt_ids

    found, _ = generated
    tokenizer = load_model(str(model_dir)).tokenizer
    table = rows(problems(5), chat=False)
    shown = found.rollouts[found.rollouts.greedy].sort_values("problem_id")
    ids = dict(zip([problem.problem_id for problem in problems(5)], prompt_ids(tokenizer, table), strict=True))
    assert [tuple(row.prompt_ids) for row in shown.itertuples()] == [ids[name] for name in shown.problem_id]


def test_files(generated):
    found, out = generated
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "config.json",
        "figures",
        "report.html",
        "rollouts.parquet",
        "steps.parquet",
        "summary.json",
        "tokens.parquet",
    ]
    assert [path.name for path in (out / "figures").glob("*.png")] == [
        "accuracy.png"
    ]  # no problem has right and wrong
    again = Evaluation.load(out)
    pd.testing.assert_frame_equal(again.rollouts, found.rollouts)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["results"][0]["identity"]["max_new_tokens"] == 12
    assert {"math-verify", "reasoning-gym", "torch"} <= set(summary["versions"])
    assert "avg@3" in str(again)


def test_figures(model_dir, tmp_path):
    scored(model_dir, [[1, 0], [0, 1]], out=tmp_path / "run", figures=True)
    names = sorted(path.name for path in (tmp_path / "run" / "figures").glob("*.png"))
    assert names == ["accuracy.png", "right_from_wrong.png"]


def test_its_own_rollouts_score_alike(generated, model_dir):
    found, out = generated
    again = evaluate(str(model_dir), rollouts=out / "rollouts.parquet", tasks=(TASK,), num_problems=5, progress=False)
    first, second = (run.result()["metrics"] for run in (found, again))
    for name in ("avg@3", "pass@2", "greedy", "length", "well_formed", "truncated"):
        assert first[name] == second[name]


def test_without_signals(model_dir, tmp_path):
    found = evaluate(str(model_dir), estimators="none", out=tmp_path / "run", **SMALL)
    entry = found.result()
    assert entry["estimator"] == "none"
    assert "signals" not in entry
    assert found.rollouts.spearman.isna().all()
    assert "AUROC" not in str(found)
    with_signals = evaluate(str(model_dir), **SMALL)
    assert found.rollouts.completion.tolist() == with_signals.rollouts.completion.tolist()


def test_given_rollouts_by_question(model_dir, tmp_path):
    rows = [
        {"question": problem.prompt, "response": completion(problem, right=place > 0), "finish": "length"}
        for place, problem in enumerate(problems(3))
    ]
    path = write_rows(tmp_path / "rollouts.jsonl", rows)
    found = evaluate(str(model_dir), rollouts=path, tasks=(TASK,), num_problems=10, progress=False)
    assert found.result()["metrics"]["avg@1"]["value"] == pytest.approx(2 / 3)
    assert found.result()["metrics"]["truncated"]["value"] == 1
    assert found.result()["num_problems"] == 3


def test_given_rollouts_that_do_not_fit(model_dir):
    rows = given([[1]])
    cases = {
        "answers no problem of": [{"problem_id": "elsewhere-1", "completion": "A1"}],
        "expected 'completion' text or": [{"problem_id": rows[0]["problem_id"]}],
        "stands twice": [rows[0], {**rows[0], "completion": "another"}],
        "list of rollouts is empty": [],
        "greedy must be true or false; got 'false'": [{**rows[0], "greedy": "false"}],
        "sample must be a number from 0, or -1": [{**rows[0], "sample": 1.5}],
        "sample must be a number from 0, or -1 ": [{**rows[0], "sample": -5}],
    }
    for message, wrong in cases.items():
        with pytest.raises(InvalidInputError, match=message):
            evaluate(str(model_dir), rollouts=wrong, tasks=(TASK,), num_problems=2, progress=False)


def test_one_token_and_empty_rollouts(model_dir):
    names = [problem.problem_id for problem in problems(2)]
    rows = [{"problem_id": names[0], "completion": ""}, {"problem_id": names[1], "completion": "A"}]
    found = evaluate(str(model_dir), rollouts=rows, tasks=(TASK,), num_problems=2, progress=False)
    entry = found.result()
    assert entry["metrics"]["avg@1"]["value"] == 0
    assert entry["signals"]["spearman"]["value"] is None
    assert entry["signals"]["num_undefined"] == 2
    assert entry["inside"]["auroc"]["inversion"]["value"] is None
    shown = " ".join(str(found).split())
    lines = str(found).splitlines()
    place = next(i for i, line in enumerate(lines) if "no ρ by type" in line)
    assert lines[place + 2].split()[-7:-3] == ["2", "2", "2", "2"]
    assert "the parts of a rollout (sentence; strength: mean)" in shown


def test_rollouts_without_a_correlation_of_their_own_are_in_sight(model_dir):
    # Each has some twelve tokens, fewer than eight types, and one sentence.
    found = scored(model_dir, [[1, 0, 1, 0], [0, 1, 1, 0]])
    units = found.result()["signals"]["units"]
    assert [units[unit]["num_undefined"] for unit in ("token", "type", "step")] == [0, 8, 8]
    lines = str(found).splitlines()
    place = next(i for i, line in enumerate(lines) if "no ρ by token" in line)
    assert [word.strip() for word in lines[place].split("   ") if word.strip()] == [
        "model", "task", "rollouts", "no ρ by token", "by type", "by step", "tokens", "types", "steps"
    ]  # fmt: skip
    counts = [f"{units[unit]['num_items']:,}" for unit in ("token", "type", "step")]
    assert lines[place + 2].split()[2:] == ["8", "0", "8", "8", *counts]
    several = str(scored(model_dir, [[1, 0]], estimators=("own", "last"))).splitlines()
    assert next(line for line in several if "no ρ by token" in line).split()[:3] == ["model", "task", "estimator"]


def test_cut_and_resumed(generated, model_dir, tmp_path, monkeypatch):
    whole, _ = generated
    calls, score = [], runner.score_batch

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    monkeypatch.setattr(runner, "score_batch", fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(model_dir), out=tmp_path / "run", **SMALL)
    assert len(list((tmp_path / "run" / "parts").rglob("*.rollouts.parquet"))) == 2
    with pytest.raises(InvalidInputError, match="unfinished"):
        Evaluation.load(tmp_path / "run")
    with pytest.raises(InvalidInputError, match="samples was 3, is 2"):
        evaluate(str(model_dir), out=tmp_path / "run", resume=True, **{**SMALL, "samples": 2})
    again = evaluate(str(model_dir), out=tmp_path / "run", resume=True, **SMALL)
    pd.testing.assert_frame_equal(again.rollouts, whole.rollouts)
    pd.testing.assert_frame_equal(again.tokens, whole.tokens)
    assert again.summary["results"] == whole.summary["results"]


def test_kill_9_and_resume(generated, model_dir, tmp_path):
    whole, _ = generated
    out = tmp_path / "run"
    words = [sys.executable, "-m", "antiphase", "eval", str(model_dir), "--tasks", TASK, "--num-problems", "5"]
    words += ["--samples", "3", "--max-new-tokens", "12", "--batch-size", "4", "--num-resamples", "50", "--quiet"]
    words += ["--out", str(out), "--resume"]
    process = subprocess.Popen(words)
    deadline = time.time() + 120
    while time.time() < deadline and not list(out.rglob("*.rollouts.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(InvalidInputError, match=f"is in use by process {process.pid} on"):
        evaluate(str(model_dir), out=out, resume=True, **SMALL)
    process.kill()
    process.wait()
    again = evaluate(str(model_dir), out=out, resume=True, **SMALL)
    pd.testing.assert_frame_equal(again.rollouts, whole.rollouts)


def test_two_tasks_and_models(model_dir, tmp_path):
    other = "sums:digits=1|1"
    found = evaluate(
        [str(model_dir), f"{model_dir}/."], out=tmp_path / "run", **{**SMALL, "tasks": (TASK, other), "samples": 1}
    )
    keys = [(entry["model"], entry["task"]) for entry in found.summary["results"]]
    assert keys == [(m, t) for m in (str(model_dir), f"{model_dir}/.") for t in (TASK, other)]
    first, second = (found.rollouts[found.rollouts.model == model] for model in (str(model_dir), f"{model_dir}/."))
    assert first.completion.tolist() == second.completion.tolist()
    assert set(found.tokens.task) == {TASK, other}


def test_by_projection(model_dir):
    plain = scored(model_dir, [[1, 0], [0, 1]])
    whole = scored(model_dir, [[1, 0], [0, 1]], by_projection=True)
    cells = [name for name in whole.tokens.columns if name.startswith("strength_L")]
    assert len(cells) == 3 * 4
    assert not [name for name in plain.tokens.columns if name.startswith("strength_L")]
    np.testing.assert_allclose(whole.tokens[cells].mean(axis=1), plain.tokens.strength, rtol=1e-5)
    assert np.shape(whole.result()["signals"]["by_projection"]) == (3, 4)
    assert plain.result()["signals"]["by_projection"] == []
    assert plain.result()["signals"]["spearman"] == whole.result()["signals"]["spearman"]


def test_resume_refuses_other_rollouts_and_other_weights(model_dir, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(model_dir, tmp_path / "model")
    scored(copy, [[1, 0]], out=tmp_path / "run")
    assert scored(copy, [[1, 0]], out=tmp_path / "run", resume=True).result()["num_rollouts"] == 2
    with pytest.raises(InvalidInputError, match="given_sha256 was"):
        scored(copy, [[1, 1]], out=tmp_path / "run", resume=True)
    weights = load_file(copy / "model.safetensors")
    save_file({name: value * 0.1 for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    assert isinstance(next(iter(weights.values())), torch.Tensor)
    with pytest.raises(InvalidInputError, match="weights_sha256 was"):
        scored(copy, [[1, 0]], out=tmp_path / "run", resume=True)


def test_rollouts_of_a_frame_with_gaps(model_dir):
    names = [problem.problem_id for problem in problems(2)]
    frame = pd.DataFrame(
        {
            "problem_id": [names[0], names[0], names[1]],
            "completion": ["<11>A1", "<22>A2", "<00>A0"],
            "greedy": [None, True, None],
            "sample": [0, np.nan, np.nan],
        }
    )
    found = evaluate(str(model_dir), rollouts=frame, tasks=(TASK,), num_problems=2, progress=False)
    assert found.rollouts["sample"].tolist() == [0, -1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": "2"}, "samples must be int | None; got '2'"),
        ({"samples": 2.0}, "samples must be int | None; got 2.0"),
        ({"samples": True}, "samples must be int | None; got True"),
        ({"temperature": "0.7"}, "temperature must be float; got '0.7'"),
        ({"num_problems": "4"}, "num_problems must be"),
        ({"k": "1,2"}, "k must be"),
        ({"samplse": 2}, "unknown option 'samplse'. Did you mean 'samples'?"),
    ],
)
def test_wrong_types(model_dir, options, message):
    with pytest.raises(InvalidInputError) as caught:
        evaluate(str(model_dir), **{"tasks": (TASK,), **options})
    assert message in str(caught.value)


def test_one_task_in_two_spellings(model_dir):
    with pytest.raises(InvalidInputError, match=r"have the same problems\. Keep one of them"):
        evaluate(str(model_dir), tasks=(TASK, TASK.replace("digit_sum", "digit-sum")), num_problems=2)
