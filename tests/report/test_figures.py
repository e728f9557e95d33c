"""Figures: what they say and draw is what the tables hold, whatever text, gaps and names the tables hold."""

import re
from itertools import pairwise
from xml.dom import minidom

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from antiphase.errors import InvalidInputError
from antiphase.figures import entropy_strength, layer_map, model_comparison, rollout, rollout_track, save_figures
from figure_cases import (
    HOSTILE,
    entry,
    in_units,
    make_result,
    make_rollout,
    make_tokens,
    medians,
    stat,
    texts,
    token_texts,
)  # fmt: skip


def test_panel_says_the_result_with_real_minus_signs_and_the_token_count():
    said = texts(entropy_strength(make_tokens(), [make_result()]))
    assert "org/model-a · own" in said
    assert "ρ by token = −0.31 [−0.36, −0.25], n = 3\u202f072" in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"spearman": stat(None), "num_tokens": 0}, "ρ by token undefined, n = 0"),
        ({"spearman": None, "num_tokens": 1}, "ρ by token undefined, n = 1"),
        ({"spearman": stat(float("nan"), -0.1, 0.1)}, "ρ by token undefined, n = 3\u202f072"),
        ({"spearman": stat(0.5)}, "ρ by token = 0.50, n = 3\u202f072"),
        (in_units("step", step=entry(-0.4, -0.5, -0.31, num_items=240)), "ρ by step = −0.40 [−0.50, −0.31], n = 240"),
        ({"spearman": stat(-0.001, -0.204, 0.004)}, "ρ by token = 0.00 [−0.20, 0.00], n = 3\u202f072"),
    ],
)
def test_panel_writes_undefined_values_and_intervals(changes, expected):
    assert expected in texts(entropy_strength(make_tokens(), [make_result(**changes)]))


def test_panel_says_the_rho_of_the_tokens_that_it_draws_below_the_headline():
    units = {"step": entry(-0.4, -0.5, -0.31, num_items=240), "token": entry(-0.2, -0.3, -0.1, num_items=3072)}
    figure = entropy_strength(make_tokens(), [make_result(**in_units("step", **units))])
    lines = ["org/model-a · own", "ρ by step = −0.40 [−0.50, −0.31], n = 240"]
    lines.append("ρ by token = −0.20 [−0.30, −0.10], n = 3\u202f072")
    boxes = [found.get_window_extent() for line in lines for found in figure.findobj(Text) if found.get_text() == line]
    assert [above.y0 >= below.y1 for above, below in pairwise(boxes)] == [True, True]
    # Runs of before there were units, and those that lack the entry, have it elsewhere.
    alone = entropy_strength(make_tokens(), [make_result(**in_units("step", step=units["step"]))])
    assert "ρ by token = −0.31 [−0.36, −0.25], n = 3\u202f072" in texts(alone)


def test_hexagons_count_the_measured_tokens_of_their_own_result():
    own, full = make_tokens(length=20), make_tokens(estimator="full", length=8)
    own.loc[[1, 5, 6], "strength"] = np.nan
    figure = entropy_strength(pd.concat([own, full]), [make_result(), make_result(estimator="full")])
    assert [int(axes.collections[0].get_array().sum()) for axes in figure.axes[:2]] == [40 - 3, 16]


@pytest.mark.parametrize(
    ("strengths", "scale"),
    [([1.0, 2.0, 29.0], "linear"), ([1.0, 2.0, 31.0], "log"), ([0.0, 1.0, 29.0], "linear"), ([0.0, 1.0, 31.0], "log")],
)
def test_strength_is_logarithmic_beyond_a_factor_of_30_and_loses_no_zero(strengths, scale):
    tokens = make_tokens(num_rollouts=1, length=12).assign(strength=strengths * 4)
    axes = entropy_strength(tokens, [make_result()]).axes[0]
    assert axes.get_yscale() == scale
    assert axes.collections[0].get_array().sum() == 12


def test_entropy_axis_is_shared_root_scaled_and_labelled_in_nats():
    small, large = make_tokens(), make_tokens(model="b")
    large.loc[0, "entropy"] = 9.0
    figure = entropy_strength(pd.concat([small, large]), [make_result(), make_result(model="b")])
    first, second = figure.axes[:2]
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[0] < 0 < 3.0 < first.get_xlim()[1]
    for place, label in zip(first.get_xticks(), first.get_xticklabels(), strict=True):
        assert place**2 == pytest.approx(float(label.get_text()))


def test_running_median_follows_a_monotone_relation_in_original_order():
    entropy = np.linspace(0.0, 4.0, 400)
    tokens = make_tokens(num_rollouts=20, length=20).assign(entropy=entropy, strength=5.0 - entropy)
    line = medians(entropy_strength(tokens, [make_result()]).axes[0])[-1]
    x, y = line.get_data()
    assert len(x) == 7  # bins: √(400 / 8)
    assert np.all(np.diff(x) > 0)
    # Median commutes with monotone maps, up to the mean of the two middle values.
    np.testing.assert_allclose(y, 5.0 - np.square(x), atol=1e-3)


def test_running_median_puts_equal_entropies_into_one_bin():
    entropy = np.concatenate([np.zeros(300), np.linspace(0.5, 3.0, 100)])
    strength = np.concatenate([np.tile([1.0, 2.0, 9.0], 100), np.ones(100)])
    tokens = make_tokens(num_rollouts=20, length=20).assign(entropy=entropy, strength=strength)
    x, y = medians(entropy_strength(tokens, [make_result()]).axes[0])[-1].get_data()
    assert (x[0], y[0]) == (0.0, 2.0)
    assert np.all(x[1:] > 0)


@pytest.mark.parametrize(
    "changes",
    [{"entropy": 0.0}, {"entropy": 1.5}, {"strength": 2.0}, {"strength": 0.0}, {"entropy": 0.0, "strength": 0.0}],
)
def test_constant_signals_are_drawn_whole(changes):
    axes = entropy_strength(make_tokens().assign(**changes), [make_result()]).axes[0]
    assert axes.collections[0].get_array().sum() == 40


def test_one_token_is_one_hexagon_without_a_median():
    axes = entropy_strength(make_tokens().head(1), [make_result(num_tokens=1)]).axes[0]
    assert axes.collections[0].get_array().tolist() == [1.0]
    assert medians(axes) == []


@pytest.mark.parametrize("tokens", [make_tokens().head(0), make_tokens().assign(strength=np.nan)])
def test_a_panel_without_measured_tokens_says_so(tokens):
    figure = entropy_strength(tokens, [make_result()])
    assert "no measured tokens" in texts(figure)
    assert len(figure.axes) == 1  # no colour bar for no colours


def test_twelve_panels_wrap_after_three_and_overlap_nowhere():
    results = [make_result(model=f"organisation/a-rather-long-model-name-{i}-Instruct") for i in range(12)]
    figure = entropy_strength(pd.concat([make_tokens(model=r["model"]) for r in results]), results)
    panels = figure.axes[:12]
    assert panels[0].get_subplotspec().get_gridspec().get_geometry() == (4, 3)
    boxes = [axes.get_tightbbox() for axes in panels]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_missing_columns_and_empty_results_are_named():
    with pytest.raises(InvalidInputError, match="lacks strength, estimator"):
        entropy_strength(make_tokens().drop(columns=["strength", "estimator"]), [make_result()])
    with pytest.raises(InvalidInputError, match="results is empty"):
        entropy_strength(make_tokens(), [])
    with pytest.raises(InvalidInputError, match="results is empty"):
        model_comparison([])
    with pytest.raises(InvalidInputError, match="lacks position"):
        rollout_track(make_tokens().drop(columns="position"), "")


# layer_map


def test_layer_map_shows_each_cell_at_its_layer_and_projection():
    figure = layer_map(make_result(layers=[3, 4, 29]))
    axes, bar = figure.axes
    mesh = axes.collections[0]
    np.testing.assert_array_equal(mesh.get_array().filled(9), [[-0.5, 9, 0.3], [0.1, 0.2, -0.25]])
    assert mesh.get_clim() == (-0.5, 0.5)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "4", "29"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Q", "V"]
    assert bar.get_ylabel() == "Spearman ρ(entropy, strength) by token"
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[(0.5, 0.5)] == "−0.50"
    assert (1.5, 0.5) not in written
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(1, 0)]
    assert "undefined" in texts(figure)


@pytest.mark.parametrize(("num_layers", "most_ticks"), [(1, 1), (2, 2), (30, 20), (80, 20)])
def test_layer_map_labels_stay_apart_for_any_depth(num_layers, most_ticks):
    figure = layer_map(make_result(layers=list(range(num_layers)), by_projection=[[0.1, -0.2]] * num_layers))
    axes = figure.axes[0]
    assert 1 <= len(axes.get_xticks()) <= most_ticks
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert "undefined" not in texts(figure)


def test_layer_map_with_nothing_defined_is_all_hatched():
    axes = layer_map(make_result(layers=[5], projections=["Q"], by_projection=[[None]])).axes[0]
    assert [bool(patch.get_hatch()) for patch in axes.patches] == [True]
    assert len(axes.texts) == 0


# rollout_track


def test_rollout_ranks_are_percentiles_with_average_ties():
    figure = rollout_track(make_rollout(list("abcd"), [0.0, 0.0, 3.0, 1.0], [4.0, 3.0, 1.0, 2.0]), "t")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["entropy"], [25.0, 25.0, 87.5, 62.5])
    np.testing.assert_allclose(lines["strength"], [87.5, 62.5, 12.5, 37.5])


def test_rollout_shades_measured_tokens_by_the_sign_of_the_rank_difference():
    figure = rollout_track(make_rollout(["ab", "c", "de", "f"], [0.1, 0.2, 0.3, 0.4], [9.0, np.nan, 5.0, 1.0]), "t")
    boxes = figure.axes[1].patches
    assert [(box.get_x(), box.get_width()) for box in boxes] == [(0, 2), (3, 2), (5, 1)]  # none under "c"
    red, _, blue, _ = np.array([box.get_facecolor() for box in boxes]).T
    assert blue[0] > red[0]  # strength ranks higher
    assert min(red[1], blue[1]) > 0.95  # equal ranks: pale
    assert red[2] > blue[2]  # entropy ranks higher
    assert any("3 of 4 tokens measured" in text for text in texts(figure))


def test_rollout_is_drawn_in_the_order_of_positions():
    shuffled = make_rollout(["a", "b", "c"]).iloc[[2, 0, 1]]
    assert token_texts(rollout_track(shuffled, "t")) == ["a", "b", "c"]


@pytest.mark.parametrize("changes", [{"entropy": 0.0}, {"strength": 1.0}])
def test_a_constant_signal_is_not_shaded_as_inverted(changes):
    figure = rollout_track(make_rollout(list("abcdefgh")).assign(**changes), "t")
    assert len(figure.axes[1].patches) == 0
    assert any("a signal is constant" in text for text in texts(figure))


@pytest.mark.parametrize("length", [0, 1, 8])
def test_short_rollouts_show_every_token(length):
    assert token_texts(rollout_track(make_rollout(["ab"] * length), "t")) == ["ab"] * length


def test_a_long_rollout_is_cut_with_a_note_and_ranked_as_a_whole():
    figure = rollout_track(make_rollout(["ab"] * 900), "t")
    assert len(token_texts(figure)) == rollout.MAX_TOKENS
    assert any("900 of 900 tokens measured, the first 400 shown" in text for text in texts(figure))
    assert figure.axes[0].lines[0].get_ydata().max() == pytest.approx(399.5 / 9)
    exact = rollout_track(make_rollout(["ab"] * rollout.MAX_TOKENS), "t")
    assert not any("shown" in text for text in texts(exact))


def test_smoothing_of_a_long_rollout_keeps_a_constant_and_is_named():
    entropy = np.tile([0.0, 1.0], 150)
    figure = rollout_track(make_rollout(["a"] * 300, entropy=entropy), "t")
    smooth = next(line for line in figure.axes[0].lines if line.get_label() == "entropy (mean of 7)")
    # Ranks alternate between two values 50 apart: a mean over 7 lies within a fourteenth of that from the middle.
    np.testing.assert_allclose(smooth.get_ydata()[3:-3], 50.0, atol=50 / 14 + 1e-9)


def test_every_token_stays_inside_its_box_and_the_page():
    words = [" antidisestablishment", "x" * 60, "\n", "W" * 7, ",", "数" * 9] * 40
    figure = rollout_track(make_rollout(words), "t")
    text_axes = figure.axes[1]
    edge = text_axes.get_window_extent().x1
    spans = [box.get_window_extent() for box in text_axes.patches]
    drawn = [found for found in text_axes.texts if found.get_gid() == "token"]
    for token, box in zip(drawn, spans, strict=True):
        extent = token.get_window_extent()
        assert extent.width <= box.width + 1.5, token.get_text()
        assert extent.x1 <= edge + 1.5
    assert max(len(text) for text in token_texts(figure)) == rollout.MAX_CHARS


def test_bare_newlines_do_not_fill_the_page():
    assert rollout_track(make_rollout(["\n"] * 400), "t").get_figheight() < 8


def test_hostile_tokens_and_titles_are_drawn_literally_and_without_warnings(tmp_path):
    figure = rollout_track(make_rollout(HOSTILE), "$\\frac{$ \u202e\u200f数")
    shown = token_texts(figure)
    assert shown[:7] == ["⏎⏎", "⏎", "⇥", "$x_1$", "$\\frac{$", "$", "\\frac{"]
    assert shown[HOSTILE.index("数学")] == "□□"
    assert shown[HOSTILE.index("\u202eabc\u202c")] == "□abc□"
    assert shown[HOSTILE.index("x" * 60)] == "x" * (rollout.MAX_CHARS - 1) + "…"
    assert shown[HOSTILE.index("")] == "□"
    assert shown[HOSTILE.index("e\u0301")] == "é"
    assert shown[HOSTILE.index("\u0301")] == "□"
    # DejaVu Sans has glyphs for overrides and marks, which would reorder what follows.
    assert figure.axes[0].get_title(loc="left") == "$\\frac{$ □□□"
    figure.savefig(tmp_path / "a.svg")
    figure.savefig(tmp_path / "a.png")
    minidom.parse(str(tmp_path / "a.svg"))  # well-formed although tokens hold --> and control characters


def test_hostile_names_reach_every_figure_without_warnings(tmp_path):
    name = "\u202e数学/$\\frac{$\n" + "z" * 90
    tokens = make_tokens(model=name).assign(prompt_id="p/$1$\u202e")
    paths = save_figures(tokens, [make_result(model=name)], tmp_path)
    assert all(re.fullmatch(r"[a-z0-9_-]+\.(png|svg)", path.name) and len(path.name) < 100 for path in paths)


# model_comparison


def test_comparison_draws_the_values_and_writes_them():
    figure = model_comparison([make_result(), make_result(model="b", spearman=stat(0.25, 0.2, 0.3))])
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    pooled, within = lines["ρ by token with interval"], lines["mean of per-rollout ρ"]
    control = lines["mechanical control (log-probability)"]
    assert pooled.get_xdata().tolist() == [-0.312, 0.25]
    assert within.get_xdata().tolist() == [-0.27, -0.27]
    assert control.get_xdata().tolist() == [0.91, 0.91]
    assert control.get_markerfacecolor() == "none"
    intervals = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert intervals == [[-0.358, -0.249], [0.2, 0.3]]
    assert {"−0.31 [−0.36, −0.25]", "0.25 [0.20, 0.30]", "−0.27", "0.91"} <= set(texts(figure))
    inverted = next(text for text in axes.texts if "inverted" in text.get_text())
    assert inverted.get_ha() == "right"
    assert inverted.get_position()[0] == 0


def test_comparison_draws_the_headline():
    """Its ρ and its rollouts' mean; where results differ in it, each line says its own."""
    by_type = make_result(**in_units("type", type=entry(-0.2, -0.3, -0.1, within=stat(-0.15))))
    figure = model_comparison([by_type, by_type])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["ρ by type with interval"].get_xdata().tolist() == [-0.2, -0.2]
    assert lines["mean of per-rollout ρ"].get_xdata().tolist() == [-0.15, -0.15]
    said = {"−0.20 [−0.30, −0.10]", "ρ by type [interval]", "Spearman ρ(entropy, strength) by type"}
    assert said <= set(texts(figure))
    figure = model_comparison([by_type, make_result(**in_units("step", step=entry(None, None, None)))])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["org/model-a · own · by type", "org/model-a · own · by step"]
    assert {"ρ [interval]", "undefined"} <= set(texts(figure))


def test_comparison_writes_undefined_and_draws_nothing_for_it():
    nothing = make_result(spearman=stat(None), spearman_within=None, logprob_control=stat(float("nan")))
    figure = model_comparison([nothing])
    assert texts(figure).count("undefined") == 3
    markers = [line for line in figure.axes[0].lines if line.get_marker() in ("o", "D")]
    assert len(markers) == 3
    assert all(np.isnan(line.get_xdata()).all() for line in markers)


@pytest.mark.parametrize("count", [1, 12])
def test_comparison_rows_and_columns_stay_apart(count):
    none = stat(None)
    results = [
        make_result(
            model=f"organisation/quite-a-long-model-name-{i}-Instruct", spearman_within=none, logprob_control=none
        )
        for i in range(count)
    ]
    figure = model_comparison(results)
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plot = figure.axes[0].get_window_extent()
    assert all(box.x0 > plot.x1 and box.x1 < figure.bbox.x1 for box in boxes)


def test_long_model_names_are_shortened_before_the_part_that_tells_them_apart():
    names = ["an-organisation/Distill-Qwen-1.5B-Instruct", "an-organisation/Distill-Llama-8B-Instruct"]
    labels = [
        label.get_text() for label in model_comparison([make_result(model=n) for n in names]).axes[0].get_yticklabels()
    ]
    assert labels == ["an-organ…/Distill-Qwen-1.5B-Instruct · own", "an-organi…/Distill-Llama-8B-Instruct · own"]
