"""What a probe does, in full: every field is written to the run folder and compared on resume."""

import dataclasses
import difflib
import json
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Union, cast, get_args, get_origin, get_type_hints

from antiphase.data.prompt_rendering import PromptFormat
from antiphase.data.prompts import BUILT_IN, STEP_BY_STEP
from antiphase.errors import InvalidInputError
from antiphase.models.dtypes import DTYPES
from antiphase.probing.unit_spec import BEFORE_UNITS, DEFAULT_UNIT, UnitSpec
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.signal_spec import (
    ESTIMATORS,
    NORMS,
    PROJECTIONS,
    TARGETS,
    Estimator,
    Norm,
    ProjectionName,
    SignalSpec,
    StepStrength,
    Target,
    check_one_of,
)
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.steps.splitter import DEFAULT_SPLITTER

DEFAULT_NUM_PROMPTS = 16
GIVEN_ROWS = "<rows in memory>"
# What may change on resume: it moves no number by more than rounding.
FREE_ON_RESUME = ("token_budget",)
# What a run did whose config is older than the option.
BEFORE_THE_OPTION: Mapping[str, Any] = {"alternatives": 0, **BEFORE_UNITS}


@dataclass(frozen=True)
class ProbeConfig:
    """Every option of a probe.

    Args:
        models: hub ids, local directories, or `demo`.
        estimators: names of `SignalSpec.estimator`, each optionally with its own number of targets per rollout, as in
            `full:16`. The first is the headline.
        layers, projections, norm, target, targets_per_rollout, token_budget: see `SignalSpec`.
        signal_temperature: `SignalSpec.temperature`, of the measured entropy (not of the sampling).
        alternatives: how many of the most probable next tokens are stored for every position; 0 stores none.
        prompts, prompt_column: see `load_prompts`.
        num_prompts: how many, or `all`; by default at most 16, or all of given rollouts.
        prompt_template, system_prompt, chat_template: see `PromptFormat`; without a template, the built-in questions
            ask for step-by-step reasoning.
        samples: completions per prompt.
        max_new_tokens, temperature, top_p, seed: see `Sampling`.
        batch_size: rollouts generated, measured and written at a time.
        rollouts: the file of given rollouts (or `GIVEN_ROWS` for rows in memory); nothing is generated.
        share_rollouts: models after the first are measured on the first one's completions.
        unit: whose ρ is the headline: `type` (distinct token ids, the paper's fingerprint), `token` or `step`; all
            three are always in the results.
        splitter: where steps end: `sentence`, `line`, `fixed:N` or `regex:PATTERN`; see `Splitter`.
        step_strength: `mean` or `joint`; see `SignalSpec`.
        min_tokens: rollouts with fewer measured tokens (or types) have no correlation of their own.
        min_steps: rollouts with fewer steps have no correlation over steps.
        allow_short: accept given rollouts of fewer than `min_tokens` tokens (they count as undefined).
        num_resamples: of the bootstrap over prompts.
        dtype, device, trust_remote_code, revision: see `load_model`.
    """

    models: tuple[str, ...]
    estimators: tuple[str, ...] = ("own",)
    layers: str = "all"
    projections: tuple[str, ...] = PROJECTIONS
    norm: str = "nuclear"
    target: str = "logit"
    targets_per_rollout: int | None = None
    token_budget: int = 2048
    signal_temperature: float = 1.0
    alternatives: int = 5
    prompts: str | tuple[str, ...] = BUILT_IN
    prompt_column: str | None = None
    num_prompts: int | Literal["all"] | None = None
    prompt_template: str | None = None
    system_prompt: str | None = None
    chat_template: bool = True
    samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 16
    rollouts: str | None = None
    share_rollouts: bool = False
    unit: str = DEFAULT_UNIT
    splitter: str = DEFAULT_SPLITTER
    step_strength: str = "mean"
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS
    allow_short: bool = False
    num_resamples: int = 1000
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.models or not all(self.models):
            raise InvalidInputError("name at least one model: a hub id, a local directory, or 'demo'.")
        for what, names in (("model", self.models), ("estimator", self.estimators)):
            twice = next((name for name in names if list(names).count(name) > 1), None)
            if twice is not None:
                raise InvalidInputError(f"the {what} {twice!r} is named twice.")
        for name in ("samples", "batch_size", "num_resamples"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.alternatives < 0:
            raise InvalidInputError(f"alternatives must be at least 0; got {self.alternatives}.")
        if self.rollouts is None and self.max_new_tokens < self.min_tokens:
            raise InvalidInputError(
                f"max_new_tokens {self.max_new_tokens} is below min_tokens {self.min_tokens}: no rollout could have a "
                "correlation. Raise --max-new-tokens or lower --min-tokens."
            )
        if self.rollouts is not None and self.share_rollouts:
            raise InvalidInputError(
                "rollouts and share_rollouts exclude each other: given rollouts are shared already."
            )
        if isinstance(self.num_prompts, int) and self.num_prompts < 1:
            raise InvalidInputError(f"num_prompts must be at least 1; got {self.num_prompts}.")
        check_one_of("dtype", self.dtype, DTYPES)
        # Built for their checks.
        self.units(), self.specs(), self.sampling(), self.prompt_format()

    @property
    def prompt_limit(self) -> int | None:
        """How many prompts to take at most; None is all."""
        if self.num_prompts is None:
            return None if self.rollouts is not None else DEFAULT_NUM_PROMPTS
        return None if self.num_prompts == "all" else self.num_prompts

    def specs(self) -> tuple[SignalSpec, ...]:
        """One spec per estimator; see `signal_specs`. Alternatives depend on none, so only the first has them."""
        first, *others = signal_specs(self, self.signal_temperature)
        return (dataclasses.replace(first, num_alternatives=self.alternatives), *others)

    def units(self) -> UnitSpec:
        """What is correlated."""
        return UnitSpec.of(self)

    def sampling(self) -> Sampling:
        """How completions are drawn."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.seed)

    def prompt_format(self) -> PromptFormat:
        """How prompts are wrapped."""
        template = self.prompt_template
        if template is None and self.prompts == BUILT_IN and self.rollouts is None:
            template = STEP_BY_STEP
        return PromptFormat(template, self.system_prompt, self.chat_template)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


class SignalOptions(Protocol):
    """The fields of a config that say what is measured."""

    estimators: tuple[str, ...]
    layers: str
    projections: tuple[str, ...]
    norm: str
    target: str
    targets_per_rollout: int | None
    step_strength: str
    token_budget: int
    seed: int


def signal_specs(config: Any, temperature: float = 1.0) -> tuple[SignalSpec, ...]:
    """One spec per estimator of a config that has the fields of `SignalOptions`.

    Raises:
        InvalidInputError: an unknown estimator, one named twice, or a malformed number of targets.
    """
    options: SignalOptions = config
    specs = tuple(_signal_spec(text, options, temperature) for text in options.estimators)
    if len({spec.estimator for spec in specs}) < len(specs):
        raise InvalidInputError(f"an estimator is named twice: {', '.join(options.estimators)}.")
    return specs


def _signal_spec(text: str, options: Any, temperature: float) -> SignalSpec:
    name, colon, count = text.partition(":")
    if colon and not count.isdecimal():
        raise InvalidInputError(f"estimator {text!r}: expected NAME or NAME:TARGETS, as in full:16.")
    check_one_of("estimator", name, ESTIMATORS)
    check_one_of("norm", options.norm, NORMS)
    check_one_of("target", options.target, TARGETS)
    for projection in options.projections:
        check_one_of("projections", projection, PROJECTIONS)
    return SignalSpec(
        estimator=cast(Estimator, name),
        layers=options.layers,
        projections=cast(tuple[ProjectionName, ...], options.projections),
        norm=cast(Norm, options.norm),
        target=cast(Target, options.target),
        targets_per_rollout=int(count) if colon else options.targets_per_rollout,
        step_strength=cast(StepStrength, options.step_strength),
        temperature=temperature,
        token_budget=options.token_budget,
        seed=options.seed,
    )


def config_from(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    options: Mapping[str, Any],
    kind: Any = ProbeConfig,
) -> Any:
    """A config from a model or several and keyword options.

    Args:
        models: one or several.
        options: fields of the config.
        kind: the config's class.

    Raises:
        InvalidInputError: an unknown option (naming the nearest), or a value outside its range.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidInputError(f"unknown option {name!r}.{hint}")
    values = {name: _plain(name, value) for name, value in options.items()}
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            wanted = str(hints[name]).removeprefix("<class '").removesuffix("'>").replace("typing.", "")
            raise InvalidInputError(f"{name} must be {wanted}; got {value!r}.")
    names = [models] if isinstance(models, str | os.PathLike) else models
    return kind(models=tuple(os.fspath(name) for name in names), **values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a config's field; whole numbers count as floats, booleans as nothing else."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, member) for member in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint or (hint is not int and isinstance(value, hint))


def _plain(name: str, value: Any) -> Any:
    """An option in the form that the config keeps: strings, numbers and tuples."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if name == "layers" and not isinstance(value, str):
        return str(value) if isinstance(value, int) else ",".join(map(str, value))
    if name in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    if name in ("estimators", "projections") and isinstance(value, str):
        return tuple(value.split(",") if name == "estimators" else value)
    if name in ("tasks", "end_tokens", "k") and isinstance(value, str | int):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
