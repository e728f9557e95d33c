"""Other ways to compute what antiphase computes, on the same work: their time, their memory, and whether they agree.

**Strengths of tokens.** The peers are automatic differentiation to the weights, one token after another, and
`torch.func` (`vmap` of `grad`), which takes all tokens in one backward pass. Both then compute the singular values of
every gradient by `torch.linalg.svdvals`. Beside them are the estimators. Every result is compared with the oracle in
float64 on the same weights. The shapes are a small model and that of SmolLM2-135M, with random weights in float32.

**Statistics.** The peers are loops over `scipy.stats.spearmanr`, `torchmetrics` where it is installed, and
`scipy.stats.bootstrap`.

Works run in turns, in CPU time. `seconds_per_target` is the time of a work divided by the number of its results.

    python benchmarks/peers.py [--rounds 3] [--only strength,statistics] [--out benchmarks/results]

Writes OUT/peers-cpu.json after every case. The rows of cases that did not run stay.
"""

import argparse
import functools
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap, spearmanr
from torch import Tensor
from torch.func import functional_call, grad, vmap

from antiphase import SignalSpec, coefficients
from antiphase.signals.chunk import rows_of as rollouts_of
from antiphase.statistics.resampling import Resampler
from cases import SMALL, llama, measuring, random_ids, rollout
from intervals import pooled, series
from long_rows import SHAPE
from rows import Work, peak_apart, rows_of, write

# Name of the shape → the shape, the tokens of the rollout, and how many of them the slow ways measure.
SHAPES = {"small": (SMALL, 64, 16), "SmolLM2-135M": (SHAPE, 128, 2)}
AUTOGRAD, FUNC = "autograd to the weights, svdvals", "torch.func vmap(grad), svdvals"
SLOW = (AUTOGRAD, FUNC, "oracle", "full")
FAST = ("own", "last")
# Largest relative difference of a norm from the oracle in float64 at which two answers count as the same.
SAME = 1e-3
RHO_SHAPE, POOL_SHAPE = (256, 2048), (20_000, 50, 200)


def norms_of(gradients: Mapping[str, Tensor], layers: int) -> Tensor:
    """Return the nuclear norms of gradients, as `[target, layer, projection]`."""
    norms = [torch.linalg.svdvals(matrix).sum(-1) for matrix in gradients.values()]
    return torch.stack(norms, -1).unflatten(-1, (layers, -1))


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the weights of the attention projections of a Llama by name, layer by layer, as Q, K, V and O."""
    return {
        name: weight.detach()
        for layer in range(model.config.num_hidden_layers)
        for part in "qkvo"
        for name, weight in model.named_parameters()
        if name == f"model.layers.{layer}.self_attn.{part}_proj.weight"
    }


def by_autograd(model: torch.nn.Module, ids: list[int], columns: list[int]) -> Tensor:
    """Differentiate the logit of one token after another with respect to the weights."""
    weights = {name: weight.requires_grad_() for name, weight in weights_of(model).items()}
    logits = functional_call(model, weights, (torch.tensor([ids]),), {"use_cache": False}).logits[0]
    found = []
    for column in columns:
        gradients = torch.autograd.grad(logits[column - 1, ids[column]], tuple(weights.values()), retain_graph=True)
        found.append(norms_of(dict(zip(weights, gradients, strict=True)), model.config.num_hidden_layers))
    return torch.stack(found)


def by_func(model: torch.nn.Module, ids: list[int], columns: list[int]) -> Tensor:
    """Differentiate the logits of all tokens at once. The attention is the eager one: it has rules for `vmap`."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    token_ids, places = torch.tensor([ids]), torch.tensor(columns)

    def logit(weights: dict[str, Tensor], place: Tensor, token_id: Tensor) -> Tensor:
        logits = functional_call(model, weights, (token_ids,), {"use_cache": False}).logits[0]
        # Indexing by two tensors at once has no rule for `vmap`.
        return logits.index_select(0, place[None]).index_select(1, token_id[None])[0, 0]

    try:
        every = vmap(grad(logit), in_dims=(None, 0, 0))
        gradients = every(weights_of(model), places - 1, token_ids[0][places])
    finally:
        model.set_attn_implementation(before)
    return norms_of(gradients, model.config.num_hidden_layers)


def strengths(model: torch.nn.Module, ids: list[int], name: str, targets: int | None) -> Tensor:
    """Return the norms `[target, layer, projection]` of one of the works, or of an estimator."""
    if name in (AUTOGRAD, FUNC):
        way: Callable[..., Tensor] = by_autograd if name == AUTOGRAD else by_func
        return way(model, ids, columns_of(ids, targets))
    signals = measuring(model, ids, name, targets)()
    return signals.strength_by_projection[signals.measured]


def columns_of(ids: list[int], targets: int | None) -> list[int]:
    """Return the positions of the tokens that every estimator draws and measures in this rollout."""
    (row,) = rollouts_of(rollout(ids), SignalSpec(targets_per_rollout=targets))
    return row.targets[row.measured].tolist()


def answer(found: Tensor, truth: Tensor, other: Tensor | None) -> dict[str, Any]:
    """Return the columns that say whether an answer is the oracle's.

    Args:
        found: the norms.
        truth: those of the oracle in float64.
        other: those of the oracle of the estimator's own definition, if that is another quantity.
    """
    truth = truth[:, -found.shape[1] :]
    difference = float(((found.double() - truth).abs() / truth.abs()).max())
    if other is not None:
        own = float(((found.double() - other).abs() / other.abs()).max())
        return {"difference": difference, "same_answer": "another quantity", "difference_from_own_definition": own}
    words = "yes" if difference < SAME else "no"
    if found.shape[1] == 1:
        words += ", of the last layer"
    return {"difference": difference, "same_answer": words}


@functools.cache
def _model(shape: str) -> torch.nn.Module:
    return llama(SHAPES[shape][0])


def _work(shape: str, name: str) -> Work:
    """Return one work of the strengths."""
    sizes, tokens, targets = SHAPES[shape]
    model, ids = _model(shape), random_ids(tokens, sizes["vocab_size"])
    return functools.partial(strengths, model, ids, name, targets if name in SLOW else None)


def strength_rows(shape: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of all ways to measure the strengths of a rollout."""
    sizes, tokens, targets = SHAPES[shape]
    exact, ids = llama(sizes, torch.float64), random_ids(tokens, sizes["vocab_size"])
    truth = strengths(exact, ids, "oracle", targets)
    own = strengths(exact, ids, "oracle-own", targets)
    del exact
    works = {name: _work(shape, name) for name in (*SLOW, *FAST)}
    rows = rows_of(f"strength, {shape}", works, rounds, beside=AUTOGRAD, shape={"tokens": tokens}, dtype="float32")
    drawn = [column - 1 for column in columns_of(ids, targets)]
    result = []
    for row in rows:
        name = row["work"]
        found = works[name]()
        compared = found if name in SLOW else found[drawn]
        more = {f"seconds_per_target_p{q}": row[f"seconds_p{q}"] / len(found) for q in (20, 50, 80)}
        more |= {f"ratio_p{q}": row[f"ratio_p{q}"] * targets / len(found) for q in (20, 50, 80)}
        more |= answer(compared, truth, own if name == "own" else None)
        result.append(row | more | {"targets": len(found), "peak_mib": peak_apart(_work, shape, name)})
        print(json.dumps(result[-1]), flush=True)
    return result


def _series_work(name: str) -> Callable[[], np.ndarray]:
    """Return one way to correlate many rollouts."""
    x, y = torch.randn(2, *RHO_SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if name == "antiphase":
        return lambda: coefficients(x, y).numpy()
    if name == "torchmetrics":
        from torchmetrics.functional import spearman_corrcoef  # type: ignore[import-not-found, unused-ignore]

        return lambda: spearman_corrcoef(x.T, y.T).numpy()
    return lambda: np.array([spearmanr(a, b)[0] for a, b in zip(x.numpy(), y.numpy(), strict=True)])


def rho_rows(rounds: int) -> list[dict[str, Any]]:
    """Return the rows of Spearman's ρ within each of many rollouts."""
    scipy = "a loop over scipy.stats.spearmanr"
    missing = importlib.util.find_spec("torchmetrics") is None
    names = ["antiphase", scipy] if missing else ["antiphase", scipy, "torchmetrics"]
    works = {name: _series_work(name) for name in names}
    shape = {"rollouts": RHO_SHAPE[0], "tokens": RHO_SHAPE[1]}
    rows = rows_of("ρ within each rollout", works, rounds, beside=scipy, shape=shape, dtype="float64")
    truth = works[scipy]()
    for row in rows:
        difference = float(np.abs(works[row["work"]]() - truth).max())
        row |= {
            "difference": difference, "same_answer": "yes" if difference < 1e-12 else "no",
            "peak_mib": peak_apart(_series_work, row["work"]),
        }  # fmt: skip
    if missing:
        rows.append({"case": "ρ within each rollout", "work": "torchmetrics", "same_answer": "not installed: not run"})
    return rows


PROMPTS = "scipy.stats.bootstrap over prompts"
TOKENS = "scipy.stats.bootstrap over tokens"
COUNTED, EXACT = "antiphase, from counts", "antiphase, exact resampling"


def _pool_work(name: str) -> Callable[[], tuple[float, float]]:
    """Return one way to compute the interval of a pooled correlation; the work returns its two ends."""
    tokens, prompts, resamples = POOL_SHAPE
    data = series(tokens, num_prompts=prompts)

    def ours() -> tuple[float, float]:
        found = pooled(data, resamples, counted=name == COUNTED)
        return found.low, found.high

    x, y, clusters = (each.numpy() for each in data)
    members = [np.flatnonzero(clusters == prompt) for prompt in range(prompts)]

    def over_prompts(drawn: np.ndarray) -> float:
        places = np.concatenate([members[int(prompt)] for prompt in drawn])
        return float(spearmanr(x[places], y[places])[0])

    options = {"n_resamples": resamples, "method": "percentile", "rng": 0, "vectorized": False}

    def theirs() -> tuple[float, float]:
        if name == TOKENS:
            statistic = lambda a, b: float(spearmanr(a, b)[0])  # noqa: E731
            return tuple(bootstrap((x, y), statistic, paired=True, **options).confidence_interval)
        found = bootstrap((np.arange(prompts),), over_prompts, **options).bootstrap_distribution
        # The percentiles are stretched as antiphase does, so that only the random draws differ.
        return Resampler.of(data[2], 1, 0).interval(float(spearmanr(x, y)[0]), torch.from_numpy(found), 0.95)

    return ours if name in (COUNTED, EXACT) else theirs


def pool_rows(rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the interval of a correlation over all tokens of all rollouts."""
    works = {name: _pool_work(name) for name in (COUNTED, EXACT, PROMPTS, TOKENS)}
    shape = dict(zip(("tokens", "prompts", "resamples"), POOL_SHAPE, strict=True))
    rows = rows_of("interval of a pooled ρ", works, rounds, beside=PROMPTS, shape=shape, dtype="float64")
    low, high = works[EXACT]()
    words = {COUNTED: "within 0.002", EXACT: "yes", PROMPTS: "yes, but for the random draws"}
    for row in rows:
        ends = works[row["work"]]()
        row |= {
            "low": ends[0], "high": ends[1], "difference": max(abs(ends[0] - low), abs(ends[1] - high)),
            "same_answer": words.get(row["work"], "another quantity: tokens count as independent"),
            "peak_mib": peak_apart(_pool_work, row["work"]),
        }  # fmt: skip
        if row["work"] == COUNTED and row["difference"] > 0.002:
            row["same_answer"] = "no"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="strength,statistics")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "peers-cpu.json"
    parts: list[Callable[[int], list[dict[str, Any]]]] = []
    if "statistics" in options.only:
        parts += [rho_rows, pool_rows]
    if "strength" in options.only:
        parts += [functools.partial(strength_rows, shape) for shape in SHAPES]
    for part in parts:
        rows = part(options.rounds)
        known = json.loads(path.read_text())["rows"] if path.exists() else []
        write(path, [*(row for row in known if row["case"] != rows[0]["case"]), *rows])


if __name__ == "__main__":
    main()
