"""Figures as files: which are written, under what names, whole or not at all, and without matplotlib."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from antiphase.errors import MissingExtraError
from antiphase.figures import entropy_strength, layer_map, model_comparison, rollout_track, save_figures
from figure_cases import make_result, make_rollout, make_tokens


def test_both_formats_of_every_figure_are_written_and_nothing_else(tmp_path):
    results = [make_result(), make_result(estimator="last", layers=[2], projections=["Q"], by_projection=[[0.1]])]
    tokens = pd.concat([make_tokens(), make_tokens(estimator="last")])
    folder = tmp_path / "deep" / "er"
    paths = save_figures(tokens, results, folder)
    names = {f"{name}.{kind}" for kind in ("png", "svg") for name in (
        "entropy_strength", "model_comparison", "layer_map_org-model-a-own", "rollout_org-model-a-own",
        "rollout_org-model-a-last",
    )}  # fmt: skip
    assert {path.name for path in paths} == names
    assert {path.name for path in folder.iterdir()} == names
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths if path.suffix == ".png")


def test_slugs_are_unique_also_where_case_is_not(tmp_path):
    models = ["a/b", "a-b", "A/B", "a/b", "数学", "模型"]
    paths = save_figures(make_tokens(model="none of them"), [make_result(model=name) for name in models], tmp_path)
    maps = [path.stem for path in paths if path.stem.startswith("layer_map") and path.suffix == ".svg"]
    assert maps == [f"layer_map_{s}" for s in ("a-b-own", "a-b-own-2", "a-b-own-3", "a-b-own-4", "own", "own-2")]


@pytest.mark.parametrize(("unmeasured", "chosen"), [([], 5), ([0], 3), ([0, 20], 4), ([0, 20, 40], 5)])
def test_the_rollout_with_the_most_measured_tokens_is_shown_and_the_first_of_equals(tmp_path, unmeasured, chosen):
    tokens = make_tokens(num_rollouts=3)
    tokens["rollout_id"] = tokens["rollout_id"].map({0: 5, 1: 3, 2: 4})
    tokens.loc[unmeasured, "strength"] = np.nan
    save_figures(tokens, [make_result()], tmp_path)
    assert f"prompt 0, rollout {chosen} -->" in (tmp_path / "rollout_org-model-a-own.svg").read_text("utf-8")


def test_a_rollout_without_ids_is_still_shown(tmp_path):
    paths = save_figures(make_tokens(num_rollouts=1).assign(prompt_id=np.nan), [make_result()], tmp_path)
    assert tmp_path / "rollout_org-model-a-own.svg" in paths


def test_rollouts_of_different_prompts_are_kept_apart(tmp_path):
    tokens = pd.concat(
        [make_tokens(num_rollouts=1, length=8), make_tokens(num_rollouts=1, length=12).assign(prompt_id=1)]
    )
    save_figures(tokens, [make_result()], tmp_path)
    svg = (tmp_path / "rollout_org-model-a-own.svg").read_text("utf-8")
    assert "prompt 1, rollout 0" in svg
    assert "12 of 12 tokens measured" in svg


def test_saving_twice_under_other_settings_gives_the_same_bytes_and_leaves_the_settings(tmp_path):
    tokens, results = make_tokens(), [make_result()]
    first = save_figures(tokens, results, tmp_path / "1")
    strange = {
        "font.size": 20,
        "axes.facecolor": "black",
        "svg.fonttype": "none",
        "savefig.bbox": "tight",
        "axes.grid": True,
    }
    with matplotlib.rc_context(strange):
        before = dict(matplotlib.rcParams)
        second = save_figures(tokens, results, tmp_path / "2")
        assert dict(matplotlib.rcParams) == before
    assert [path.name for path in first] == [path.name for path in second]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_a_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path, monkeypatch):
    save_figures(make_tokens(), [make_result()], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("antiphase.figures.saving.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figures(make_tokens(seed=1), [make_result()], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_table_still_gives_the_figures_that_need_no_tokens(tmp_path):
    paths = save_figures(make_tokens().head(0), [make_result()], tmp_path)
    assert sorted({path.stem for path in paths}) == [
        "entropy_strength",
        "layer_map_org-model-a-own",
        "model_comparison",
    ]


# matplotlib


def test_missing_matplotlib_names_the_extra(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    calls = [
        lambda: entropy_strength(make_tokens(), [make_result()]),
        lambda: layer_map(make_result()),
        lambda: rollout_track(make_rollout(["a"]), "t"),
        lambda: model_comparison([make_result()]),
        lambda: save_figures(make_tokens(), [make_result()], tmp_path),
    ]
    for call in calls:
        with pytest.raises(MissingExtraError, match=r"drawing figures needs.*'matplotlib'.*antiphase\[report\]"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_figure_keeps_its_fonts_and_literal_text_when_drawn_later_under_other_settings():
    for figure in (entropy_strength(make_tokens(), [make_result()]), rollout_track(make_rollout(["$a$"]), "t")):
        with matplotlib.rc_context({"font.family": "serif", "font.size": 30, "text.parse_math": True}):
            figure.draw_without_rendering()
        drawn = [text for text in figure.findobj(Text) if text.get_text()]
        assert {family for text in drawn for family in text.get_fontfamily()} <= {"DejaVu Sans", "DejaVu Sans Mono"}
        assert max(text.get_fontsize() for text in drawn) < 10
        assert not any(text.get_parse_math() for text in drawn)


def test_importing_the_module_loads_no_matplotlib_and_drawing_no_pyplot():
    code = (
        "import sys, antiphase.figures as f; assert 'matplotlib' not in sys.modules; "
        "f.layer_map(dict(model='m', estimator='own', layers=[0], projections=['Q'], by_projection=[[0.1]])); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
