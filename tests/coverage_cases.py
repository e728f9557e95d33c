"""Rollouts drawn from known populations, to see how often an interval holds the truth."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter

from antiphase.types import Correlation


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def autoregressive(num: int, length: int, phi: float, random: np.random.Generator) -> np.ndarray:
    noise = random.standard_normal((num, length + 30))
    return lfilter([math.sqrt(1 - phi**2)], [1, -phi], noise)[:, 30:]


def coverage(truth: float, results: Iterable[Correlation]) -> float:
    return float(np.mean([result.low <= truth <= result.high for result in results]))


@dataclass(frozen=True)
class Tokens:
    """Tokens of a Zipf vocabulary whose types have means of their own, in prompts that favour some types.

    Args:
        rho: correlation of the types' means.
        type_deviation: of the types' means; the tokens' own is 1.
        prompt_deviation: of the prompts' means.
        slope: mean slope of strength on entropy within a type.
        slope_deviation: of the prompts' slopes.
        trend: of both signals along the rollout, in opposite directions.
        phi: autocorrelation along the rollout.
        unevenness: of the lengths of the rollouts (of their logarithm).
        burstiness: how much prompts differ in their words.
    """

    rho: float = -0.5
    type_deviation: float = 1.0
    prompt_deviation: float = 0.4
    slope: float = -0.4
    slope_deviation: float = 0.3
    trend: float = 0.8
    phi: float = 0.5
    unevenness: float = 0.4
    burstiness: float = 3.0
    vocabulary: int = 3000

    def draw(self, num_prompts: int, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Entropy, strength, prompt, token id, position, and a property of the type that goes with its entropy."""
        fixed = np.random.default_rng(0)  # the language is the same in every run
        first, other, third = fixed.standard_normal((3, self.vocabulary))
        means = self.type_deviation * np.stack([first, self.rho * first + math.sqrt(1 - self.rho**2) * other])
        means[0] += 0.3 * np.log10(np.arange(self.vocabulary) + 1)
        share = 1 / (np.arange(self.vocabulary) + 2.7) ** 1.05
        parts = []
        for prompt in range(num_prompts):
            length = int(np.clip(np.exp(4.8 + self.unevenness * random.standard_normal()), 20, 2000))
            favour = random.gamma(1 / self.burstiness, self.burstiness, self.vocabulary)
            favour[:60] = 1
            total = np.cumsum(share * favour)
            ids = np.searchsorted(total, random.random(length) * total[-1]).clip(max=self.vocabulary - 1)
            noise, rest = autoregressive(2, length, self.phi, random)
            shift = self.prompt_deviation * random.standard_normal(2)
            slope = self.slope + self.slope_deviation * random.standard_normal()
            position = np.arange(float(length))
            x = means[0, ids] + shift[0] + noise - self.trend * position / length
            y = means[1, ids] + shift[1] - shift[0] / 2 + slope * noise + rest + self.trend * position / length
            # Skewed, as entropies and norms are.
            parts.append(
                (np.exp(0.7 * x), np.exp(0.5 * y), np.full(length, prompt), ids, position, (first + third)[ids])
            )
        return tensors(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def steps(num_prompts: int, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Entropy, strength, number of tokens, position, prompt and rollout of steps; two rollouts a prompt.

    Both signals fall with the length of the step and rise along the rollout; a short step's means are noisy.
    """
    parts = []
    for prompt in range(num_prompts):
        shift, slope = 0.5 * random.standard_normal(2), -0.4 + 0.3 * random.standard_normal()
        for rollout in (2 * prompt, 2 * prompt + 1):
            num = int(random.integers(3, 25))
            tokens = np.exp(2.8 + 0.6 * random.standard_normal(num)).round().clip(1)
            position = np.cumsum(tokens) - tokens / 2
            noise, rest = autoregressive(2, num, 0.3, random)
            common = 0.002 * position
            spread = 2 * random.standard_normal((2, num)) / np.sqrt(tokens)
            x = shift[0] + noise - 0.4 * np.log(tokens) + common + spread[0]
            y = shift[1] + slope * noise + rest - 0.8 * np.log(tokens) + common + spread[1]
            parts.append((x, y, tokens, position, np.full(num, prompt), np.full(num, rollout)))
    return tensors(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def step_rows(num: int, length: int, phi: float, rho: float, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Entropy and strength of rollouts of `length` steps each."""
    x, rest = autoregressive(num, length, phi, random), autoregressive(num, length, phi, random)
    return tensors(x, rho * x + math.sqrt(1 - rho**2) * rest)


def expected(draw: Callable[[], float], num: int) -> float:
    """Mean of a correlation over runs of one size, taken on Fisher's scale."""
    return math.tanh(float(np.mean(np.arctanh([draw() for _ in range(num)]))))


def autoregressive_series(shape: tuple[int, ...], phi: float, generator: torch.Generator) -> torch.Tensor:
    """Series of variance 1 along the last axis, each value correlated by `phi` with the one before it."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    for t in range(1, shape[-1]):
        x[..., t] = phi * x[..., t - 1] + math.sqrt(1 - phi**2) * x[..., t]
    return x
