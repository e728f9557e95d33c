"""What to measure: the spec of the signals, and the sets that its fields are chosen from.

Imports no torch, so that a command can refuse a wrong option at once. The values that are measured are in `types`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from antiphase.errors import InvalidInputError

Estimator = Literal["oracle", "oracle-own", "full", "last", "own"]
ProjectionName = Literal["Q", "K", "V", "O"]
Norm = Literal["nuclear", "frobenius", "l1"]
Target = Literal["logit", "logprob"]
Method = Literal["spearman", "pearson"]
Unit = Literal["token", "type", "step"]
StepStrength = Literal["mean", "joint"]

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
PROJECTIONS: tuple[ProjectionName, ...] = get_args(ProjectionName)
NORMS: tuple[Norm, ...] = get_args(Norm)
TARGETS: tuple[Target, ...] = get_args(Target)
METHODS: tuple[Method, ...] = get_args(Method)
UNITS: tuple[Unit, ...] = get_args(Unit)
STEP_STRENGTHS: tuple[StepStrength, ...] = get_args(StepStrength)


def check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise InvalidInputError unless the value is one of those allowed."""
    if value not in allowed:
        raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")


@dataclass(frozen=True)
class SignalSpec:
    """What to measure and how (docs/method.md).

    Args:
        estimator: `own` (own-position term, all layers, one backward), `last` (full context, last layer, one
            backward), `full` (full context, any layers, one backward per target), `oracle` (the definition of
            `full`: one ordinary backward to the weights per target) or `oracle-own` (the definition of `own`).
        layers: `all`, `last`, `last-K`, or a comma-separated list of indices (negative ones count from the end).
        projections: which of Q, K, V, O.
        norm: `nuclear` (the paper), `frobenius`, or `l1` (entrywise, as in the post's §2.1).
        target: `logit` (the generated token's raw logit) or `logprob` (control; see docs/method.md).
        targets_per_rollout: measure the strength of at most this many tokens of each rollout, drawn without
            replacement by `seed`; None measures all. 0 measures no token's own strength, and needs
            `step_strength="joint"`. Entropy is measured for every token either way.
        step_strength: the strength of a step (a sentence of the rollout): `mean` of its measured tokens' strengths, or
            `joint`, the norm of the gradient of the sum of its n tokens' targets, divided by n^0.9.
        temperature: divides the logits before entropy and log-probability; 1 is the raw distribution.
        token_budget: at most this many padded tokens in one forward pass (a single longer row still runs); of prompts
            that `own` runs apart, each distinct one counts once, and its copies for one layer.
        seed: of the target draw.
        num_alternatives: also keep this many of the most probable tokens at each position; at most the vocabulary.

    Raises:
        InvalidInputError: a value outside its set or range.
    """

    estimator: Estimator = "own"
    layers: str = "all"
    projections: tuple[ProjectionName, ...] = PROJECTIONS
    norm: Norm = "nuclear"
    target: Target = "logit"
    targets_per_rollout: int | None = None
    step_strength: StepStrength = "mean"
    temperature: float = 1.0
    token_budget: int = 2048
    seed: int = 0
    num_alternatives: int = 0

    def __post_init__(self) -> None:
        check_one_of("estimator", self.estimator, ESTIMATORS)
        check_one_of("norm", self.norm, NORMS)
        check_one_of("target", self.target, TARGETS)
        check_one_of("step_strength", self.step_strength, STEP_STRENGTHS)
        if not self.projections:
            raise InvalidInputError("projections is empty; name at least one of Q, K, V, O.")
        for name in self.projections:
            check_one_of("projections", name, PROJECTIONS)
        if len(set(self.projections)) != len(self.projections):
            raise InvalidInputError(f"projections names one twice: {', '.join(self.projections)}.")
        least_targets = 0 if self.step_strength == "joint" else 1
        if self.targets_per_rollout is not None and self.targets_per_rollout < least_targets:
            raise InvalidInputError(
                f"targets_per_rollout must be at least {least_targets}; got {self.targets_per_rollout}. Leave it out "
                "to measure every token."
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InvalidInputError(f"temperature must be a positive number; got {self.temperature}.")
        for count, least in (("token_budget", 1), ("num_alternatives", 0)):
            if getattr(self, count) < least:
                raise InvalidInputError(f"{count} must be at least {least}; got {getattr(self, count)}.")
        parse_layers(self.layers, num_layers=None)

    @property
    def context(self) -> Literal["own-position", "full"]:
        """Which terms of the gradient are kept: the own-position term, or the whole sequence's sum."""
        return "own-position" if self.estimator in ("own", "oracle-own") else "full"


def parse_layers(text: str, num_layers: int | None) -> list[int]:
    """Layer indices named by `all`, `last`, `last-K` or `0,3,-1`, in ascending order.

    With `num_layers=None` only the syntax is checked and the list is empty.

    Raises:
        InvalidInputError: the text is malformed or names a layer that does not exist.
    """
    malformed = InvalidInputError(f"layers must be 'all', 'last', 'last-K' or indices such as '0,3,-1'; got {text!r}.")
    if text == "all":
        return list(range(num_layers or 0))
    if text.startswith("last"):
        count = text.removeprefix("last").removeprefix("-") or "1"
        if not count.isdecimal() or int(count) < 1 or text == "last-":
            raise malformed
        if num_layers is None:
            return []
        if int(count) > num_layers:
            raise InvalidInputError(f"layers {text!r}: the model has {num_layers} attention layers.")
        return list(range(num_layers - int(count), num_layers))
    try:
        wanted = [int(part) for part in text.split(",")]
    except ValueError:
        raise malformed from None
    if num_layers is None:
        return []
    for index in wanted:
        if not -num_layers <= index < num_layers:
            raise InvalidInputError(
                f"layer {index} does not exist: the model has {num_layers} attention layers, 0 to {num_layers - 1}."
            )
    return sorted({index % num_layers for index in wanted})
