"""`CorRPOConfig`: TRL's `GRPOConfig` plus what the inversion term needs, and nothing of GRPO's own.

The options themselves, their defaults and their checks are those of `InversionSpec`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from trl import GRPOConfig

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.scores import ScoreSpec
from antiphase.statistics.minimums import MIN_STEPS
from antiphase.steps import DEFAULT_SPLITTER, Splitter
from antiphase.types import SignalSpec

PREFIX = "inversion_"
# The seed is the host's own.
_OPTIONS = tuple(option for option in fields(InversionSpec) if option.name != "seed")


_InversionOptions: Any = make_dataclass(
    "_InversionOptions",
    [(PREFIX + o.name, o.type, field(default=o.default, metadata=o.metadata)) for o in _OPTIONS],
)


@dataclass
class CorRPOConfig(_InversionOptions, GRPOConfig):  # type: ignore[misc]
    """`GRPOConfig` with the fields of CorR-PO (docs/training.md). Every field of `GRPOConfig` is taken as it is.

    The defaults are the paper's reward, R = r − λ (1 + ρ) with ρ over the steps of a rollout, by the fast estimator
    `own`. The paper's full-context gradient is `inversion_estimator="full", inversion_step_strength="joint"`, which
    the preset `corr-po` names.

    Each option of `InversionSpec` is a field, with `inversion_` before its name: `inversion_weight`,
    `inversion_combine`, … Its `seed` is the host's own.

    Raises:
        InvalidInputError: a value outside its set or range.
    """

    def __post_init__(self) -> None:
        # Ours first: the host's checks may be long (devices) and change nothing of ours.
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
        """How scores are made."""
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
# What a run did whose settings are older than the field. Over tokens, nothing of steps changes a number.
BEFORE_THE_FIELD: Mapping[str, object] = {
    "inversion_unit": "token",
    "inversion_undefined": "neutral",
    "inversion_splitter": DEFAULT_SPLITTER,
    "inversion_step_strength": "mean",
    "inversion_min_steps": MIN_STEPS,
}
