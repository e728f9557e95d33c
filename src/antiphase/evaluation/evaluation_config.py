"""What an evaluation does, in full: every field is written to the run folder and compared on resume."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from antiphase.data.prompt_rendering import PromptFormat
from antiphase.errors import InvalidInputError
from antiphase.models.dtypes import DTYPES
from antiphase.probing.folder_kinds import FolderKind
from antiphase.probing.probe_config import signal_specs
from antiphase.probing.unit_spec import DEFAULT_UNIT, UnitSpec
from antiphase.rollouts.engine_names import check_engine
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.signal_spec import PROJECTIONS, SignalSpec, check_one_of
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.steps.splitter import DEFAULT_SPLITTER
from antiphase.tasks.problem import SPLITS, Split
from antiphase.tasks.suites import suite_samples

DEFAULT_MAX_NEW_TOKENS = 1024
DEFAULT_SAMPLES = 4
NO_SIGNALS = "none"
EVALUATION = FolderKind("antiphase-eval", 1, "an evaluation", free=("token_budget",))


@dataclass(frozen=True)
class EvalConfig:
    """Every option of an evaluation.

    Args:
        models: hub ids, local directories, or `demo`.
        tasks: specs of the task registry; with a `suite`, in place of its tasks.
        suite: a named list of tasks with settings of their own, which the options below override; `NAME:task=FILE`
            reads local copies.
        num_problems: of each task, drawn in an order that depends on nothing else; `all` takes all.
        split: that the problems come from.
        samples: sampled completions of each problem; 0 with `greedy` alone. None is resolved at once: the suite's
            number (16 of `paper`), or 4.
        greedy: one greedy completion of each problem, beside the samples.
        k: of pass@k, maj@k and best-of-k; by default the powers of two up to `samples`, and `samples`.
        max_new_tokens, temperature, top_p, seed: see `Sampling`; the default length is 1024.
        system_prompt, prompt_template, chat_template: see `PromptFormat`; by default the task's own template.
        end_tokens: texts of one token each that end a completion, besides the model's own end tokens.
        engine: that generates, see `make_generator`.
        vllm_memory: share of the GPU's memory that vLLM takes; the rest is for the model that measures.
        batch_size: rollouts generated, verified, measured and written at a time.
        rollouts: the file of given rollouts (or `GIVEN_ROWS` for rows in memory); nothing is generated.
        timeout: seconds that one verification may take.
        estimators: as for a probe; `none` measures no signals.
        layers, projections, norm, target, targets_per_rollout, token_budget: see `SignalSpec`.
        by_projection: keep the strength of every layer's projection (four columns a layer) in tokens.parquet, and ρ of
            each in the summary.
        unit, splitter, step_strength, min_tokens, min_steps: as for a probe.
        num_resamples: of the bootstraps.
        dtype, device, trust_remote_code, revision: see `load_model`.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    suite: str | None = None
    num_problems: int | Literal["all"] | None = None
    split: str = "test"
    samples: int | None = None
    greedy: bool = True
    k: tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    system_prompt: str | None = None
    prompt_template: str | None = None
    chat_template: bool | None = None
    end_tokens: tuple[str, ...] | None = None
    engine: str = "auto"
    vllm_memory: float = 0.45
    batch_size: int = 16
    rollouts: str | None = None
    timeout: float = 5.0
    estimators: tuple[str, ...] = ("own",)
    layers: str = "all"
    projections: tuple[str, ...] = PROJECTIONS
    norm: str = "nuclear"
    target: str = "logit"
    targets_per_rollout: int | None = None
    token_budget: int = 2048
    by_projection: bool = False
    unit: str = DEFAULT_UNIT
    splitter: str = DEFAULT_SPLITTER
    step_strength: str = "mean"
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS
    num_resamples: int = 1000
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.models or not all(self.models):
            raise InvalidInputError("name at least one model: a hub id, a local directory, or 'demo'.")
        if not self.tasks and self.suite is None:
            raise InvalidInputError("name at least one task: --tasks gsm8k,math500, or --suite smoke.")
        if self.samples is None:
            asked = None if self.suite is None else suite_samples(self.suite)
            object.__setattr__(self, "samples", DEFAULT_SAMPLES if asked is None else asked)
        for what, names in (("model", self.models), ("task", self.tasks), ("estimator", self.estimators)):
            twice = next((name for name in names if list(names).count(name) > 1), None)
            if twice is not None:
                raise InvalidInputError(f"the {what} {twice!r} is named twice.")
        self._check_numbers()
        self._check_samples()
        check_one_of("split", self.split, SPLITS)
        check_engine(self.engine)
        check_one_of("dtype", self.dtype, DTYPES)
        # Built for their checks.
        self.units(), self.specs(), self.sampling(None), PromptFormat(self.prompt_template, self.system_prompt)

    def _check_numbers(self) -> None:
        for name in ("batch_size", "num_resamples"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if isinstance(self.num_problems, int) and self.num_problems < 1:
            raise InvalidInputError(f"num_problems must be at least 1, or 'all'; got {self.num_problems}.")
        if not self.timeout > 0:
            raise InvalidInputError(f"timeout must be a positive number of seconds; got {self.timeout}.")

    @property
    def num_samples(self) -> int:
        """`samples`, which is resolved when the config is made."""
        return cast(int, self.samples)

    def _check_samples(self) -> None:
        if self.num_samples < 0 or (self.samples == 0 and not self.greedy):
            raise InvalidInputError(
                f"samples must be at least 1, or 0 with greedy completions; got {self.samples}. Nothing would be "
                "evaluated."
            )
        if self.samples and self.temperature == 0 and self.rollouts is None:
            raise InvalidInputError(
                f"temperature 0 would draw {self.samples} equal samples. For greedy accuracy ask for --samples 0 "
                "--greedy; else raise the temperature."
            )
        for k in self.k or ():
            if k < 1:
                raise InvalidInputError(f"k must be at least 1; got {k}. pass@k of k samples needs at least one.")
            if k > self.num_samples and self.rollouts is None:
                raise InvalidInputError(
                    f"pass@{k} needs at least {k} samples of each problem; got {self.samples}. Raise --samples or "
                    "lower --k."
                )

    def specs(self) -> tuple[SignalSpec, ...]:
        """One spec per estimator, see `signal_specs`; none where no signals are measured."""
        if self.estimators == (NO_SIGNALS,):
            return ()
        return signal_specs(self)

    def units(self) -> UnitSpec:
        """What is correlated."""
        return UnitSpec.of(self)

    def sampling(self, max_new_tokens: int | None, *, greedy: bool = False) -> Sampling:
        """How completions are drawn, of a task whose own length limit is `max_new_tokens`."""
        length = self.max_new_tokens or max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            length = self.max_new_tokens  # for the error
        return Sampling(length, 0.0 if greedy else self.temperature, self.top_p, self.seed)

    def ks(self, samples: int) -> tuple[int, ...]:
        """The k of pass@k for so many samples."""
        if self.k is not None:
            return tuple(k for k in sorted(set(self.k)) if k <= samples)
        powers = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
        return tuple(sorted({*powers, samples} - {0}))

    @property
    def split_name(self) -> Split:
        """The split as tasks take it."""
        return cast(Split, self.split)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values
