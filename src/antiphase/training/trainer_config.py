"""`CorRPOConfig`: TRL's `GRPOConfig` with the options of the inversion term added.

These options, their defaults and their checks are those of `InversionSpec`. Options of GRPO are left as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from trl import GRPOConfig

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import PREFIX, InversionSpec
from antiphase.score_spec import ScoreSpec
from antiphase.signal_spec import SignalSpec
from antiphase.statistics.minimums import MIN_STEPS
from antiphase.steps import DEFAULT_SPLITTER, Splitter

# The seed is the host's option.
_OPTIONS = tuple(option for option in fields(InversionSpec) if option.name != "seed")


_InversionOptions: Any = make_dataclass(
    "_InversionOptions",
    [(PREFIX + o.name, o.type, field(default=o.default, metadata=o.metadata)) for o in _OPTIONS],
)


@dataclass
class CorRPOConfig(_InversionOptions, GRPOConfig):  # type: ignore[misc]
    """`GRPOConfig` with the fields of CorR-PO (docs/training.md). Every field of `GRPOConfig` is unchanged.

    The defaults are the paper's reward, R = r − λ (1 + ρ) with ρ over the steps of a rollout, by the fast estimator
    `own`. The paper's full-context gradient is `inversion_estimator="full", inversion_step_strength="joint"`, which
    the preset `corr-po` names.

    Each option of `InversionSpec` is a field, with `inversion_` before its name: `inversion_weight`,
    `inversion_combine`, … The `seed` is the host's.

    Raises:
        InvalidInputError: a value is outside its set or range.
    """

    def __post_init__(self) -> None:
        # The checks of our own fields come first, since the host's may take long (devices).
        self.inversion_spec()
        if self.restore_callback_states_from_checkpoint:
            raise InvalidInputError(
                "restore_callback_states_from_checkpoint is not supported: CorR-PO restores its own state on resume."
            )
        super().__post_init__()

    def inversion_spec(self) -> InversionSpec:
        """The options of the inversion reward, checked."""
        return InversionSpec(**{o.name: getattr(self, PREFIX + o.name) for o in _OPTIONS}, seed=self.seed)

    def score_spec(self) -> ScoreSpec:
        """How the scores of rollouts are made."""
        return self.inversion_spec().score_spec()

    def splitter(self) -> Splitter:
        """Where the steps of a rollout end."""
        return self.inversion_spec().step_splitter()

    def signal_spec(self) -> SignalSpec:
        """What is measured; see `InversionSpec.signal_spec`."""
        return self.inversion_spec().signal_spec()

    def weight_at(self, step: int, max_steps: int) -> float:
        """λ before optimizer step `step` of `max_steps`."""
        return self.inversion_spec().weight_at(step, max_steps)


OWN_FIELDS: tuple[str, ...] = tuple(PREFIX + option.name for option in _OPTIONS)
# What each field was in runs that are older than the field. These are over tokens, where steps have no effect.
BEFORE_THE_FIELD: Mapping[str, object] = {
    "inversion_unit": "token",
    "inversion_undefined": "neutral",
    "inversion_segment": "all",
    "inversion_splitter": DEFAULT_SPLITTER,
    "inversion_step_strength": "mean",
    "inversion_min_steps": MIN_STEPS,
}
