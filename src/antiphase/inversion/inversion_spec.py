"""`InversionSpec`: the options of the inversion reward, with their defaults and checks, for any training engine.

`InversionReward` does what the options say. `CorRPOConfig` takes its `inversion_*` fields from here. This module
imports no torch, so that a command can refuse a wrong option at once.
"""

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from antiphase.errors import InvalidInputError
from antiphase.inversion.alarm import ALARM_ACTIONS
from antiphase.reward_options import COMBINES, SCHEDULES, TIED, UNDEFINED, Schedule, weight_at
from antiphase.score_spec import CONTROLS, Control, ScoreSpec
from antiphase.signal_spec import (
    METHODS,
    PROJECTIONS,
    SEGMENTS,
    STEP_STRENGTHS,
    UNITS,
    Estimator,
    Method,
    Norm,
    ProjectionName,
    SignalSpec,
    Target,
    Unit,
    check_one_of,
)
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.steps.splitter import DEFAULT_SPLITTER, Splitter

# The prefix of every option's name in recipes, flags and messages.
PREFIX = "inversion_"
TRAINING_ESTIMATORS: tuple[Estimator, ...] = ("own", "last", "full")

_T = TypeVar("_T")


def _option(default: _T, text: str) -> _T:
    """Return a dataclass field with a default value and a text that --help shows for the option."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class InversionSpec:
    """The options that say what is measured in each rollout, and how it enters the reward (docs/training.md).

    The defaults give the paper's reward, R = r − λ (1 + ρ): r is the task reward, λ the weight, and ρ the correlation
    of entropy and gradient strength over the steps (sentences) of a rollout. The default estimator `own` is fast. The
    paper's full-context gradient is `estimator="full", step_strength="joint"`. In recipes, flags and messages, the
    name of every option starts with `inversion_`.

    >>> InversionSpec(weight=0.5, schedule="linear").weight_at(30, 40)
    0.125

    Args:
        weight: λ ≥ 0; with 0, the training engine trains as it does without antiphase.
        combine: the mode in which ι = −ρ enters the reward: `penalty` (the paper's), `sum`, `centered`, `gated` or
            `only`; see `inversion_term`.
        unit: what ρ is computed over: `step` (sentences, as in the paper), `type` (distinct token ids) or `token`.
        segment: which tokens of a rollout are measured and correlated: those of its `thought`, those of its `answer`,
            or `all`. A rollout without such a token has no score. Steps are cut inside the segment.
        splitter: where steps end: `sentence`, `line`, `fixed:N` or `regex:PATTERN`; see `Splitter`.
        step_strength: the strength of a step: `mean` of its tokens' strengths, or `joint`; see `SignalSpec`.
        min_steps: if the unit is `step`, a rollout with fewer steps has no score.
        undefined: what a rollout without a score counts as: `neutral` (the mean of its group), `zero` (ρ = 0) or
            `worst` (ρ = 1); see `inversion_term`.
        tied: what happens in tied groups, whose task rewards are all equal: `keep` the inversion term, as the paper
            does, or `skip` it, so that such a group trains as it does without antiphase.
        estimator: how gradient strengths are computed: `own`, `last` or `full`; see `SignalSpec`.
        layers: which layers are measured: `all`, `last`, `last-K`, or indices such as `0,3,-1`.
        projections: which of the attention projections Q, K, V, O are measured, such as `QKVO`.
        norm: the norm of the gradient: `nuclear`, `frobenius` or `l1`.
        target: what is differentiated: the generated token's `logit`, or its `logprob` (a control).
        targets_per_rollout: number of random tokens of each rollout whose strength is measured; None measures all.
        token_budget: the greatest number of padded tokens in one measuring pass. It changes results only by rounding.
        correlation: the kind of correlation: `spearman` or `pearson`.
        min_tokens: if the unit is `token` or `type`, a rollout with fewer measured tokens or types has no score.
        shrink: how strongly the scores of short rollouts are pulled to 0. A score becomes as small as if the
            rollout had about this many more items without correlation; see `shrunk`.
        clip: scores are clipped to [−clip, clip].
        schedule: how λ changes during training: `constant`, `warmup`, `linear` or `cosine`; see `weight_at`.
        warmup_steps: number of optimizer steps over which λ rises from 0. A value below 1 is a share of the training.
        control: the control experiment: `none`, `shuffled` (strengths are permuted within each rollout) or `random`
            (every score is replaced by a random number).
        verifier: if a trainer has several reward functions, the name of the function that says which rollouts are
            right. The default is the first function that verifies answers.
        accept: a rollout counts as right ("accepted") if the verifier gives it at least this reward.
        alarm: what to do when the training shows a sign of collapse (see `collapse_signs`): `warn`, `stop`, `drop`
            (set λ to 0) or `off`.
        alarm_window: number of measured batches over which the alarm computes trends.
        seed: seed of the random generators of the controls and of `targets_per_rollout`. In `CorRPOConfig` it is the
            trainer's own seed.

    Raises:
        InvalidInputError: the value of an option is not one of its choices, or is outside its range.
    """

    weight: float = _option(0.1, "λ, weight of the inversion score; with 0, training is exactly that of TRL")
    combine: str = _option("penalty", "penalty (the paper's), sum, centered, gated or only")
    unit: str = _option("step", "what is correlated: step (the paper's), type or token")
    segment: str = _option("all", "tokens that are measured and correlated: of the thought, of the answer, or all")
    splitter: str = _option(DEFAULT_SPLITTER, "where steps end: sentence, line, fixed:N (tokens) or regex:PATTERN")
    step_strength: str = _option("mean", "strength of a step: mean (of its tokens) or joint")
    min_steps: int = _option(MIN_STEPS, "rollouts with fewer steps have no score")
    undefined: str = _option("neutral", "what an undefined correlation counts as: neutral, zero or worst")
    tied: str = _option("keep", "in groups whose task rewards are all equal: keep the inversion term, or skip it")
    estimator: str = _option("own", "own, last or full")
    layers: str = _option("all", "all, last, last-K, or indices such as 0,3,-1")
    projections: str = _option("QKVO", "which of Q, K, V, O")
    norm: str = _option("nuclear", "nuclear, frobenius or l1")
    target: str = _option("logit", "logit, or logprob (a control)")
    targets_per_rollout: int | None = _option(None, "random tokens of each rollout that are measured (default: all)")
    token_budget: int = _option(2048, "padded tokens in one measuring pass")
    correlation: str = _option("spearman", "spearman or pearson")
    min_tokens: int = _option(MIN_TOKENS, "rollouts with fewer measured tokens have no score")
    shrink: float = _option(0.0, "added items without correlation, which pull the scores of short rollouts to 0")
    clip: float = _option(1.0, "scores are clipped to [-clip, clip]")
    schedule: str = _option("constant", "schedule of λ: constant, warmup, linear or cosine")
    warmup_steps: float = _option(0.0, "number of steps over which λ rises from 0; below 1, share of the training")
    control: str = _option(
        "none", "control experiment: none, shuffled (strengths in random order) or random (random scores)"
    )
    verifier: str | None = _option(None, "name of the reward function that says what is right (default: the first)")
    accept: float = _option(0.5, "a rollout is accepted (right) if the verifier gives it at least this")
    alarm: str = _option("warn", "at a sign of collapse: warn, stop, drop or off")
    alarm_window: int = _option(20, "batches that the alarm looks back over")
    seed: int = 42

    def __post_init__(self) -> None:
        if not (0 <= self.weight < math.inf):
            raise InvalidInputError(
                f"inversion_weight (λ) must be 0 or positive; got {self.weight}. antiphase has no method that trains "
                "against inversion. For a control experiment, use inversion_control='shuffled' or 'random'."
            )
        self._check_names()
        if self.combine == "only" and self.weight == 0:
            raise InvalidInputError(
                "inversion_combine='only' with inversion_weight 0 leaves no reward at all. Set inversion_weight above "
                "0, or choose another inversion_combine."
            )
        if self.combine == "only" and self.tied == "skip":
            raise InvalidInputError(
                "inversion_tied='skip' does not go with inversion_combine='only', which does not train on task "
                "rewards. Set inversion_tied='keep', or choose another inversion_combine."
            )
        if not (0 <= self.warmup_steps < math.inf):
            raise InvalidInputError(f"inversion_warmup_steps must be 0 or positive; got {self.warmup_steps}.")
        if self.alarm_window < 8:
            raise InvalidInputError(
                f"inversion_alarm_window must be at least 8 for a trend to show; got {self.alarm_window}."
            )
        if math.isnan(self.accept):
            raise InvalidInputError("inversion_accept is NaN; give the least reward of a right rollout.")
        # These objects check their own options when they are built.
        self.score_spec(), self.signal_spec(), self.step_splitter()

    def _check_names(self) -> None:
        """Raise InvalidInputError if an option has a value that is not one of its choices."""
        check_one_of("inversion_combine", self.combine, COMBINES)
        check_one_of("inversion_unit", self.unit, UNITS)
        check_one_of("inversion_segment", self.segment, SEGMENTS)
        check_one_of("inversion_step_strength", self.step_strength, STEP_STRENGTHS)
        check_one_of("inversion_undefined", self.undefined, UNDEFINED)
        check_one_of("inversion_tied", self.tied, TIED)
        check_one_of("inversion_schedule", self.schedule, SCHEDULES)
        check_one_of("inversion_control", self.control, CONTROLS)
        check_one_of("inversion_correlation", self.correlation, METHODS)
        for name in self.projections:
            check_one_of("inversion_projections", name, PROJECTIONS)
        check_one_of("inversion_alarm", self.alarm, ALARM_ACTIONS)
        check_one_of("inversion_estimator", self.estimator, TRAINING_ESTIMATORS)

    def score_spec(self) -> ScoreSpec:
        """Return the options that say how a rollout's score is computed from its signals."""
        return ScoreSpec(
            method=cast(Method, self.correlation),
            unit=cast(Unit, self.unit),
            min_tokens=self.min_tokens,
            min_steps=self.min_steps,
            shrink=self.shrink,
            clip=self.clip,
            control=cast(Control, self.control),
            seed=self.seed,
        )

    def step_splitter(self) -> Splitter:
        """Return the object that finds where the steps (such as sentences) of a rollout end."""
        return Splitter.parse(self.splitter)

    def signal_spec(self) -> SignalSpec:
        """Return the options that say what is measured, in the form that `antiphase probe` uses too.

        The strengths of single tokens are left out if `step_strength` is `joint`, the estimator is `full` or `last`,
        and `targets_per_rollout` is not given. The reward does not need them then, and each costs a backward pass or
        an eigenproblem.
        """
        joint_steps = self.unit == "step" and self.step_strength == "joint"
        targets = self.targets_per_rollout
        if joint_steps and targets is None and self.estimator != "own":
            targets = 0
        return SignalSpec(
            estimator=cast(Estimator, self.estimator),
            layers=self.layers,
            projections=cast("tuple[ProjectionName, ...]", tuple(self.projections)),
            norm=cast(Norm, self.norm),
            target=cast(Target, self.target),
            targets_per_rollout=targets,
            step_strength="joint" if joint_steps else "mean",
            token_budget=self.token_budget,
            seed=self.seed,
        )

    def weight_at(self, step: int, num_steps: int) -> float:
        """Return the weight λ for the optimizer step `step` of `num_steps`. The steps are counted from 0.

        The options `weight`, `schedule` and `warmup_steps` determine λ by the formulas of
        `antiphase.reward.weight_at`.
        """
        total = max(num_steps, 1)
        warmup = self.warmup_steps if self.warmup_steps < 1 else self.warmup_steps / total
        schedule = cast(Schedule, self.schedule)
        return weight_at(step / total, weight=self.weight, schedule=schedule, warmup=warmup)

    def accepts(self, rewards: Any) -> Any:
        """Return whether the verifier's reward is at least `accept`. NaN is not accepted.

        Args:
            rewards: the verifier's rewards, before any weighting: a float tensor `[rollout]`.

        Returns:
            a boolean tensor `[rollout]`.
        """
        return rewards >= self.accept
