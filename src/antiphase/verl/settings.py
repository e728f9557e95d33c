"""Read the options of the inversion from verl's configuration, and refuse configurations that are not supported.

Nothing here imports verl, so that the options can be checked and tested without it.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import InversionSpec

# The section of verl's configuration that holds the options, as in `+inversion.weight=0.1`.
SECTION = "inversion"
# The value of `trainer.v1.trainer_mode` that chooses the trainer with inversion.
MODE = "corr_po"
# Names that are registered only to be refused with a reason.
REFUSED_MODES = ("corr_po_colocate_async", "corr_po_separate_async")
STRATEGY = "fsdp2"

_OPTIONS = frozenset(field.name for field in fields(InversionSpec))


def spec_of(section: Mapping[str, Any] | None) -> InversionSpec:
    """Return the options of the inversion that verl's configuration sets.

    Args:
        section: the section `inversion` of verl's configuration. Its keys are the fields of `InversionSpec`. None
            stands for an empty section, which means the defaults.

    Raises:
        InvalidInputError: a key is no option, an option has a wrong value, or an option cannot be used with verl.
    """
    given = dict(section or {})
    unknown = sorted(set(given) - _OPTIONS)
    if unknown:
        raise InvalidInputError(
            f"{SECTION}.{unknown[0]} is not an option of the inversion. The options are {', '.join(sorted(_OPTIONS))}."
        )
    if given.get("verifier") is not None:
        raise InvalidInputError(
            f"{SECTION}.verifier names a reward function, but verl has one reward for each rollout, which is also the "
            f"verifier. Leave {SECTION}.verifier out."
        )
    alarm = given.setdefault("alarm", "off")
    if alarm != "off":
        raise InvalidInputError(
            f"{SECTION}.alarm is {alarm!r}, but the collapse alarm exists only with TRL. Leave it out, and watch the "
            "logged metrics inversion/… and task/…."
        )
    return InversionSpec(**given)


def check_config(config: Any) -> None:
    """Check that the inversion can be measured with verl's configuration.

    Args:
        config: verl's configuration, or nested mappings with the same keys.

    Raises:
        InvalidInputError: the inversion cannot be measured with the actor's engine, parallelism or adapter.
    """
    actor, model = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["model"]
    strategy = actor["strategy"]
    if strategy != STRATEGY:
        raise InvalidInputError(
            f"actor_rollout_ref.actor.strategy is {strategy!r}; the inversion is measured with {STRATEGY!r} alone"
            + (" (FSDP 1 has no backward pass through gathered weights)" if strategy == "fsdp" else "")
            + f". Set actor_rollout_ref.actor.strategy={STRATEGY}."
        )
    parallel = _value(actor, "fsdp_config", "ulysses_sequence_parallel_size") or 1
    if max(parallel, _value(actor, "ulysses_sequence_parallel_size") or 1) > 1:
        raise InvalidInputError(
            "actor_rollout_ref.actor.ulysses_sequence_parallel_size must be 1: with sequence parallelism, no process "
            "has a whole rollout to measure."
        )
    rank = max(_value(model, "lora_rank") or 0, _value(model, "lora", "rank") or 0)
    if rank > 0 or _value(model, "lora_adapter_path") is not None:
        raise InvalidInputError(
            "actor_rollout_ref.model has a LoRA adapter. The inversion with verl is tested for full training alone; "
            "train the adapter with `antiphase train`, or set lora_rank=0."
        )
    if _value(actor, "fsdp_config", "qat", "enable"):
        raise InvalidInputError(
            "actor_rollout_ref.actor.fsdp_config.qat is on; the inversion is not measured on weights that are "
            "quantised in training. Switch it off."
        )


def refuse_mode(mode: str) -> InvalidInputError:
    """Return the error to raise for an asynchronous trainer mode, which antiphase refuses."""
    return InvalidInputError(
        f"trainer.v1.trainer_mode={mode}: the inversion exists only with synchronous training. In asynchronous modes "
        "the policy that is measured is not the policy that wrote the rollouts. Set "
        f"trainer.v1.trainer_mode={MODE}."
    )


def _value(section: Any, *names: str) -> Any:
    """Return the value under nested keys (`names`) of a configuration; None if a key is missing."""
    for name in names:
        if section is None:
            return None
        section = section.get(name)
    return section
