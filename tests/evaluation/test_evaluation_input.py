"""Bad input of `eval`, `compare` and `sweep`: one line, status 2, nothing begun."""

import json

import pytest

from antiphase import cli
from antiphase.runs import model_work as runner
from evaluation_cases import TASK

EVAL = ["--tasks", TASK, "--num-problems", "2", "--samples", "2", "--max-new-tokens", "10", "--quiet"]


@pytest.fixture
def refused(model_dir, tmp_path, capsys, monkeypatch):
    """Run `antiphase eval MODEL …`; returns the message of a refusal that came before any generation."""

    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(runner, "load_model", never)

    def run(*words, model=None):
        out = tmp_path / "out"
        status = cli.main(["eval", str(model or model_dir), *map(str, words), "--out", str(out)])
        message = capsys.readouterr().err.strip()
        assert status == 2
        assert message.startswith("antiphase: error: ")
        assert "\n" not in message
        assert not out.exists()
        return message

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "gsm8"], "unknown task 'gsm8'. Did you mean 'gsm8k'?"),
        (["--suite", "smok"], "unknown suite 'smok'. Did you mean 'smoke'?"),
        ([], "name at least one task"),
        (["--tasks", TASK, "--samples", "0", "--no-greedy"], "samples must be at least 1"),
        (["--tasks", TASK, "--samples", "-1"], "samples must be at least 1"),
        (["--tasks", TASK, "--k", "0"], "k must be at least 1; got 0"),
        (["--tasks", TASK, "--k", "1,8", "--samples", "4"], "pass@8 needs at least 8 samples of each problem; got 4"),
        (["--tasks", TASK, "--k", "two"], "--k takes numbers"),
        (["--tasks", f"{TASK},samples=four"], "the option samples must be int; got 'four'"),
        (["--tasks", f"{TASK},k=1:8"], "the option k must be a list a|b|c of int; got '1:8'"),
        (["--tasks", f"{TASK},samples=-1"], "samples=-1': samples must be at least 1"),
        (["--tasks", f"{TASK},samples=0", "--no-greedy"], "samples=0': samples must be at least 1"),
        (["--tasks", f"{TASK},samples=2,k=1|8"], "k=1|8': pass@8 needs at least 8 samples of each problem; got 2"),
        (["--tasks", f"{TASK},k=0"], "k=0': k must be at least 1; got 0"),
        (["--tasks", f"{TASK},samples=2 {TASK},samples=3"], "is named twice"),
        (["--tasks", f"{TASK},samples=2,sums:samples=6", "--k", "8"], "pass@8 needs at least 8 samples of each"),
        (["--tasks", TASK, "--temperature", "0"], "temperature 0 would draw 4 equal samples"),
        (["--tasks", TASK, "--temperature", "-1"], "temperature must be 0"),
        (["--tasks", TASK, "--top-p", "0"], "top_p must lie in"),
        (["--tasks", TASK, "--max-new-tokens", "0"], "max_new_tokens must be at least 1; got 0"),
        (["--tasks", TASK, "--max-new-tokens", "5000"], "exceed the model's context"),
        (["--tasks", TASK, "--num-problems", "0"], "num_problems must be at least 1"),
        (["--tasks", f"{TASK},size=9", "--num-problems", "99999"], "asked for 99999 problems"),
        (["--tasks", TASK, "--split", "dev"], "split must be one of train, test, all"),
        (["--tasks", TASK, "--engine", "vlm"], "engine must be one of"),
        (["--tasks", TASK, "--estimator", "owns"], "estimator must be one of"),
        (["--tasks", TASK, "--prompt-template", "no place"], "must contain {prompt}"),
        (["--tasks", TASK, "--end-token", "hello"], "'hello' is 5 tokens"),
        (["--tasks", TASK, "--timeout", "0"], "timeout must be a positive number"),
        (["--tasks", f"{TASK} {TASK}"], "is named twice"),
        (["--tasks", TASK, "--rollouts", "nowhere.jsonl"], "does not exist"),
    ],
)
def test_refused(refused, words, message):
    assert message in refused(*words)


def test_a_model_that_is_not_there(refused, tmp_path):
    assert "could not load" in refused("--tasks", TASK, model="nobody/nothing")
    assert "no config.json" in refused("--tasks", TASK, model=tmp_path)


def test_a_data_set_without_answers(refused, tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"question": "1+1?"}) + "\n")
    assert "set.jsonl, line 1: no answer" in refused("--tasks", path)
    path.write_text("")
    assert "is empty" in refused("--tasks", path)


def test_an_unfinished_or_foreign_folder(model_dir, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert cli.main(["eval", str(model_dir), *EVAL, "--out", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert cli.main(["eval", str(model_dir), *EVAL, "--out", str(tmp_path), "--resume"]) == 2
    assert "is not the folder of an evaluation" in capsys.readouterr().err


def test_nan_weights(tmp_path, model_dir, capsys):
    import torch

    from conftest import byte_tokenizer, tiny_model

    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    byte_tokenizer().save_pretrained(tmp_path / "nan")
    assert cli.main(["eval", str(tmp_path / "nan"), *EVAL, "--out", str(tmp_path / "out")]) == 2
    assert "contains NaN" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_flags_are_frozen():
    (commands,) = (a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices)
    found = {
        name: sorted(option for action in commands.choices[name]._actions for option in action.option_strings)
        for name in ("eval", "compare", "sweep")
    }
    assert found == {name: sorted(flags.split()) for name, flags in FLAGS.items()}


_SIGNALS = """--estimator --layers --projections --norm --target --targets-per-rollout --auto-seconds
    --token-budget --min-tokens --by-projection --unit --segment --splitter --step-strength --min-steps"""
_MODEL = "--dtype --device --device-map --revision --trust-remote-code"
_TASKS = """--tasks --suite --num-problems --split --prompt-template --system-prompt --no-chat-template
    --chat-template-kwargs --fold-system --timeout
    --samples --greedy --no-greedy --k --max-new-tokens --temperature --top-p --end-token --think-tags --seed --engine
    --generator --base-url --served-model --concurrency --request-timeout --deadline --api-key-env
    --vllm-memory --batch-size --rollouts --num-resamples"""
FLAGS = {
    "eval": f"{_SIGNALS} {_MODEL} {_TASKS} --adapter -h --help --out --resume --no-figures --no-report --quiet",
    "compare": f"{_SIGNALS} {_MODEL} {_TASKS} -h --help --out --no-figures --no-report --quiet --reference "
    "--paired-seeds --smallest --allow-mismatch",
    "sweep": "-h --help --out --cell --jobs --keep-models --dry-run --print-commands --sbatch --tables --launch "
    "--train",
}
