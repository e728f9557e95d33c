"""Use the installed package as a user would, outside the checkout: `make wheel-test` runs this."""

import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import antiphase

assert "site-packages" in antiphase.__file__, antiphase.__file__


def save_model(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "the": 2, "of": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, eos_token_id=1
    )
    LlamaForCausalLM(config).save_pretrained(path)


with tempfile.TemporaryDirectory() as folder:
    save_model(Path(folder, "model"))
    command = Path(sysconfig.get_path("scripts"), "antiphase")
    arguments = ["probe", "model", "--num-prompts", "3", "--max-new-tokens", "16", "--out", "run"]
    done = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    summary = json.loads(Path(folder, "run", "summary.json").read_text())
    assert summary["versions"]["antiphase"] == antiphase.__version__
    assert summary["results"][0]["num_rollouts"] == 3
    assert Path(folder, "run", "figures", "entropy_strength.png").stat().st_size > 10_000
    # The page, with its charts and licences, and of a training run without the extra.
    page = Path(folder, "run", "report.html").read_text(encoding="utf-8")
    assert len(page) > 1_100_000
    assert "Apache ECharts" in page
    Path(folder, "trained").mkdir()
    Path(folder, "trained", "trajectory.jsonl").write_text('{"kind": "step", "step": 1, "task/mean": 0.5}\n')
    done = subprocess.run(
        [command, "report", "run", "trained", "--out", "both.html"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Evaluation and comparison need no extra for tasks of ours.
    for seed in ("0", "1"):
        arguments = ["eval", "model", "--tasks", "digit_sum", "--num-problems", "3", "--max-new-tokens", "12"]
        done = subprocess.run(
            [command, *arguments, "--seed", seed, "--out", f"eval-{seed}"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [command, "compare", "a=eval-0", "b=eval-1"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "not enough data" in done.stdout, done.stdout
    # Without the extra, a sweep and training say what to install and load nothing long.
    study = "models: {m: model}\nmethods: {dapo: {preset: dapo, tasks: [digit_sum]}}\nseeds: [0]\n"
    study += "eval: {tasks: [digit_sum]}\n"
    Path(folder, "study.yaml").write_text(study)
    done = subprocess.run([command, "sweep", "study.yaml"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'antiphase[train]'" in done.stderr, done.stderr
    done = subprocess.run(
        [command, "train", "--model", "model", "--tasks", "digit_sum", "--out", "rl"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'antiphase[train]'" in done.stderr, done.stderr
print(f"antiphase {antiphase.__version__} from the wheel: 1 passed, 0 failed")
