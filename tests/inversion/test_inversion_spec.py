"""The options of the inversion reward: one list of them for every engine, and for TRL's config."""

import dataclasses
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.steps import Splitter

FIELDS = {field.name: field for field in dataclasses.fields(InversionSpec)}


def test_nothing_of_it_imports_a_trainer() -> None:
    code = (
        "import sys; from antiphase import InversionReward, InversionSpec; InversionReward(InversionSpec()); "
        "print([n for n in sys.modules if n.split('.')[0] in ('trl', 'datasets') "
        "or n.startswith(('transformers.trainer', 'antiphase.training'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.filterwarnings("ignore::FutureWarning")
class TestConfig:
    @pytest.fixture(autouse=True)
    def _config(self, tmp_path):
        pytest.importorskip("trl", reason="TRL is not installed; pip install 'antiphase[train]'")
        from antiphase.training import trainer_config as module

        self.made = lambda **changes: module.CorRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **changes)
        self.own = {field.name: field for field in dataclasses.fields(module.CorRPOConfig)}
        self.names = module.OWN_FIELDS

    def test_has_every_option_with_its_default_and_help(self) -> None:
        assert self.made().inversion_spec() == InversionSpec()
        own = tuple(f"inversion_{name}" for name in FIELDS if name != "seed")
        assert self.names == (*own, "dynamic_sampling", "token_advantages", "share_logprobs")
        for name, option in FIELDS.items():
            if name != "seed":
                field = self.own[f"inversion_{name}"]
                assert (field.default, field.metadata) == (option.default, option.metadata)
                # A parser of arguments puts the type itself, without None, where its name stood.
                hint = get_type_hints(InversionSpec)[name]
                assert field.type in (option.type, hint, *get_args(hint))

    def test_passes_every_value_on(self) -> None:
        values = {
            "weight": 0.3, "combine": "gated", "unit": "type", "segment": "answer", "splitter": "line",
            "step_strength": "joint", "min_steps": 4,
            "undefined": "worst", "tied": "skip", "estimator": "full", "layers": "last-2", "projections": "QV",
            "norm": "frobenius", "target": "logprob", "targets_per_rollout": 3, "token_budget": 99,
            "correlation": "pearson", "min_tokens": 5, "shrink": 2.0, "clip": 0.5, "schedule": "cosine",
            "warmup_steps": 7.0, "control": "random", "verifier": "right", "accept": 0.25, "alarm": "drop",
            "alarm_window": 9,
        }  # fmt: skip
        spec = InversionSpec(**values, seed=3)
        assert all(getattr(spec, name) != field.default for name, field in FIELDS.items())
        config = self.made(**{f"inversion_{name}": value for name, value in values.items()}, seed=3)
        assert config.inversion_spec() == spec
        assert config.weight_at(3, 20) == spec.weight_at(3, 20)
        assert (config.score_spec(), config.signal_spec()) == (spec.score_spec(), spec.signal_spec())
        assert config.splitter() == Splitter("line")

    def test_its_first_positional_argument_is_the_hosts(self, tmp_path) -> None:
        assert self.made().output_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -0.1}, "must be 0 or positive"),
        ({"combine": "add"}, "inversion_combine must be one of penalty, sum"),
        ({"estimator": "oracle"}, "own, last, full"),
        ({"alarm_window": 7}, "at least 8"),
        ({"accept": float("nan")}, "inversion_accept is NaN"),
        ({"combine": "only", "weight": 0.0}, "no reward at all"),
        ({"tied": "mask"}, "inversion_tied must be one of keep, skip"),
        ({"combine": "only", "tied": "skip"}, "does not go with inversion_combine='only'"),
        ({"segment": "both"}, "inversion_segment must be one of all, thought, answer"),
        ({"splitter": "sentense"}, "Did you mean 'sentence'"),
        ({"projections": ""}, "projections is empty"),
        ({"min_steps": 2}, "inversion_min_steps must be at least 3"),
    ],
)
def test_bad_options(changes, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        InversionSpec(**changes)


@pytest.mark.parametrize(
    ("changes", "targets", "strength"),
    [
        ({}, None, "mean"),
        ({"step_strength": "joint"}, None, "joint"),
        ({"step_strength": "joint", "estimator": "full"}, 0, "joint"),
        ({"step_strength": "joint", "estimator": "full", "targets_per_rollout": 4}, 4, "joint"),
        ({"step_strength": "joint", "estimator": "full", "unit": "token"}, None, "mean"),
    ],
)
def test_what_is_measured(changes, targets, strength) -> None:
    found = InversionSpec(**changes).signal_spec()
    assert (found.targets_per_rollout, found.step_strength) == (targets, strength)


def test_warmup_in_steps_and_in_shares() -> None:
    for warmup in (5.0, 0.25):
        spec = InversionSpec(weight=0.4, warmup_steps=warmup)
        assert [spec.weight_at(step, 20) for step in (0, 2, 5, 20)] == pytest.approx([0, 0.16, 0.4, 0.4])
    assert InversionSpec(weight=0.4).weight_at(0, 0) == 0.4
