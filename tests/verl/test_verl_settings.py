"""The options of the inversion in verl's configuration, and what is refused by name. These tests need no verl."""

import pytest

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.verl.settings import REFUSED_MODES, check_config, refuse_mode, spec_of


def config(actor=None, model=None):
    return {"actor_rollout_ref": {"actor": {"strategy": "fsdp2", **(actor or {})}, "model": model or {}}}


def test_the_section_is_the_options_with_the_alarm_off():
    assert spec_of({"weight": 0.2, "unit": "token"}) == InversionSpec(weight=0.2, unit="token", alarm="off")
    assert spec_of(None) == InversionSpec(alarm="off")
    check_config(config())


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"wieght": 1}, "inversion.wieght is not an option"),
        ({"verifier": "accuracy"}, "inversion.verifier"),
        ({"alarm": "stop"}, "collapse alarm"),
        ({"combine": "product"}, "inversion_combine"),
        ({"weight": -1}, "must be 0 or positive"),
    ],
)
def test_options_that_are_refused(section, said):
    with pytest.raises(InvalidInputError, match=said):
        spec_of(section)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (config({"strategy": "fsdp"}), "FSDP 1"),
        (config({"strategy": "megatron"}), "'megatron'"),
        (config({"fsdp_config": {"ulysses_sequence_parallel_size": 2}}), "ulysses"),
        (config({"fsdp_config": {"qat": {"enable": True}}}), "qat"),
        (config(model={"lora_rank": 8}), "LoRA"),
        (config(model={"lora": {"rank": 8}}), "LoRA"),
        (config(model={"lora_adapter_path": "x"}), "LoRA"),
    ],
)
def test_configurations_that_are_refused(changed, said):
    with pytest.raises(InvalidInputError, match=said):
        check_config(changed)


@pytest.mark.parametrize("mode", REFUSED_MODES)
def test_the_error_of_an_asynchronous_mode_names_it(mode):
    assert mode in str(refuse_mode(mode))
