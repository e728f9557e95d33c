"""`CorRPOConfig`: TRL's `GRPOConfig` plus what the inversion term needs, and nothing of GRPO's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import cast

from trl import GRPOConfig

from antiphase.errors import InvalidInputError
from antiphase.reward import COMBINES, SCHEDULES, UNDEFINED, Combine, Schedule, Undefined, weight_at
from antiphase.scores import CONTROLS, Control, ScoreSpec
from antiphase.statistics.minimums import MIN_STEPS
from antiphase.steps import DEFAULT_SPLITTER, Splitter
from antiphase.training.alarm import ALARM_ACTIONS
from antiphase.types import (
    METHODS,
    PROJECTIONS,
    STEP_STRENGTHS,
    UNITS,
    Estimator,
    Method,
    Norm,
    ProjectionName,
    SignalSpec,
    StepStrength,
    Target,
    Unit,
    check_one_of,
)

TRAINING_ESTIMATORS: tuple[str, ...] = ("own", "last", "full")


def _option(default: object, text: str) -> object:
    return field(default=default, metadata={"help": text})


@dataclass
class CorRPOConfig(GRPOConfig):  # type: ignore[misc]
    """`GRPOConfig` with the fields of CorR-PO (METHOD §4). Every field of `GRPOConfig` is taken as it is.

    The defaults are the paper's reward, R = r − λ (1 + ρ) with ρ over the steps of a rollout, by the fast estimator
    `own`. The paper's full-context gradient is `inversion_estimator="full", inversion_step_strength="joint"`, which
    the preset `corr-po` names.

    Args:
        inversion_weight: λ ≥ 0; 0 is exactly the host.
        inversion_combine: `penalty` (the paper's), `sum`, `centered`, `gated` or `only`; see `inversion_term`.
        inversion_unit: what is correlated: `step` (sentences; the paper's), `type` or `token`.
        inversion_splitter: where steps end: `sentence`, `line`, `fixed:N` or `regex:PATTERN`; see `Splitter`.
        inversion_step_strength: `mean` of the tokens' strengths, or `joint`; see `SignalSpec`.
        inversion_min_steps: rollouts with fewer steps have no score, where steps are the unit.
        inversion_undefined: what the ρ of a rollout without score counts as: `neutral` (the mean of its group), `zero`
            (ρ = 0) or `worst` (ρ = 1); see `inversion_term`.
        inversion_estimator: `own`, `last` or `full`; see `SignalSpec`, also for the next five.
        inversion_layers: `all`, `last`, `last-K`, or indices such as `0,3,-1`.
        inversion_projections: which of Q, K, V, O, as in `QKVO`.
        inversion_norm: `nuclear`, `frobenius` or `l1`.
        inversion_target: `logit`, or `logprob` (a control).
        inversion_targets_per_rollout: measure the strength of so many random tokens of each rollout.
        inversion_token_budget: padded tokens in one measuring pass; moves no number by more than rounding.
        inversion_correlation: `spearman` or `pearson`.
        inversion_min_tokens: rollouts with fewer measured tokens (or types) have no score, where those are the unit.
        inversion_shrink: pseudo-items of the prior that pulls short rollouts to 0; see `shrunk`.
        inversion_clip: scores are clipped to [−clip, clip].
        inversion_schedule: of λ: `constant`, `warmup`, `linear` or `cosine`; see `weight_at`.
        inversion_warmup_steps: steps (or, below 1, share of the training) over which λ rises from 0.
        inversion_control: `none`, `shuffled` or `random`; see `ScoreSpec`.
        inversion_verifier: name of the reward function that says what is right; the first one by default.
        inversion_accept: a rollout is accepted (right) if that function gives at least this.
        inversion_alarm: what to do when ι rises while accuracy falls: `warn`, `stop`, `drop` (λ to 0) or `off`.
        inversion_alarm_window: over how many measured batches.

    Raises:
        InvalidInputError: a value outside its set or range.
    """

    inversion_weight: float = cast(float, _option(0.1, "λ, weight of the inversion score; 0 is exactly the host"))
    inversion_combine: str = cast(str, _option("penalty", "penalty (the paper's), sum, centered, gated or only"))
    inversion_unit: str = cast(str, _option("step", "what is correlated: step (the paper's), type or token"))
    inversion_splitter: str = cast(
        str, _option(DEFAULT_SPLITTER, "where steps end: sentence, line, fixed:N (tokens) or regex:PATTERN")
    )
    inversion_step_strength: str = cast(str, _option("mean", "of a step: mean (of its tokens) or joint"))
    inversion_min_steps: int = cast(int, _option(MIN_STEPS, "rollouts with fewer steps have no score"))
    inversion_undefined: str = cast(
        str, _option("neutral", "what an undefined correlation counts as: neutral, zero or worst")
    )
    inversion_estimator: str = cast(str, _option("own", "own, last or full"))
    inversion_layers: str = cast(str, _option("all", "all, last, last-K, or indices such as 0,3,-1"))
    inversion_projections: str = cast(str, _option("QKVO", "which of Q, K, V, O"))
    inversion_norm: str = cast(str, _option("nuclear", "nuclear, frobenius or l1"))
    inversion_target: str = cast(str, _option("logit", "logit, or logprob (a control)"))
    inversion_targets_per_rollout: int | None = cast(
        "int | None", _option(None, "measure the strength of so many random tokens of each rollout")
    )
    inversion_token_budget: int = cast(int, _option(2048, "padded tokens in one measuring pass"))
    inversion_correlation: str = cast(str, _option("spearman", "spearman or pearson"))
    inversion_min_tokens: int = cast(int, _option(8, "rollouts with fewer measured tokens have no score"))
    inversion_shrink: float = cast(float, _option(0.0, "pseudo-items that pull short rollouts' scores to 0"))
    inversion_clip: float = cast(float, _option(1.0, "scores are clipped to [-clip, clip]"))
    inversion_schedule: str = cast(str, _option("constant", "of λ: constant, warmup, linear or cosine"))
    inversion_warmup_steps: float = cast(float, _option(0.0, "steps (below 1: share) over which λ rises from 0"))
    inversion_control: str = cast(str, _option("none", "none, shuffled (strengths) or random (score)"))
    inversion_verifier: str | None = cast(
        "str | None", _option(None, "name of the reward function that says what is right (default: the first)")
    )
    inversion_accept: float = cast(float, _option(0.5, "accepted (right) if the verifier gives at least this"))
    inversion_alarm: str = cast(str, _option("warn", "when ι rises while accuracy falls: warn, stop, drop or off"))
    inversion_alarm_window: int = cast(int, _option(20, "batches that the alarm looks back over"))

    def __post_init__(self) -> None:
        # Ours first: the host's checks may be long (devices) and change nothing of ours.
        self._check_inversion()
        super().__post_init__()

    def _check_inversion(self) -> None:
        if not (0 <= self.inversion_weight < math.inf):
            raise InvalidInputError(
                f"inversion_weight (λ) must be 0 or positive; got {self.inversion_weight}. To train against inversion "
                "is no method that antiphase knows; as a control, use inversion_control='shuffled' or 'random'."
            )
        check_one_of("inversion_combine", self.inversion_combine, COMBINES)
        check_one_of("inversion_unit", self.inversion_unit, UNITS)
        check_one_of("inversion_step_strength", self.inversion_step_strength, STEP_STRENGTHS)
        check_one_of("inversion_undefined", self.inversion_undefined, UNDEFINED)
        check_one_of("inversion_schedule", self.inversion_schedule, SCHEDULES)
        check_one_of("inversion_control", self.inversion_control, CONTROLS)
        check_one_of("inversion_correlation", self.inversion_correlation, METHODS)
        for name in self.inversion_projections:
            check_one_of("inversion_projections", name, PROJECTIONS)
        check_one_of("inversion_alarm", self.inversion_alarm, ALARM_ACTIONS)
        check_one_of("inversion_estimator", self.inversion_estimator, TRAINING_ESTIMATORS)
        if self.inversion_combine == "only" and self.inversion_weight == 0:
            raise InvalidInputError("inversion_combine='only' with inversion_weight 0 leaves no reward at all.")
        if not (0 <= self.inversion_warmup_steps < math.inf):
            raise InvalidInputError(
                f"inversion_warmup_steps must be 0 or positive; got {self.inversion_warmup_steps}."
            )
        if self.inversion_alarm_window < 8:
            raise InvalidInputError(
                f"inversion_alarm_window must be at least 8 for a trend to show; got {self.inversion_alarm_window}."
            )
        if math.isnan(self.inversion_accept):
            raise InvalidInputError("inversion_accept is NaN; give the least reward of a right rollout.")
        if self.restore_callback_states_from_checkpoint:
            raise InvalidInputError(
                "restore_callback_states_from_checkpoint is not supported: CorR-PO restores its own state on resume."
            )
        # Built for their checks.
        self.score_spec(), self.signal_spec(), self.splitter()

    def score_spec(self) -> ScoreSpec:
        """How scores are made."""
        return ScoreSpec(
            method=cast(Method, self.inversion_correlation),
            unit=cast(Unit, self.inversion_unit),
            min_tokens=self.inversion_min_tokens,
            min_steps=self.inversion_min_steps,
            shrink=self.inversion_shrink,
            clip=self.inversion_clip,
            control=cast(Control, self.inversion_control),
            seed=self.seed,
        )

    def splitter(self) -> Splitter:
        """Where the steps of a rollout end."""
        return Splitter.parse(self.inversion_splitter)

    @property
    def joint_steps(self) -> bool:
        """Whether the reward needs the joint strength of steps, and no token's own."""
        return self.inversion_unit == "step" and self.inversion_step_strength == "joint"

    def signal_spec(self) -> SignalSpec:
        """What is measured: the same spec that `antiphase probe` would use.

        Under `full` and `last` a joint strength leaves the tokens' own strengths out, which would cost a backward (or
        an eigenproblem) each, unless `inversion_targets_per_rollout` asks for some.
        """
        targets = self.inversion_targets_per_rollout
        if self.joint_steps and targets is None and self.inversion_estimator != "own":
            targets = 0
        return SignalSpec(
            estimator=cast(Estimator, self.inversion_estimator),
            layers=self.inversion_layers,
            projections=cast("tuple[ProjectionName, ...]", tuple(self.inversion_projections)),
            norm=cast(Norm, self.inversion_norm),
            target=cast(Target, self.inversion_target),
            targets_per_rollout=targets,
            step_strength=cast(StepStrength, self.inversion_step_strength if self.joint_steps else "mean"),
            token_budget=self.inversion_token_budget,
            seed=self.seed,
        )

    @property
    def undefined(self) -> Undefined:
        """`inversion_undefined`, checked."""
        return cast(Undefined, self.inversion_undefined)

    @property
    def combine(self) -> Combine:
        """`inversion_combine`, checked."""
        return cast(Combine, self.inversion_combine)

    def weight_at(self, step: int, max_steps: int) -> float:
        """λ before optimizer step `step` of `max_steps`."""
        warmup = self.inversion_warmup_steps
        share = warmup if warmup < 1 else warmup / max(max_steps, 1)
        return weight_at(
            step / max(max_steps, 1),
            weight=self.inversion_weight,
            schedule=cast(Schedule, self.inversion_schedule),
            warmup=share,
        )


OWN_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(CorRPOConfig) if f.name.startswith("inversion_"))
# What a run did whose settings are older than the field. Over tokens, nothing of steps changes a number.
BEFORE_THE_FIELD: Mapping[str, object] = {
    "inversion_unit": "token",
    "inversion_undefined": "neutral",
    "inversion_splitter": DEFAULT_SPLITTER,
    "inversion_step_strength": "mean",
    "inversion_min_steps": MIN_STEPS,
}
