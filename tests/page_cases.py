"""Documents for the tests of the page: synthetic ones of any size, with hostile text where wanted."""

import base64
import zlib

import numpy as np
import pandas as pd
import pytest

from antiphase.page.building import signals_document
from antiphase.page.document import Document, Run
from antiphase.runs.run_folder import RunFolder
from antiphase.types import cell_column

PROJECTIONS = ["Q", "K", "V", "O"]
ALL_NULL = {"value": None, "low": None, "high": None}


def tables(
    model: str,
    num_rollouts: int,
    num_tokens: int,
    *,
    num_layers: int = 2,
    words: list[str] | None = None,
    seed: int = 0,
    estimator: str = "own",
    slope: float = -0.3,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tokens and rollouts of one model: strengths fall with entropy by `slope`, on a logarithmic scale."""
    random = np.random.default_rng(seed)
    words = words or [f" word{i}" for i in range(1000)]
    total = num_rollouts * num_tokens
    rollout = np.repeat(np.arange(num_rollouts), num_tokens)
    names = np.array([f"p{i // 2}/{i % 2}" for i in range(num_rollouts)], dtype=object)
    entropy = random.gamma(0.6, 1.2, total).astype(np.float32)
    ids = random.integers(0, len(words), total)
    tokens = pd.DataFrame(
        {
            "model": model,
            "estimator": estimator,
            "prompt_id": np.array([name.split("/")[0] for name in names], dtype=object)[rollout],
            "rollout_id": names[rollout],
            "position": np.tile(np.arange(num_tokens, dtype=np.int32), num_rollouts),
            "token_id": ids,
            "token": np.array(words, dtype=object)[ids],
            "entropy": entropy,
            "logprob": -random.exponential(1.0, total).astype(np.float32),
            "logprob_control": entropy,
        }
    )
    cells = np.exp(slope * entropy[:, None] + random.normal(0, 1, (total, num_layers * 4))).astype(np.float32)
    tokens["strength"] = cells.mean(1)
    columns = {
        cell_column(layer, name): cells[:, 4 * layer + place]
        for layer in range(num_layers)
        for place, name in enumerate(PROJECTIONS)
    }
    tokens = pd.concat([tokens, pd.DataFrame(columns)], axis=1)
    rows = []
    for place, name in enumerate(names):
        own = slice(place * num_tokens, (place + 1) * num_tokens)
        pair = pd.DataFrame({"x": entropy[own], "y": tokens.strength.to_numpy()[own]}).rank()
        rows.append(
            {
                "model": model,
                "estimator": estimator,
                "prompt_id": name.split("/")[0],
                "rollout_id": name,
                "prompt": f"Question {name.split('/')[0]}?",
                "completion": "".join(tokens.token.tolist()[own]),
                "finish": "length",
                "num_tokens": num_tokens,
                "spearman": pair.x.corr(pair.y) if num_tokens > 2 else float("nan"),
                "shuffled": 0.0,
            }
        )
    return tokens, pd.DataFrame(rows)


def result(tokens: pd.DataFrame, rollouts: pd.DataFrame, model: str, estimator: str = "own") -> dict:
    """An entry of summary.json; the intervals are made up."""
    layers = sorted({int(name[10:12]) for name in tokens if name.startswith("strength_L")})
    ranked = tokens[["entropy", "strength"]].rank()
    rho = float(ranked.entropy.corr(ranked.strength))
    return {
        "model": model, "revision": "r", "device": "cpu", "dtype": "float32", "estimator": estimator,
        "context": "own-position", "layers": layers, "projections": PROJECTIONS, "norm": "nuclear", "target": "logit",
        "temperature": 1.0, "targets_per_rollout": None,
        "spearman": {"value": rho, "low": rho - 0.05, "high": rho + 0.05}, "pearson": ALL_NULL,
        "spearman_unique": ALL_NULL, "pearson_unique": ALL_NULL,
        "spearman_within": ALL_NULL, "pearson_within": ALL_NULL,
        "logprob_control": {"value": 0.6, "low": 0.5, "high": 0.7},
        "by_projection": [
            [float(ranked.entropy.corr(tokens[cell_column(layer, name)].rank())) for name in PROJECTIONS]
            for layer in layers
        ],
        "num_tokens": int(tokens.strength.notna().sum()), "num_unique_tokens": int(tokens.token_id.nunique()),
        "num_rollouts": len(rollouts), "num_prompts": int(rollouts.prompt_id.nunique()),
        "num_undefined": int(rollouts.spearman.isna().sum()), "entropy_mean": float(tokens.entropy.mean()),
        "strength_mean": float(tokens.strength.mean()),
    }  # fmt: skip


def stepped(tokens: pd.DataFrame, length: int = 10) -> pd.DataFrame:
    """steps.parquet of these tokens: windows of so many."""
    keys = ["model", "estimator", "prompt_id", "rollout_id", "step"]
    found = tokens.assign(step=tokens.position // length).groupby(keys, sort=False, as_index=False)
    return found.agg(
        start=("position", "min"), num_tokens=("position", "size"), position=("position", "mean"),
        entropy=("entropy", "mean"), strength=("strength", "mean"),
    )  # fmt: skip


def by_unit(rollouts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The rollouts with ρ over every unit, made up; the last one's over steps is undefined."""
    random = np.random.default_rng(seed)
    names = ("spearman_type", "spearman_step", "spearman_step_low", "spearman_step_high", "spearman_given_length")
    made = {name: random.uniform(-1, 1, len(rollouts)) for name in names}
    for name in names[1:]:
        made[name][-1:] = np.nan
    return rollouts.assign(spearman_token=rollouts.spearman, **made)


def in_units(entry: dict, headline: str = "type") -> dict:
    """The entry with units, chain and controls; all numbers are made up and differ."""
    numbers = iter(np.linspace(-0.9, 0.9, 200).round(6).tolist())

    def made(**others) -> dict:
        value = next(numbers)
        return {"value": value, "low": value - 0.0123, "high": value + 0.0234, **others}

    def unit(items: int, undefined: int) -> dict:
        return made(num_items=items, num_undefined=undefined, within=made())

    token = {**entry["spearman"], "num_items": entry["num_tokens"], "num_undefined": 0, "within": made()}
    step = unit(1234, 1) | {
        "given": {"length": made(), "position": made(), "both": made()},
        "with_length": {"entropy": made(), "strength": made()},
        "windows": {"fixed:16": made()},
    }
    chain = [
        made(link=link, x=x, y=y, expected=expected, verdict=verdict)
        for link, x, y, expected, verdict in (
            ("entropy–logit", "entropy", "logit", "negative", "as the paper says"),
            ("logit–hidden", "logit", "hidden_norm", "positive", "opposite"),
            ("hidden–strength", "hidden_norm", "strength", "positive", "undecided"),
            ("unembedding–strength", "unembedding_norm", "strength", "none", "related"),
        )
    ]
    controls = {name: {"entropy": made(), "strength": made(), "partial": made()} for name in ("logprob", "position")}
    return entry | {
        "headline": headline, "units": {"token": token, "type": unit(567, 0), "step": step}, "chain": chain,
        "controls": controls | {"together": {"partial": made()}}, "splitter": "sentence", "step_strength": "mean",
    }  # fmt: skip


def synthetic(names: list[str], num_rollouts: int, num_tokens: int, **options) -> Document:
    """A document of so many models."""
    found = [tables(name, num_rollouts, num_tokens, seed=seed, **options) for seed, name in enumerate(names)]
    results = [in_units(result(*frames, name)) for name, frames in zip(names, found, strict=True)]
    tokens, rollouts = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
    return signals_document(
        "probe", "run", tokens, by_unit(rollouts), {"config": {}, "results": results}, steps=stepped(tokens)
    )


def without_results(title: str) -> Document:
    """A document that has nothing but its title."""
    return Document(title, [Run(title, "probe")])


def evaluated(*, greedy=(True, False, False, False), task="t"):
    """Tables and result of an evaluation of four rollouts."""
    tokens, rollouts = tables("m", 4, 12)
    rollouts = rollouts.assign(
        task=task, greedy=list(greedy), correct=[True, False, True, True], outcome="x", answer="1", reference="1"
    )
    tokens = tokens.assign(task=task)
    statistics = result(tokens, rollouts, "m")
    keys = ("spearman", "logprob_control", "num_tokens", "num_rollouts", "num_prompts", "num_undefined")
    entry = {
        **{key: statistics[key] for key in ("model", "estimator", "layers", "projections")},
        "task": task,
        "num_rollouts": 4,
        "num_problems": 2,
        "metrics": {"avg@3": {"value": 0.5, "low": 0.25, "high": 0.75}, "greedy": {"value": 1.0}},
        "signals": {key: statistics[key] for key in keys},
    }
    return tokens, rollouts, entry


def unpacked(text, dtype, length):
    """As the page does: planes of equal significance back into numbers."""
    dtype = np.dtype(dtype).newbyteorder("<")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(dtype.itemsize, length)
    return np.ascontiguousarray(planes.T).view(dtype).ravel()


def alternatives_of(tokens, count=2):
    frame = tokens[["model", "rollout_id", "position"]].loc[tokens.index.repeat(count)].reset_index(drop=True)
    rank = np.tile(np.arange(count), len(tokens))
    return frame.assign(rank=rank, token=[f"alt{i}" for i in range(len(frame))], logprob=-0.5 * (rank + 1))


def log_decoded(levels, low, high):
    """As the page does."""
    values = np.exp(low + (levels.astype(np.float64) - 2) / 65_533 * (high - low))
    return np.where(levels == 0, np.nan, np.where(levels == 1, 0.0, values))


def cut_after(batches, run):
    """Stop a probe or an evaluation in this process when this many batches are written."""
    whole, calls = RunFolder.write_part, []

    def stop(*args):
        calls.append(1)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return whole(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_part", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
