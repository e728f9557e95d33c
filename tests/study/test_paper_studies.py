"""The paper's grids: read, resolved and counted without a hub, run whole on a tiny model; several tasks, launchers."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from test_study import TASK, write

from antiphase.cli import main
from antiphase.errors import InvalidInputError, ModelNotFoundError
from antiphase.study.budget import check_budgets
from antiphase.study.definition import read_study
from antiphase.study.launch import merged_model
from antiphase.study.store import load_cells
from antiphase.study.sweep import sweep
from antiphase.training.recipe import parse_recipe

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "studies" / "paper"
GRIDS = ("qwen3-1.7b", "qwen3-4b", "qwen2.5-math-7b", "qwen2.5-14b")
METHODS = ("corr-po", "grpo", "dapo", "dr-grpo", "gspo")
OTHER = "digit_sum:base=3,num_digits=5"
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture
def no_hub(monkeypatch):
    """The hub's client without a network and without a cache, whatever this machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def dry(name, **options):
    said = []
    sweep(PAPER / f"{name}.yaml", ROOT / "runs" / "none", dry_run=True, say=said.append, **options)
    return said[0]


@pytest.mark.parametrize("name", [*GRIDS, "layers"])
def test_budgets_without_a_hub(no_hub, name):
    text = dry(name)
    cells, trained = (31, 30) if name == "layers" else (6, 5)
    assert f"{cells} cells ({trained} trained and evaluated, 1 evaluated alone)" in text
    assert f"{1000 * trained:,} optimizer steps, {64_000 * trained:,} rollouts" in text
    # 30 + 500 + 1,319 problems, 16 samples.
    assert f"evaluation: {cells * 16 * 1849:,} rollouts" in text
    assert "not checked, because the hub cannot be reached from here: the problems of 'aime24'" in text
    assert "the model 'Qwen/Qwen" in text
    assert (
        re.sub(r"^.*?:", "", text.splitlines()[1]).split("at most ")[1].split()[0] in (PAPER / "README.md").read_text()
    )


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_the_papers(name, tmp_path):
    study = read_study(PAPER / f"{name}.yaml")
    assert study.methods == METHODS
    assert study.reference == "grpo"
    assert len(check_budgets(study, tmp_path)) == len(METHODS)
    for cell in study.cells:
        if not cell.trained:
            continue
        config, options = _recipe(cell, tmp_path)
        assert options.tasks == ["openthoughts_math"]
        assert config.max_steps == 1000
        assert config.use_vllm
        assert config.vllm_mode == "colocate"
        assert cell.recipe["use_peft"]
        assert (config.inversion_weight > 0) == (cell.method == "corr-po")
        if cell.method == "corr-po":
            assert (config.inversion_combine, config.inversion_unit) == ("penalty", "step")
            assert (config.inversion_estimator, config.inversion_layers) == ("full", "all")
            # A right rollout outranks a wrong one, whatever their correlations.
            assert 2 * config.inversion_weight < 1
            assert (config.loss_type, config.scale_rewards) == ("grpo", "group")


def _recipe(cell, folder):
    from antiphase.study.cells import cell_recipe

    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(cell_recipe(cell, "model", folder / "out")))
    recipe = parse_recipe(["--config", str(path)])
    return recipe.config, recipe.options


def test_the_readme_states_the_budgets(no_hub):
    page = (PAPER / "README.md").read_text()
    for name in (*GRIDS, "layers", "smoke"):
        training, evaluation = dry(name).splitlines()[1:3]
        numbers = re.findall(r"[\d,]*\d", training.replace(re.search(r"up to \d+ tokens", training)[0], ""))
        numbers += re.findall(r"[\d,]*\d", evaluation)
        (line,) = [line for line in page.splitlines() if re.match(rf"\| [^|]*\b{re.escape(name)}\b[^|]* \| \d", line)]
        assert [cell.strip() for cell in line.split("|")[3:-1]] == numbers, name


def test_layers_are_every_layer_and_all(tmp_path):
    study = read_study(PAPER / "layers.yaml")
    layers = {}
    for cell in study.cells:
        if cell.trained and cell.method != "grpo":
            layers[cell.method] = _recipe(cell, tmp_path)[0].inversion_layers
    assert layers == {"all": "all"} | {f"layer-{i:02d}": str(i) for i in range(28)}


@pytest.mark.parametrize("name", [*GRIDS, "layers"])
def test_eight_gpus_train_on_as_many_rollouts(name, tmp_path):
    text = (PAPER / f"{name}.yaml").read_text()
    changes = re.findall(r"--train (\S+)", text)
    assert len(changes) == 2
    budgets = []
    for processes, words in ((1, ()), (8, changes)):
        study = read_study(PAPER / f"{name}.yaml", words)
        budgets.append(set(check_budgets(study, tmp_path, processes).values()))
    assert budgets[0] == budgets[1]
    (budget,) = budgets[0]
    assert (budget.batch, budget.rollouts, budget.group_size) == (64, 64_000, 8)


@pytest.mark.parametrize("name", [*GRIDS, "layers"])
def test_unknown_values_are_marked(name):
    """Every value of train and eval is marked, but for what the digest gives and the machinery."""
    given = {"tasks", "max_steps", "use_peft", "use_vllm", "vllm_mode", "suite", "greedy", "engine"}
    lines = (PAPER / f"{name}.yaml").read_text().split("\ntrain:\n")[1].split("\ncompare:")[0].splitlines()
    keys = {line.split(":")[0].strip(): line for line in lines if line.startswith("  ")}
    assert len(keys) > 20
    assert [key for key, line in keys.items() if key not in given and "# our choice" not in line] == []


def test_commands_of_the_header_run_a_cell_on_each_gpu(tmp_path):
    """The pipe for eight GPUs hands every line to a shell with a GPU of its own."""
    text = (PAPER / "qwen3-1.7b.yaml").read_text()
    pipe = next(line for line in text.splitlines() if "xargs" in line).lstrip("# ").replace("-P 8", "-P 2")
    found = subprocess.run(
        ["sh", "-c", pipe], input="printenv CUDA_VISIBLE_DEVICES\n" * 4, capture_output=True, text=True, check=True
    )
    assert len(found.stdout.split()) == 4
    assert set(found.stdout.split()) <= {"0", "1"}


def test_a_real_run_needs_the_hub(no_hub, tmp_path):
    with pytest.raises((InvalidInputError, ModelNotFoundError)) as caught:
        sweep(PAPER / "qwen3-1.7b.yaml", tmp_path / "out", say=lambda _: None)
    assert "aime24:file=PATH" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_still_refuses_what_is_wrong(no_hub, model_dir, tmp_path):
    study = write(tmp_path / "a.yaml", model_dir, eval={"tasks": ["aime24:file=absent.jsonl"]})
    with pytest.raises(InvalidInputError, match="does not exist"):
        sweep(study, tmp_path / "out", dry_run=True, say=lambda _: None)
    study = write(tmp_path / "b.yaml", model_dir, models={"gone": str(tmp_path / "gone")})
    said = []
    with pytest.raises(ModelNotFoundError, match="could not load"):
        sweep(study, tmp_path / "out", dry_run=True, say=said.append)
    for change, message in (("max_steps", "takes KEY=VALUE"), ("max_step=3", "unknown key 'max_step'")):
        with pytest.raises(InvalidInputError, match=message):
            sweep(PAPER / "smoke.yaml", tmp_path / "out", dry_run=True, train=[change], say=lambda _: None)


def test_cells_on_several_tasks(model_dir, tmp_path):
    evaluation = {"tasks": [TASK, OTHER], "num_problems": 3, "samples": 4, "max_new_tokens": 6, "num_resamples": 20}
    models = {"tiny": {"path": str(model_dir)}}
    methods = {"grpo": {"preset": "grpo"}, "dapo": {"preset": "dapo"}}
    path = write(
        tmp_path / "study.yaml", model_dir, models=models, methods=methods, eval=evaluation, seeds=[0],
        compare={"reference": "grpo"},
    )  # fmt: skip
    result = sweep(path, tmp_path / "out", say=lambda _: None)
    assert result.failed == {}
    findings = json.loads((result.out / "tables" / "findings.json").read_text())
    assert set(findings["groups"]["tasks"]) == {f"tiny · {TASK}", f"tiny · {OTHER}"}
    assert findings["overall"] is None
    (table,) = findings["groups"]["benchmarks"].values()
    assert table["tasks"] == [TASK, OTHER]
    cells = load_cells(result.out, read_study(path))
    for row in table["rows"]:
        (cell,) = [cell for cell in cells if cell.record["method"] == row["name"]]
        drawn = cell.rollouts[~cell.rollouts.greedy]
        means = drawn.groupby("task").correct.mean()
        expected = means.mean() if row["task"] == "average" else means[row["task"]]
        assert row["values"]["accuracy"]["value"] == pytest.approx(expected)
        assert ("differences" in row) == (row["task"] == "average" and row["name"] != "grpo")
    assert "Major@4 [95 %]" in result.report
    assert "difference of the averages from grpo" in result.report
    assert "average" in (result.out / "tables" / "groups.csv").read_text()
    # One lineage: seeds of a model are not told apart by the task that they are asked.
    assert "the 1 lineages" in result.report


@pytest.mark.slow
def test_a_launcher_trains_the_same_model(model_dir, tmp_path):
    models = {"tiny": {"path": str(model_dir)}}
    path = write(tmp_path / "study.yaml", model_dir, models=models, seeds=[0])
    name = "tiny.all.dapo.s0"
    for out, launch in (("alone", None), ("launched", "python -W ignore")):
        found = sweep(path, tmp_path / out, cells=[name], keep_models=True, launch=launch, say=lambda _: None)
        assert found.failed == {}
    alone, launched = (
        (tmp_path / out / "models" / name / "model.safetensors").read_bytes() for out in ("alone", "launched")
    )
    assert alone == launched
    commands = []
    words = ["max_steps=3"]
    sweep(path, tmp_path / "x", commands=True, launch="a b", train=words, cells=[name], say=commands.append)
    assert commands[0].endswith(f"--train max_steps=3 --launch 'a b' --cell {name}")
    for launch, message in (("no-such-launcher", "cannot be run"), (f"{sys.executable} -c 'exit(3)'", "status 3")):
        found = sweep(path, tmp_path / "y", cells=[name], launch=launch, say=lambda _: None)
        assert message in found.failed[name]


def test_a_merged_adapter_is_the_trained_model(model_dir, tmp_path):
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = str(model_dir)
    model.save_pretrained(tmp_path / "adapter")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_dir / file, tmp_path / "adapter")
    found = merged_model(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32)
    trained = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, trained(ids).logits, rtol=1e-4, atol=1e-4)
        untrained = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        assert not torch.allclose(merged(ids).logits, untrained(ids).logits, atol=1e-2)
    assert merged_model(found, tmp_path / "again") == found


@pytest.mark.slow
def test_the_smoke_study_runs_whole(tmp_path, monkeypatch):
    """Five methods with LoRA on a tiny model, three tasks at k = 16, tables: in under ten minutes on two cores."""
    monkeypatch.chdir(ROOT)
    began = time.time()
    assert main(["sweep", str(PAPER / "smoke.yaml"), "--out", str(tmp_path / "out")]) == 0
    seconds = time.time() - began
    print(f"{seconds:.0f} s, load {os.getloadavg()}")
    if os.getloadavg()[1] < 2 * (os.cpu_count() or 1):  # the limit is one of a machine that does little else
        assert seconds < 600
    findings = json.loads((tmp_path / "out" / "tables" / "findings.json").read_text())
    table = findings["groups"]["benchmarks"]["tiny"]
    assert table["metrics"] == ["accuracy", "pass@16", "maj@16", "three@16"]
    averages = {row["name"]: row for row in table["rows"] if row["task"] == "average"}
    assert set(averages) == {"base", *METHODS}
    for row in averages.values():
        for value in row["values"].values():
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1
    assert set(averages["corr-po"]["differences"]) == set(table["metrics"])
    for cell in load_cells(tmp_path / "out", read_study(PAPER / "smoke.yaml")):
        assert cell.record["recipe"].get("use_peft", not cell.record["trained"])
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Major@16 [95 %]" in report
