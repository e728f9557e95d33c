"""The standard error of ρ that comes from the draw of the measured tokens, against many draws from known rollouts."""

import math

import pytest
import torch

from antiphase.statistics.correlation import by_group, coefficients
from antiphase.statistics.subsampling import subsampling_error


def population(num_rollouts: int, num_tokens: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Rollouts with levels of their own, and types with means of their own."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    ids = torch.randint(0, 150, (num_rollouts, num_tokens), generator=draw)
    entropy = normal(num_rollouts, num_tokens) + normal(150)[ids] + normal(num_rollouts, 1) / 2
    strength = normal(num_rollouts, num_tokens) - entropy / 2
    owner = torch.arange(num_rollouts)[:, None].expand_as(ids)
    return entropy.exp(), strength, owner, ids


def drawn(shape: tuple[int, ...], num: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(*shape, generator=generator).argsort(1).argsort(1) < num


def rho(x: torch.Tensor, y: torch.Tensor) -> float:
    return coefficients(x[None], y[None], min_tokens=2).item()


@pytest.mark.parametrize("by_type", [False, True])
@pytest.mark.parametrize(("num_rollouts", "num_tokens", "num"), [(24, 120, 16), (24, 24, 16), (40, 60, 3)])
def test_error_covers_the_spread_of_draws(num_rollouts: int, num_tokens: int, num: int, by_type: bool) -> None:
    x, y, owner, ids = population(num_rollouts, num_tokens)
    generator, values, errors = torch.Generator().manual_seed(1), [], []
    for number in range(300):
        chosen = drawn(x.shape, num, generator)
        pairs = (x[chosen], y[chosen])
        values.append(rho(*(by_group(*pairs, ids[chosen]) if by_type else pairs)))
        if number < 25:
            hidden = y.where(chosen, torch.nan)
            types = ids.flatten() if by_type else None
            errors.append(
                subsampling_error(x.flatten(), hidden.flatten(), owner.flatten(), types, num_subsets=100, seed=number)
            )
    spread, error = torch.tensor(values).std().item(), sum(errors) / len(errors)
    assert error == pytest.approx(spread, rel=0.2)
    center = sum(values) / len(values)
    # The error of another draw stands for that of each, so that the test needs few of them.
    held = [abs(value - center) <= 1.96 * errors[place % len(errors)] for place, value in enumerate(values)]
    assert 0.9 <= sum(held) / len(held) <= 0.99


def test_all_tokens_have_no_error_and_fewer_have_more() -> None:
    x, y, owner, _ = (part.flatten() for part in population(10, 50))
    assert subsampling_error(x, y, owner) == 0.0
    generator, errors = torch.Generator().manual_seed(2), []
    for num in (48, 24, 12, 6):
        hidden = y.where(drawn((10, 50), num, generator).flatten(), torch.nan)
        errors.append(subsampling_error(x, hidden, owner))
    assert errors == sorted(errors)
    assert errors[0] < errors[-1] / 4


def test_one_token_of_a_rollout_has_no_error() -> None:
    x, y, owner, _ = (part.flatten() for part in population(4, 10))
    one = y.where(torch.arange(40) % 10 == 3, torch.nan)
    assert math.isnan(subsampling_error(x, one, owner))
    assert math.isnan(subsampling_error(x, torch.full_like(y, torch.nan), owner))
    # A rollout that has a single token is measured completely.
    alone = torch.cat([x, x[:1]]), torch.cat([y.where(torch.arange(40) % 2 > 0, torch.nan), y[:1]])
    assert subsampling_error(*alone, torch.cat([owner, torch.tensor([9])])) > 0
