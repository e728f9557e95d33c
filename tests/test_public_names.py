"""The names that users write, written down: one that comes or goes is a change that users see."""

import importlib

import pytest

import antiphase
from antiphase import cli

NAMES = {
    "AntiphaseError", "CorRPOConfig", "CorRPOTrainer", "Correlation", "Evaluation", "Fingerprint",
    "InversionCallback", "InversionReward", "InversionSpec", "ProbeConfig", "ProbeSet", "SignalSpec",
    "Splitter", "StepSignals", "TokenBatch", "TokenSignals", "batch_steps", "coefficients", "compare",
    "correlate", "evaluate", "load_model", "mean_within", "partial_coefficients", "pooled_correlation",
    "pooled_partial", "probe", "probe_checkpoints", "token_signals", "token_steps", "write_report",
}  # fmt: skip
COMMANDS = {"probe", "eval", "compare", "sweep", "train", "report", "view", "check"}
REGISTRIES = {
    "signal_spec:ESTIMATORS": {"own", "last", "full", "oracle", "oracle-own"},
    "rollouts.engine_names:ENGINES": {"auto", "transformers", "vllm"},
    "steps.splitter:SPLITTERS": {"sentence", "line"},
    "figures:FIGURES": {"probe", "checkpoints", "eval", "compare", "study", "train"},
}


def test_names_of_the_package() -> None:
    assert set(antiphase.__all__) == NAMES
    assert all(getattr(antiphase, name) is not None for name in NAMES)


def test_commands() -> None:
    (commands,) = (action for action in cli._parser()._actions if hasattr(action, "choices") and action.choices)
    assert set(commands.choices) == COMMANDS


@pytest.mark.parametrize("place", REGISTRIES)
def test_what_is_chosen_by_name(place) -> None:
    module, _, name = place.partition(":")
    assert REGISTRIES[place] <= set(getattr(importlib.import_module(f"antiphase.{module}"), name))
