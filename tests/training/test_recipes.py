"""Recipes and presets: parsed, resolved, and trained for a step."""

from pathlib import Path

import pytest
import yaml

from antiphase.cli import main
from antiphase.errors import InvalidInputError
from antiphase.training.presets import PRESETS, Preset, resolve_preset
from antiphase.training.recipe import parse_recipe
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from training_cases import TASK, flags

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
ROOT = Path(__file__).parents[2]


def test_recipe_files(tmp_path, model_dir):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {model_dir}\ntasks: '{TASK}'\nlearning_rate: 1e-5\nmax_steps: 7\nreward_weights: [2]\nbf16: false\n"
        "use_cpu: true\noutput_dir: somewhere\npreset: dapo+corr-po\nepsilon_high: 0.3\n"
    )
    recipe = parse_recipe(["--config", str(path), "--max_steps", "9", "--out", str(tmp_path / "o")])
    assert recipe.config.learning_rate == 1e-5
    assert recipe.config.max_steps == 9
    assert recipe.config.reward_weights == [2.0]
    assert recipe.config.output_dir == str(tmp_path / "o")
    assert recipe.config.epsilon_high == 0.3
    assert recipe.config.loss_type == "dapo"
    assert recipe.config.inversion_weight == 0.1
    for content, message in {
        "modle: x": "unknown key 'modle'. Did you mean 'model'?",
        "max_steps: soon": "max_steps: 'soon' is no valid value",
        "model: [a, b]": "model takes one value; got a list",
        "- a": "must map keys to values",
        "a: [": "is not YAML",
        "optim: adm": "optim",
    }.items():
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=message.replace("[", r"\[").replace("?", r"\?")):
            parse_recipe(["--config", str(path)])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        parse_recipe(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(InvalidInputError, match="name a model"):
        parse_recipe(["--tasks", TASK])
    with pytest.raises(InvalidInputError, match="name at least one task"):
        parse_recipe(["--model", "x"])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_arguments_of_the_pinned_host(name, tmp_path, model_dir):
    preset, with_inversion = resolve_preset(name)
    assert not with_inversion
    assert preset.source
    assert preset.deviations
    alone = parse_recipe(flags(model_dir, tmp_path, preset=name))
    both = parse_recipe(flags(model_dir, tmp_path, preset=f"{name}+corr-po"))
    assert alone.config.inversion_weight == 0
    assert both.config.inversion_weight == 0.1
    for key, value in preset.arguments.items():
        assert getattr(alone.config, key) == getattr(both.config, key) == value


def test_a_preset_of_your_own(tmp_path, model_dir):
    dapo = PRESETS["dapo"]
    PRESETS.add("wide", Preset("wide", {**dapo.arguments, "epsilon_high": 0.4}, "ours", "Clips at 0.4."))
    try:
        assert list(PRESETS)[-1] == "wide"
        assert CorRPOConfig(str(tmp_path), bf16=False, use_cpu=True, **PRESETS["wide"].arguments).epsilon_high == 0.4
        alone = parse_recipe(flags(model_dir, tmp_path, preset="wide"))
        both = parse_recipe(flags(model_dir, tmp_path, preset="wide+corr-po"))
        assert (alone.config.epsilon_high, alone.config.inversion_weight) == (0.4, 0)
        assert (both.config.loss_type, both.config.inversion_estimator) == ("dapo", "full")
        assert both.preset.source.endswith("on ours")
        with pytest.raises(InvalidInputError, match="already an entry 'wide' among the presets"):
            PRESETS.add("wide", dapo)
        for name in ("corr-po", "wide+dapo"):
            with pytest.raises(InvalidInputError, match="a preset cannot be called"):
                PRESETS.add(name, dapo)
    finally:
        PRESETS.remove("wide")
    with pytest.raises(InvalidInputError, match=r"'wide' is not a preset.* The baselines are grpo, dr-grpo, "):
        resolve_preset("wide")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name, tmp_path, model_dir):
    words = flags(
        model_dir, tmp_path / "run", preset=f"{name}+corr-po", max_steps=2, eval_problems=0, save_strategy="no"
    )
    assert main(["train", *words]) == 0
    assert [row["inversion/weight"] for row in read_trajectory(tmp_path / "run")] == [0.1, 0.1]


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*/*.yaml")), ids=lambda path: path.parent.name)
def test_shipped_recipes_parse(path, monkeypatch):
    from antiphase.training import recipe as module

    # The embedded model may not be installed here.
    monkeypatch.setattr(module, "demo_model_path", lambda: "demo")
    recipe = parse_recipe(["--config", str(path)])
    assert set(yaml.safe_load(path.read_text())) == set(recipe.given)
    assert (path.parent / "README.md").is_file()
