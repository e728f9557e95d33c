"""The draws of a rollout are its own: other rollouts, the batch size and the order do not change them."""

import math

import pytest
import torch
from scipy.stats import chisquare

from antiphase.errors import NonFiniteError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.draws import BLOCK, OwnDraws
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from conftest import byte_tokenizer, tiny_model

PROMPTS = [[5, 6, 7], [20, 21, 22, 23], [40], [5, 6, 7], [60, 61], [9] * 9]
SAMPLING = Sampling(max_new_tokens=24, seed=4)


def drawn(draws: OwnDraws, scores: torch.Tensor) -> list[int]:
    found = draws(torch.zeros(len(scores), 1, dtype=torch.long), scores)
    assert found.shape == scores.shape
    assert bool((found.isfinite().sum(-1) == 1).all())
    return found.argmax(-1).tolist()


@pytest.mark.parametrize("vocabulary", [3, BLOCK, 2 * BLOCK + 5])
def test_tokens_are_drawn_with_their_probabilities(vocabulary) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 2 * torch.randn(vocabulary, generator=generator)
    logits[1] = -math.inf
    count, positions = 2000, 10
    draws, found = OwnDraws(range(count)), torch.zeros(vocabulary)
    for _ in range(positions):
        found += torch.bincount(torch.tensor(drawn(draws, logits.expand(count, -1))), minlength=vocabulary)
    assert found[1] == 0
    expected = logits.double().softmax(-1) * count * positions
    # Rare tokens are counted together, since the test needs about five of a kind.
    rare = expected < 5
    kinds = [torch.cat([values[~rare], values[rare].sum()[None]]).double() for values in (found, expected)]
    kinds = [values[kinds[1] > 0] for values in kinds]
    assert chisquare(*(values.numpy() for values in kinds)).pvalue > 1e-3


def test_the_streams_of_neighbouring_positions_and_seeds_are_independent() -> None:
    seeds = rollout_seeds(0, [[1]] * 4000)
    draws, logits = OwnDraws(seeds), torch.zeros(len(seeds), 4)
    first, second = (torch.tensor(drawn(draws, logits)) for _ in range(2))
    pairs = {
        "positions of one rollout": 4 * first + second,
        "rollouts one after another": 4 * first[:-1:2] + first[1::2],
    }
    for counted in pairs.values():
        assert chisquare(torch.bincount(counted, minlength=16).numpy()).pvalue > 1e-3


def test_rare_tokens_are_not_lost() -> None:
    """A token of probability 1e-4 stands in a block whose other tokens cannot be drawn."""
    logits = torch.full((2 * BLOCK,), -math.inf)
    logits[0], logits[-1] = 0.0, math.log(1e-4)
    draws = OwnDraws(range(20_000))
    found = sum(token == 2 * BLOCK - 1 for _ in range(10) for token in drawn(draws, logits.expand(20_000, -1)))
    assert abs(found - 20) < 5 * math.sqrt(20)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("architecture", ["llama-gqa", "qwen3"])
def test_a_rollout_is_the_same_in_every_batch_and_order(architecture, temperature) -> None:
    # In float64, rounding decides between no two tokens.
    loaded = LoadedModel("tiny", tiny_model(architecture).double(), byte_tokenizer(), None)
    sampling = Sampling(max_new_tokens=24, temperature=temperature, top_p=0.95, seed=4)
    seeds = rollout_seeds(sampling.seed, PROMPTS)
    whole = generate(loaded, PROMPTS, sampling, seeds)
    assert whole[0] != whole[3], "two rollouts of one prompt differ"
    for size in (1, 2, 4):
        parts = [slice(start, start + size) for start in range(0, len(PROMPTS), size)]
        assert [row for part in parts for row in generate(loaded, PROMPTS[part], sampling, seeds[part])] == whole
    order = [4, 0, 5, 3, 1, 2]
    there = generate(loaded, [PROMPTS[i] for i in order], sampling, [seeds[i] for i in order])
    assert there == [whole[i] for i in order]
    short = Sampling(max_new_tokens=7, temperature=temperature, top_p=0.95, seed=4)
    assert [ids for ids, _ in generate(loaded, PROMPTS, short, seeds)] == [ids[:7] for ids, _ in whole]


def test_seeds_depend_on_the_prompt_and_its_number_alone() -> None:
    seeds = rollout_seeds(1, PROMPTS)
    assert len(set(seeds)) == len(PROMPTS)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rollout_seeds(1, PROMPTS[::-1]) == [*seeds[:3:-1], seeds[0], *seeds[2:0:-1], seeds[3]]
    assert rollout_seeds(1, PROMPTS[1:3]) == seeds[1:3]
    assert not set(rollout_seeds(2, PROMPTS)) & set(seeds)
    assert rollout_seeds(0, [[1, 23]]) != rollout_seeds(0, [[12, 3]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_probabilities_that_are_not_finite_stop_the_generation(bad) -> None:
    model = tiny_model()
    positions = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: positions.append(1) or output.fill_(bad))
    loaded = LoadedModel("tiny", model, byte_tokenizer(), None)
    with pytest.raises(NonFiniteError, match=r"NaN or infinity; try --dtype float32"):
        generate(loaded, PROMPTS, SAMPLING, rollout_seeds(0, PROMPTS))
    assert len(positions) < SAMPLING.max_new_tokens
