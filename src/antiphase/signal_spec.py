"""The options of a measurement (`SignalSpec`): what is measured, and which values each option can have.

This module imports no torch, so that a command can refuse a wrong option at once. The measured values are described in
`types`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from antiphase.errors import InvalidInputError
from antiphase.registry import Registry, imported

Estimator = Literal["oracle", "oracle-own", "full", "last", "own"]
Context = Literal["own-position", "full"]
ProjectionName = Literal["Q", "K", "V", "O"]
Norm = Literal["nuclear", "frobenius", "l1"]
Target = Literal["logit", "logprob"]
Method = Literal["spearman", "pearson"]
Unit = Literal["token", "type", "step"]
StepStrength = Literal["mean", "joint"]
Part = Literal["thought", "answer"]
Segment = Literal["all", "thought", "answer"]

PROJECTIONS: tuple[ProjectionName, ...] = get_args(ProjectionName)
NORMS: tuple[Norm, ...] = get_args(Norm)
TARGETS: tuple[Target, ...] = get_args(Target)
METHODS: tuple[Method, ...] = get_args(Method)
UNITS: tuple[Unit, ...] = get_args(Unit)
STEP_STRENGTHS: tuple[StepStrength, ...] = get_args(StepStrength)
# The two parts of a completion, in their order, and what can be correlated: both together or one of them.
PARTS: tuple[Part, ...] = get_args(Part)
SEGMENTS: tuple[Segment, ...] = get_args(Segment)


def check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise InvalidInputError unless `value` is in `allowed`.

    Args:
        name: the name of the option, for the error message.
        value: the value of the option.
        allowed: the values that the option can have.
    """
    if value not in allowed:
        raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")


@dataclass(frozen=True)
class EstimatorKind:
    """An estimator (a way to compute gradient strengths), and what the measurement must know about it.

    Args:
        function: the function that measures a chunk (some rollouts that run together), `f(model, layers, chunk, spec,
            tick) -> ChunkSignals`. `layers` are the attention layers to measure, `spec` is the `SignalSpec`, and
            `tick` is to be called with the number of targets that were measured since its last call. In place of the
            function, a text `module:attribute` can be given. The function is then imported on first use.
        context: which terms of the gradient the estimator keeps: `own-position` (only the term of the token's own
            position) or `full` (the terms of all positions).
        slow: whether the estimator is too slow to be tried on a model before a run begins; `full` is then tried
            instead.
        last_layer_alone: whether the estimator measures only the last attention layer.
        one_backward: whether one backward pass serves all tokens. Each model is then tested once: its backward pass
            must keep the gradients of different tokens separate.
        shares_prefixes: whether the estimator can measure chunks with a `prefix`, the first tokens that several
            rollouts have in common.
    """

    function: Callable[..., Any] | str
    context: Context = "full"
    slow: bool = False
    last_layer_alone: bool = False
    one_backward: bool = False
    shares_prefixes: bool = False

    def measure(self, *arguments: Any) -> Any:
        """Call the estimator's function, and return its result, a `ChunkSignals`.

        If `function` is a text `module:attribute`, the function is imported first.
        """
        function = imported(self.function) if isinstance(self.function, str) else self.function
        return function(*arguments)


ESTIMATORS: Registry[EstimatorKind] = Registry(
    "estimator",
    {
        "oracle": EstimatorKind("antiphase.signals.oracle:oracle", slow=True),
        "oracle-own": EstimatorKind("antiphase.signals.oracle:oracle_own", "own-position", slow=True),
        "full": EstimatorKind("antiphase.signals.full:full"),
        "last": EstimatorKind("antiphase.signals.last_layer:last_layer", last_layer_alone=True, one_backward=True),
        "own": EstimatorKind("antiphase.signals.own:own", "own-position", one_backward=True, shares_prefixes=True),
    },
)


@dataclass(frozen=True)
class SignalSpec:
    """The options of a measurement: what is measured, and how (docs/method.md).

    The strength of a token is a norm of the gradient of its target with respect to the weights of an attention
    projection. The target is the token's logit or its log-probability.

    Args:
        estimator: how the gradient is computed.
            `own` keeps only the term of the token's own position; all layers, one backward pass for all tokens.
            `last` keeps the full context; only the last layer, one backward pass for all tokens.
            `full` keeps the full context; any layers, one backward pass per token.
            `oracle` is the slow definition of `full`: one ordinary backward pass to the weights per token.
            `oracle-own` is the slow definition of `own`.
            An estimator that was added to `ESTIMATORS` can also be named.
        layers: `all` (all layers with softmax attention), `last`, `last-K` (the last K layers), or a comma-separated
            list of layer indices. Negative indices count from the end. The indices count all layers of the decoder,
            also those without softmax attention.
        projections: which of the attention projections Q, K, V and O are measured.
        norm: the norm of the gradient: `nuclear` (as in the paper), `frobenius`, or `l1` (the sum of the absolute
            values of the entries, as in §2.1 of the first author's post; docs/deviations.md).
        target: what is differentiated: `logit` (the generated token's raw logit) or `logprob` (a control; see
            docs/method.md).
        targets_per_rollout: the strength of at most this many tokens of each rollout is measured. They are drawn at
            random, without replacement. None measures all tokens. 0 measures no strengths of single tokens, and needs
            `step_strength="joint"`. Entropy is always measured for every token.
        step_strength: how the strength of a step (a sentence of the rollout) is computed. `mean` is the mean of its
            measured tokens' strengths. `joint` is the norm of the gradient of the sum of its n tokens' targets,
            divided by n^0.9.
        temperature: the logits are divided by it before entropy and log-probability are computed; 1 leaves the model's
            distribution unchanged.
        token_budget: the greatest number of padded tokens in one forward pass. `own` runs a longer rollout in several
            passes; the other estimators run it in one longer pass. If several rollouts share a prompt, `own` can run
            this prompt only once. Then the tokens of the prompt count once, and (number of these rollouts) × (tokens
            of the prompt) / (number of layers) further tokens are counted, because the keys and values of the prompt
            are copied.
        seed: the seed of the random draw of `targets_per_rollout`.
        num_alternatives: how many of the most probable tokens are kept at each position; at most the size of the
            vocabulary.

    Raises:
        InvalidInputError: a value is not allowed or out of range.
    """

    estimator: str = "own"
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
        ESTIMATORS.check(self.estimator)
        check_one_of("norm", self.norm, NORMS)
        check_one_of("target", self.target, TARGETS)
        check_one_of("step_strength", self.step_strength, STEP_STRENGTHS)
        if not self.projections:
            raise InvalidInputError("projections is empty; name at least one of Q, K, V, O.")
        for name in self.projections:
            check_one_of("projections", name, PROJECTIONS)
        if len(set(self.projections)) != len(self.projections):
            raise InvalidInputError(
                f"projections names a projection twice: {', '.join(self.projections)}. Name each projection once."
            )
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
    def context(self) -> Context:
        """Which terms of the gradient are kept: `own-position` (only the token's own position) or `full` (all)."""
        return ESTIMATORS[self.estimator].context


def parse_layers(text: str, num_layers: int | None) -> list[int]:
    """Return the layer indices that a text names, in ascending order.

    Args:
        text: `all`, `last`, `last-K` (the last K layers), or a list of indices such as `0,3,-1`.
        num_layers: the number of layers of the model's decoder. If it is None, only the syntax of the text is checked,
            and the result is empty.

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
            raise InvalidInputError(f"layers {text!r}: the model has only {num_layers} layers.")
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
                f"layer {index} does not exist: the model has {num_layers} layers, 0 to {num_layers - 1}."
            )
    return sorted({index % num_layers for index in wanted})
