"""Results and token tables that the figure tests draw."""

import numpy as np
import pandas as pd
from matplotlib.text import Text

HOSTILE = [
    "\n\n", "\r\n", "\t", "$x_1$", "$\\frac{$", "$", "\\frac{", "}{", "_", "^", "%", "#", "数学",
    "\U0001f642\U0001f469\u200d\U0001f680", "\x00\x1b\x07", "\u202eabc\u202c", "\u200f", "x" * 60, "", "   ",
    "e\u0301", "\u0301", "\ud800", "\ufffd", "\u2028", "\u0645\u0631\u062d\u0628\u0627", " \u05e9\u05dc\u05d5\u05dd",
    "-->", "<!--", "&<>", "]]>", "\ufeff",
]  # fmt: skip


def stat(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def make_result(model="org/model-a", estimator="own", **changes):
    result = {
        "model": model, "estimator": estimator, "context": "own-position", "norm": "nuclear", "target": "logit",
        "layers": [0, 1, 2], "projections": ["Q", "V"], "by_projection": [[-0.5, 0.1], [None, 0.2], [0.3, -0.25]],
        "spearman": stat(-0.312, -0.358, -0.249), "spearman_within": stat(-0.27, -0.3, -0.2),
        "logprob_control": stat(0.91, 0.9, 0.93), "pearson": stat(None), "spearman_unique": stat(None),
        "num_tokens": 3072, "num_rollouts": 2, "num_prompts": 1, "num_undefined": 0,
    }  # fmt: skip
    return result | changes


def entry(value, low, high, *, num_items=100, within=None):
    """ρ over a unit, as `units` of summary.json has it."""
    return stat(value, low, high) | {"num_items": num_items, "num_undefined": 0, "within": within or stat(None)}


def in_units(headline, **units):
    """Changes of a result that give it these units."""
    return {"headline": headline, "units": units}


def make_tokens(model="org/model-a", estimator="own", num_rollouts=2, length=20, seed=0):
    rng = np.random.default_rng(seed)
    count = num_rollouts * length
    return pd.DataFrame(
        {
            "model": model, "estimator": estimator, "prompt_id": 0, "token_id": 7, "logprob": -1.0,
            "rollout_id": np.repeat(np.arange(num_rollouts), length),
            "token": [" word", ",", "\n", " $2$"] * (count // 4),
            "position": np.tile(np.arange(length), num_rollouts),
            "entropy": rng.exponential(0.5, count), "strength": rng.lognormal(0, 0.3, count), "logprob_control": 0.5,
        }
    )  # fmt: skip


def make_rollout(tokens, entropy=None, strength=None):
    ramp = np.linspace(0.1, 1.0, len(tokens))
    columns = {"position": range(len(tokens)), "token": pd.Series(tokens, dtype=object)}
    return pd.DataFrame(
        columns | {"entropy": ramp if entropy is None else entropy, "strength": ramp if strength is None else strength}
    )


def texts(figure):
    return [found.get_text() for found in figure.findobj(Text) if found.get_text()]


def token_texts(figure):
    return [found.get_text() for found in figure.findobj(Text) if found.get_gid() == "token"]


def medians(axes):
    return [line for line in axes.lines if line.get_gid() == "running-median"]


# entropy_strength
