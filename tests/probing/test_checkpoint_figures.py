"""The published curves, and the figure of ρ along the checkpoints of a training."""

import pytest

from antiphase.data.published import published_curves
from antiphase.errors import InvalidInputError
from antiphase.figures.checkpoints import checkpoint_curves

LLAMA_SFT = (
    0.036, -0.468, -0.497, -0.483, -0.500, -0.499, -0.533, -0.509, -0.502, -0.502, -0.511, -0.571, -0.584, -0.606,
)  # fmt: skip
QWEN_SFT = (
    -0.171, -0.308, -0.334, -0.344, -0.370, -0.357, -0.365, -0.380, -0.377, -0.377, -0.379, -0.501, -0.517, -0.494,
)  # fmt: skip
LLAMA_RL = (0.036, -0.362, -0.362, -0.318, -0.234, -0.320, -0.371, -0.332, -0.338, -0.280, -0.314)
QWEN_RL = (-0.171, -0.053, -0.067, -0.085, -0.163, -0.207, -0.280, -0.281, -0.243, -0.318, -0.301)


def test_published_curves_are_those_of_the_method() -> None:
    """What the post and the paper print, number by number."""
    sft, rl = (*range(0, 2001, 200), 4000, 6000, 8000), tuple(range(0, 1001, 100))
    assert {(curve.label, curve.steps, curve.spearman) for curve in published_curves()} == {
        ("SFT, Llama (post)", sft, LLAMA_SFT),
        ("SFT, Qwen (post)", sft, QWEN_SFT),
        ("RL-Zero, Llama (post)", rl, LLAMA_RL),
        ("RL-Zero, Qwen (post)", rl, QWEN_RL),
        ("CorR-PO (paper)", (0, 1000), (-0.171, -0.363)),
        ("GRPO (paper)", (0, 1000), (-0.171, -0.301)),
    }
    for curve in published_curves():
        assert curve.unit == "type"
        assert curve.url.startswith("https://")
        assert curve.read == ("whole" if curve.source == "post" else "as a public digest of the paper reports")


def entry(value, low, high):
    return {"value": value, "low": low, "high": high}


def trajectory(numbered=True, headline="type", steps=(0, 400, 1200)):
    units = {
        "type": entry(-0.2, -0.3, -0.1), "token": entry(0.1, 0.0, 0.2), "step": entry(None, None, None),
    }  # fmt: skip
    results = [{"estimator": name, "headline": headline, "units": units} for name in ("own", "full")]
    points = [{"step": step, "checkpoint": f"checkpoint-{step}", "results": results} for step in steps]
    return {"numbered": numbered, "checkpoints": points}


class TestDrawing:
    def titles(self, figure):
        return [axis.get_title(loc="left") for axis in figure.axes]

    def dotted(self, axis):
        return [line for line in axis.lines if line.get_linestyle() == ":"]

    def test_panels(self):
        figure = checkpoint_curves(trajectory(), published_curves())
        kinds, tokens, steps = figure.axes
        assert self.titles(figure) == ["ρ by type", "ρ by token", "ρ by step"]
        assert [list(line.get_ydata()) for line in kinds.lines[:2]] == [[-0.2] * 3] * 2
        assert list(kinds.lines[0].get_xdata()) == [0, 400, 1200]
        (band, *_) = kinds.collections
        assert band.get_datalim(kinds.transData).y0 == pytest.approx(-0.3)
        assert band.get_datalim(kinds.transData).y1 == pytest.approx(-0.1)
        # References are over types, and reach as far as the trajectory does.
        assert [tuple(line.get_ydata()) for line in self.dotted(kinds)] == [c.spearman for c in published_curves()]
        assert [len(self.dotted(axis)) for axis in (tokens, steps)] == [0, 0]
        assert kinds.get_xlim()[1] == pytest.approx(1.03 * 1200)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [curve.label for curve in published_curves()]

    def test_without_references(self):
        for figure in (checkpoint_curves(trajectory()), checkpoint_curves(trajectory(False), published_curves())):
            assert [self.dotted(axis) for axis in figure.axes] == [[], [], []]
            assert figure.legends == []
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert labels == ["checkpoint-0", "checkpoint-400", "checkpoint-1200"]

    def test_headline_first_and_one_checkpoint(self):
        figure = checkpoint_curves(trajectory(headline="step", steps=(7,)), published_curves())
        assert self.titles(figure) == ["ρ by step", "ρ by type", "ρ by token"]
        assert len(self.dotted(figure.axes[1])) == len(published_curves())
        assert figure.axes[1].get_xlim()[1] == pytest.approx(1.03 * 200)
        with pytest.raises(InvalidInputError, match="no checkpoint"):
            checkpoint_curves({"numbered": True, "checkpoints": []})
