"""A figure that a user adds, as docs/extend.md shows."""

import pytest

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.figures import FIGURES
from antiphase.figures.of_runs import figures_of
from antiphase.figures.style import canvas
from conftest import byte_tokenizer, tiny_model
from figure_cases import make_result, make_tokens

DATA = {"tokens": make_tokens(), "results": [make_result()]}


def entropy_along(tokens):
    """The mean entropy at each position of the completions."""
    means = tokens.groupby("position")["entropy"].mean()
    with canvas(5, 3) as (_, figure):
        axes = figure.subplots()
        axes.plot(means.index, means)
        axes.set(xlabel="position in the completion", ylabel="mean entropy (nats)")
    return figure


@pytest.fixture
def added():
    FIGURES["probe"].add("entropy_along", entropy_along)
    yield
    FIGURES["probe"].remove("entropy_along")


def test_a_probe_draws_it(added, tmp_path) -> None:
    options = {"num_prompts": 2, "max_new_tokens": 12, "num_resamples": 10, "progress": False, "report": False}
    antiphase.probe(tiny_model(), tokenizer=byte_tokenizer(), name="mine", out=tmp_path / "run", **options)
    names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"entropy_along.png", "entropy_along.svg", "entropy_strength.png", "model_comparison.svg"} <= names
    with pytest.raises(InvalidInputError, match="already an entry 'entropy_along' among the figures"):
        FIGURES["probe"].add("entropy_along", entropy_along)


def test_one_function_draws_several_files_or_none(added) -> None:
    several = {"one": entropy_along(make_tokens()), "two": entropy_along(make_tokens())}
    before = set(figures_of("probe", **DATA))
    FIGURES["probe"].add("several", lambda: several)
    FIGURES["probe"].add("none", lambda results: None)
    try:
        assert set(figures_of("probe", **DATA)) == before | {"one", "two"}
    finally:
        FIGURES["probe"].remove("several")
        FIGURES["probe"].remove("none")


def test_a_parameter_that_is_no_data_is_refused() -> None:
    FIGURES["probe"].add("wrong", lambda tokens, weights: None)
    try:
        with pytest.raises(
            InvalidInputError, match=r"'wrong' needs weights, but a run of this kind has only tokens, results\."
        ):
            figures_of("probe", **DATA)
    finally:
        FIGURES["probe"].remove("wrong")


def test_every_entry_is_a_function() -> None:
    """A removed figure is gone, and each text in the registries leads to a function."""
    assert list(FIGURES["probe"]) == ["entropy_strength", "model_comparison", "layer_map", "rollout"]
    assert all(callable(draw) for registry in FIGURES.values() for draw in registry.values())
