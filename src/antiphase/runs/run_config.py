"""The options that every run has: what is measured, how completions are sampled, and how a model is loaded.

`ProbeConfig` and `EvalConfig` add the options of a probe and of an evaluation. Every option is written to the run
folder. When a run is continued, the options must be the same. This module imports no torch.
"""

import collections.abc
import dataclasses
import json
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from antiphase.data.chat_template import ChatOptions
from antiphase.errors import InvalidInputError
from antiphase.models.device_maps import check_device_map
from antiphase.models.dtypes import DTYPES
from antiphase.registry import did_you_mean
from antiphase.rollouts.engine_names import check_engine
from antiphase.runs.auto_targets import AUTO, check_auto
from antiphase.runs.model_choice import check_model_choice
from antiphase.runs.server_choice import FREE_SERVER_OPTIONS, SERVER_DEFAULTS, check_server_choice
from antiphase.runs.unit_spec import BEFORE_UNITS, DEFAULT_UNIT, UnitSpec
from antiphase.signal_spec import (
    ESTIMATORS,
    NORMS,
    PROJECTIONS,
    TARGETS,
    Norm,
    ProjectionName,
    SignalSpec,
    StepStrength,
    Target,
    check_one_of,
)
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.steps.splitter import DEFAULT_SPLITTER

GIVEN_ROWS = "<rows in memory>"
# Options that may differ when a run is continued, since they change numbers only by rounding.
FREE_ON_RESUME = ("token_budget", "vllm_memory", *FREE_SERVER_OPTIONS)
# The values of options in effect in a run whose config.json is older than these options.
BEFORE_THE_OPTION: Mapping[str, Any] = {
    "alternatives": 0, "engine": "auto", "vllm_memory": 0.45, "end_tokens": None, "think_tags": None,
    "chat_template_kwargs": None, "fold_system": False, "continue_final": False, "adapter": None,
    "auto_seconds": None, "device_map": None,
    **SERVER_DEFAULTS,
    **BEFORE_UNITS
}  # fmt: skip

Config = TypeVar("Config", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig:
    """The options that a probe and an evaluation share.

    Args:
        models: hub ids, local directories, or `demo`.
        estimators: how gradient strengths are computed: `own`, `last`, `full`, `oracle` or `oracle-own`; `SignalSpec`
            explains them. A name may be followed by the number of tokens per rollout that this estimator measures, as
            in `full:16`, or by `auto`, as in `full:auto`: then as many tokens are measured as `auto_seconds` allow.
            Tables and pages show the ρ of the first estimator first.
        layers: which layers are measured: `all`, `last`, `last-K`, or indices such as `0,3,-1`.
        projections: which of the attention projections Q, K, V and O are measured.
        norm: the norm of a gradient: `nuclear`, `frobenius` or `l1`.
        target: what is differentiated: the generated token's `logit`, or its `logprob` (a control).
        targets_per_rollout: the number of random tokens of each rollout whose strength is measured; None measures all.
        auto_seconds: how many seconds each estimator NAME:auto may measure each model; None means 600.
        token_budget: the greatest number of padded tokens in one forward pass.
        unit: the unit whose ρ is shown first: `type` (distinct token ids, the paper's fingerprint), `token`
            (positions) or `step` (sentences). The results always contain all three.
        splitter: where steps end: `sentence`, `line`, `fixed:N` or `regex:PATTERN`; see `Splitter`.
        step_strength: how the strength of a step with n tokens is computed. `mean` is the mean of its tokens'
            strengths. `joint` is the norm of the gradient of the sum of its tokens' logits (or other targets),
            divided by n^0.9.
        segment: which tokens of a rollout are correlated: those of its `thought`, those of its `answer`, or `all`. All
            tokens are always measured and stored. With `thought` and `answer`, no step contains tokens of both.
        min_tokens: a rollout with fewer measured tokens (or types) has no correlation of its own.
        min_steps: a rollout with fewer steps has no correlation over steps.
        num_resamples: the number of bootstrap samples for the intervals. Each sample is drawn from the prompts.
        temperature, top_p: how completions are sampled. The temperature 0 is greedy decoding.
        seed: the seed of sampling, of the draws of measured tokens, and of the bootstrap.
        system_prompt: the system message of the chat. Without a chat template, it stands before the prompt.
        prompt_template: a text with `{prompt}` in it, which is put around every plain-text prompt.
        chat_template_kwargs: variables for the model's chat template, such as `{"enable_thinking": False}`.
        fold_system: whether the text of the system message is moved into the first user message. Some templates need
            this, because they refuse a system message.
        end_tokens: texts of tokens that end a completion, in addition to the model's own end tokens.
        think_tags: pairs of tags between which the models think, in addition to the known tags. Each text is a pair,
            as in `<plan> </plan>`.
        engine: the engine that completes the prompts: `transformers`, `vllm`, `openai` (which asks a server), or
            `auto`, which means transformers.
        vllm_memory: the share of the GPU's memory that vLLM takes; the rest is for the model that is measured.
        base_url: the address of the server that the engine `openai` asks, such as `http://localhost:8000/v1`.
        served_model: the name of the model on the server; None means the name that the model has in `models`.
        concurrency: the greatest number of requests to the server at the same time, from all processes of the run
            together.
        request_timeout: the seconds that one request to the server may take.
        deadline: the seconds that the server may take for a batch, with all repetitions; None sets no limit.
        api_key_env: the name of the environment variable that contains the server's key. The key is not stored.
        batch_size: the number of rollouts that are generated, measured and written together.
        rollouts: the file of given rollouts, or `GIVEN_ROWS` for rows in memory; None generates the rollouts.
        dtype: the dtype of the weights; `auto` is float32 on the CPU and the checkpoint's own dtype elsewhere.
        device: a torch device; `auto` is cuda if it is available, else mps, else cpu.
        device_map: how the layers are spread over several devices, main memory and the disk: `auto`, `balanced`,
            `balanced_low_0`, `sequential` or a JSON file. None puts the whole model on `device`.
        trust_remote_code: whether to run code that comes with the model.
        revision: a branch, tag or commit of the model on the hub.
        adapter: a local directory or a hub id of an adapter that is put on the model.
    """

    models: tuple[str, ...]
    estimators: tuple[str, ...] = ("own",)
    layers: str = "all"
    projections: tuple[str, ...] = PROJECTIONS
    norm: str = "nuclear"
    target: str = "logit"
    targets_per_rollout: int | None = None
    auto_seconds: float | None = None
    token_budget: int = 2048
    unit: str = DEFAULT_UNIT
    splitter: str = DEFAULT_SPLITTER
    step_strength: str = "mean"
    segment: str = "all"
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS
    num_resamples: int = 1000
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    system_prompt: str | None = None
    prompt_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    fold_system: bool = False
    end_tokens: tuple[str, ...] | None = None
    think_tags: tuple[str, ...] | None = None
    engine: str = "auto"
    vllm_memory: float = 0.45
    base_url: str | None = None
    served_model: str | None = None
    concurrency: int = 16
    request_timeout: float = 600.0
    deadline: float | None = None
    api_key_env: str = "OPENAI_API_KEY"
    batch_size: int = 16
    rollouts: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        if not self.models or not all(self.models):
            raise InvalidInputError("name at least one model: a hub id, a local directory, or 'demo'.")
        self.check_once("model", self.models)
        if not self.estimators:
            raise InvalidInputError(
                "name at least one estimator, such as 'own' or 'full:16'. The number says how many tokens of each "
                "rollout are measured."
            )
        self.check_once("estimator", self.estimators)
        self.check_counts("batch_size", "num_resamples")
        if not 0 < self.vllm_memory <= 1:
            raise InvalidInputError(f"vllm_memory must lie in (0, 1]; got {self.vllm_memory}.")
        check_engine(self.engine)
        check_model_choice(self.models, self.adapter, self.engine)
        check_server_choice(self)
        check_one_of("dtype", self.dtype, DTYPES)
        check_device_map(self.device, self.device_map)
        check_auto(self.estimators, self.auto_seconds)
        # The results are not used. These calls raise an error if an option is wrong.
        self.units(), self.specs(), self.chat_options()

    def check_once(self, what: str, names: Sequence[str]) -> None:
        """Raise InvalidInputError if a name occurs twice. The message begins with `what`, such as `model`."""
        twice = next((name for name in names if list(names).count(name) > 1), None)
        if twice is not None:
            raise InvalidInputError(f"the {what} {twice!r} is named twice.")

    def check_counts(self, *names: str) -> None:
        """Raise InvalidInputError if one of the options with these names is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1; got {getattr(self, name)}.")

    def specs(self) -> tuple[SignalSpec, ...]:
        """Return a `SignalSpec` (what is measured, and how) for each estimator, in the order of `estimators`."""
        return signal_specs(self)

    def chat_options(self, moment: str | None = None) -> ChatOptions:
        """Return the options for calling chat templates.

        Args:
            moment: the time, in ISO format, that a template reads when it asks for the time; None is the present time.
        """
        return ChatOptions(self.chat_template_kwargs, self.fold_system, moment=moment)

    def units(self) -> UnitSpec:
        """Return the options that say what is correlated: tokens, types or steps, and of which part of a rollout."""
        return UnitSpec.of(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as values that JSON can hold."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def signal_specs(config: RunConfig, temperature: float = 1.0) -> tuple[SignalSpec, ...]:
    """Return one `SignalSpec` (what is measured, and how) for each estimator of a run.

    An estimator that is given as NAME:auto measures as many tokens of each rollout as the time allows. This number is
    not known before the run has measured a rollout. So the spec has the number 1, and `auto_targets.planned` replaces
    it.

    Args:
        config: the options of the run.
        temperature: the number that divides the logits before the entropy is computed.

    Raises:
        InvalidInputError: an estimator is unknown or named twice, or its number of tokens is malformed.
    """
    specs = tuple(_signal_spec(text, config, temperature) for text in config.estimators)
    if len({spec.estimator for spec in specs}) < len(specs):
        raise InvalidInputError(
            f"an estimator is named twice: {', '.join(config.estimators)}. Name each of them once."
        )
    return specs


def _signal_spec(text: str, options: RunConfig, temperature: float) -> SignalSpec:
    name, colon, count = text.partition(":")
    if colon and not count.isdecimal() and count != AUTO:
        raise InvalidInputError(f"estimator {text!r}: expected NAME, NAME:TARGETS or NAME:auto, as in full:16.")
    ESTIMATORS.check(name)
    check_one_of("norm", options.norm, NORMS)
    check_one_of("target", options.target, TARGETS)
    for projection in options.projections:
        check_one_of("projections", projection, PROJECTIONS)
    return SignalSpec(
        estimator=name,
        layers=options.layers,
        projections=cast(tuple[ProjectionName, ...], options.projections),
        norm=cast(Norm, options.norm),
        target=cast(Target, options.target),
        targets_per_rollout=1 if count == AUTO else int(count) if colon else options.targets_per_rollout,
        step_strength=cast(StepStrength, options.step_strength),
        temperature=temperature,
        token_budget=options.token_budget,
        seed=options.seed,
    )


def config_from(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    options: Mapping[str, Any],
    kind: type[Config],
) -> Config:
    """Make the config of a run from models and keyword options, and check it.

    Args:
        models: one model or several.
        options: a mapping from the name of a field of the config to its value.
        kind: the class of the config, such as `ProbeConfig`.

    Raises:
        InvalidInputError: an option is unknown (the message suggests a similar name), or a value has the wrong type or
            is out of its range.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            raise InvalidInputError(f"unknown option {name!r}.{did_you_mean(name, known)}")
    values = {name: _plain(name, value) for name, value in options.items()}
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            wanted = str(hints[name]).removeprefix("<class '").removesuffix("'>").replace("typing.", "")
            raise InvalidInputError(f"{name} must be {wanted}; got {value!r}.")
    names = [models] if isinstance(models, str | os.PathLike) else models
    return kind(models=tuple(os.fspath(name) for name in names), **values)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of a field. An int also fits a float field; a bool fits bool fields only."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, member) for member in inner)
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint or (hint is not int and isinstance(value, hint))


def _plain(name: str, value: Any) -> Any:
    """Return an option in the form that the config stores: a path as a string, a list as a tuple, and so on."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if name == "layers" and not isinstance(value, str):
        return str(value) if isinstance(value, int) else ",".join(map(str, value))
    if name in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    if name in ("estimators", "projections") and isinstance(value, str):
        return tuple(map(str.strip, value.split(",")) if name == "estimators" else value)
    if name in ("tasks", "end_tokens", "think_tags", "k") and isinstance(value, str | int):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
