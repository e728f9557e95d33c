"""The links of the chain and the controls: the same numbers as asking for each alone, and verdicts by hand."""

import json
import math

import pytest
import torch

from antiphase.errors import InvalidInputError
from antiphase.statistics.chain import Link, chain_links, controls, frequency
from antiphase.statistics.partial_correlation import pooled_partial
from antiphase.statistics.pooled_correlation import pooled_correlation
from antiphase.types import Correlation

NUM = 400


@pytest.fixture(scope="module")
def columns() -> dict[str, torch.Tensor]:
    """Entropy falls with the logit, which rises with the norm of the state; the strength falls with that norm."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, NUM, generator=generator)
    hidden = noise[0]
    logit = hidden + noise[1]
    entropy = -logit + noise[2]
    return {
        "entropy": entropy,
        "logit": logit,
        "hidden_norm": hidden,
        "hidden_norm_before": torch.full((NUM,), torch.nan),
        "strength": -hidden + noise[3],
        "unembedding_norm": noise[4] + 0.7 * entropy,
        "logprob_control": entropy + 0.1 * noise[5],
        "position": torch.arange(float(NUM)) % 25,
    }


@pytest.fixture(scope="module")
def clusters() -> torch.Tensor:
    return torch.arange(NUM) // 25


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.randint(0, 90, (NUM,), generator=torch.Generator().manual_seed(1))


def triple(result) -> list[float]:
    return [result["value"], result["low"], result["high"]]


def close(result: Correlation):
    return pytest.approx([result.value, result.low, result.high], abs=1e-9)


@pytest.mark.parametrize("unit", ["token", "type"])
def test_links_equal_pooled_correlations(columns, clusters, token_ids, unit: str) -> None:
    options = {"unit": unit, "token_ids": token_ids, "seed": 5}
    links = {link.name: link for link in chain_links(columns, clusters, **options)}
    assert list(links) == [
        "entropy–logit",
        "logit–hidden",
        "hidden–strength",
        "logit–hidden_before",
        "hidden_before–strength",
        "unembedding–strength",
        "unembedding–entropy",
    ]
    for name, link in links.items():
        if "before" in name:
            assert not link.correlation.defined
            continue
        alone = pooled_correlation(columns[link.x], columns[link.y], clusters, **options)
        assert triple(link.as_dict()) == close(alone)
        assert link.correlation.unit == unit
        assert link.correlation.num_tokens == alone.num_tokens


def test_verdicts_of_a_chain_that_breaks(columns, clusters) -> None:
    verdicts = {link.name: link.verdict for link in chain_links(columns, clusters)}
    assert verdicts == {
        "entropy–logit": "as the paper says",
        "logit–hidden": "as the paper says",
        "hidden–strength": "opposite",
        "logit–hidden_before": "undecided",
        "hidden_before–strength": "undecided",
        "unembedding–strength": verdicts["unembedding–strength"],
        "unembedding–entropy": "related",
    }


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("negative", -0.4, -0.1, "as the paper says"),
        ("positive", -0.4, -0.1, "opposite"),
        ("none", -0.4, -0.1, "related"),
        ("negative", 0.1, 0.4, "opposite"),
        ("positive", 0.1, 0.4, "as the paper says"),
        ("positive", -0.1, 0.4, "undecided"),
        ("none", -0.1, 0.4, "undecided"),
        ("negative", -0.4, 0.0, "undecided"),
        ("negative", math.nan, math.nan, "undecided"),
    ],
)
def test_verdict_by_hand(expected, low: float, high: float, verdict: str) -> None:
    link = Link("a–b", "a", "b", expected, Correlation((low + high) / 2, low, high, 9, math.nan, "spearman", 0.95))
    assert link.verdict == verdict
    assert json.loads(json.dumps(link.as_dict(), allow_nan=False))["verdict"] == verdict


def test_three_prompts_decide_nothing(columns) -> None:
    links = {num: chain_links(columns, torch.arange(NUM) * num // NUM)[0] for num in (3, 4)}
    assert {num: link.num_prompts for num, link in links.items()} == {3: 3, 4: 4}
    assert all(link.correlation.high < 0 for link in links.values())
    assert {num: link.verdict for num, link in links.items()} == {3: "undecided", 4: "as the paper says"}


def test_links_share_the_tokens_where_all_are_measured(columns, clusters) -> None:
    holes = {**columns, "strength": columns["strength"].masked_fill(torch.arange(NUM) % 4 > 0, torch.nan)}
    links = chain_links(holes, clusters)
    assert {link.correlation.num_tokens for link in links if link.correlation.defined} == {NUM // 4}
    kept = torch.arange(0, NUM, 4)
    alone = pooled_correlation(columns["entropy"][kept], columns["logit"][kept], clusters[kept])
    assert triple(links[0].as_dict()) == close(alone)


@pytest.mark.parametrize("unit", ["token", "type"])
def test_controls_equal_asking_one_by_one(columns, clusters, token_ids, unit: str) -> None:
    found = controls(columns, clusters, token_ids, unit=unit, seed=2)
    assert list(found) == ["logprob", "unembedding_norm", "position", "frequency", "together"]
    json.dumps(found, allow_nan=False)
    options = {"unit": unit, "token_ids": token_ids, "seed": 2}
    entropy, strength = columns["entropy"], columns["strength"]
    series = {
        "logprob": columns["logprob_control"],
        "unembedding_norm": columns["unembedding_norm"],
        "position": columns["position"],
        "frequency": frequency(token_ids).float(),
    }
    for name, control in series.items():
        assert triple(found[name]["entropy"]) == close(pooled_correlation(control, entropy, clusters, **options))
        assert triple(found[name]["strength"]) == close(pooled_correlation(control, strength, clusters, **options))
        partial = pooled_partial(entropy, strength, [control], clusters, **options)
        assert triple(found[name]["partial"]) == close(partial)
    held = [control for name, control in series.items() if name != "logprob"]
    together = pooled_partial(entropy, strength, held, clusters, **options)
    assert triple(found["together"]["partial"]) == close(together)


def test_what_a_model_lacks_is_null(columns, clusters, token_ids) -> None:
    lacking = {name: series for name, series in columns.items() if name != "unembedding_norm"}
    found = controls(lacking, clusters, token_ids)
    assert found["unembedding_norm"] == {
        key: {"value": None, "low": None, "high": None} for key in ("entropy", "strength", "partial")
    }
    assert found["together"]["partial"]["value"] is not None
    unmeasured = {**columns, "strength": torch.full((NUM,), torch.nan)}
    assert controls(unmeasured, clusters, token_ids)["position"]["partial"]["value"] is None
    assert {link.verdict for link in chain_links(unmeasured, clusters)} >= {"undecided"}
    with pytest.raises(InvalidInputError, match="'strength'"):
        chain_links({"entropy": columns["entropy"]}, clusters)


def test_a_control_that_makes_the_correlation_explains_it() -> None:
    generator = torch.Generator().manual_seed(0)
    position = torch.arange(2000.0) % 50
    noise = 10 * torch.randn(2, 2000, generator=generator)
    columns = {"entropy": position + noise[0], "strength": position + noise[1], "position": position}
    found = controls(columns, torch.arange(2000) // 50, torch.arange(2000) % 40)
    plain = pooled_correlation(columns["entropy"], columns["strength"], torch.arange(2000) // 50)
    assert plain.low > 0.5
    assert found["position"]["partial"]["low"] < 0 < found["position"]["partial"]["high"]
    assert found["frequency"]["partial"]["low"] > 0.5
