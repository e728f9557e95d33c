"""All options of an evaluation. Every field is written to the run folder and compared on resume."""

from dataclasses import dataclass
from typing import Literal, cast

from antiphase.data.prompt_rendering import PromptFormat
from antiphase.errors import InvalidInputError
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.runs.run_config import RunConfig, signal_specs
from antiphase.signal_spec import SignalSpec, check_one_of
from antiphase.tasks.problem import SPLITS, Split
from antiphase.tasks.suites import suite_samples

DEFAULT_MAX_NEW_TOKENS = 1024
DEFAULT_SAMPLES = 4
NO_SIGNALS = "none"


@dataclass(frozen=True)
class EvalConfig(RunConfig):
    """The options of an evaluation: those of every run (`RunConfig`), and these.

    Without a `prompt_template` or `end_tokens`, each task has its own. The estimator `none` measures no signals.

    Args:
        tasks: specs of the task registry. With a `suite` too, these tasks replace the suite's.
        suite: a named list of tasks with options of their own. The options below win over the suite's.
            `NAME:task=FILE` reads local copies.
        num_problems: number of problems of each task; `all` takes all. Every run draws the same problems.
        split: split that the problems come from.
        chat_template: apply the model's chat template where it has one; by default as the suite says, else yes.
        samples: number of sampled completions of each problem. It may be 0 if `greedy` is true. The default is the
            suite's number (16 for `paper`), else 4.
        greedy: add a greedy completion of each problem.
        k: the k of pass@k, maj@k and best-of-k; by default the powers of two up to `samples`, and `samples`.
        max_new_tokens: length limit of a completion; by default the suite's, else 1024.
        timeout: seconds that one verification may take.
        by_projection: keep the strength of every layer's projection (four columns for a layer) in tokens.parquet, and
            the ρ of each in the summary.
    """

    tasks: tuple[str, ...] = ()
    suite: str | None = None
    num_problems: int | Literal["all"] | None = None
    split: str = "test"
    chat_template: bool | None = None
    samples: int | None = None
    greedy: bool = True
    k: tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    timeout: float = 5.0
    by_projection: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks and self.suite is None:
            raise InvalidInputError("name at least one task: --tasks gsm8k,math500, or --suite smoke.")
        if self.samples is None:
            asked = None if self.suite is None else suite_samples(self.suite)
            object.__setattr__(self, "samples", DEFAULT_SAMPLES if asked is None else asked)
        self.check_once("task", self.tasks)
        if isinstance(self.num_problems, int) and self.num_problems < 1:
            raise InvalidInputError(f"num_problems must be at least 1, or 'all'; got {self.num_problems}.")
        if not self.timeout > 0:
            raise InvalidInputError(f"timeout must be a positive number of seconds; got {self.timeout}.")
        self._check_samples()
        check_one_of("split", self.split, SPLITS)
        # These are built for the checks that they make.
        self.sampling(None), PromptFormat(self.prompt_template, self.system_prompt)

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
        """The spec of each estimator, from `signal_specs`; none where no signals are measured."""
        if self.estimators == (NO_SIGNALS,):
            return ()
        return signal_specs(self)

    def sampling(self, max_new_tokens: int | None, *, greedy: bool = False) -> Sampling:
        """How completions are drawn for a task whose own length limit is `max_new_tokens`."""
        length = self.max_new_tokens or max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            length = self.max_new_tokens  # `Sampling` refuses it.
        return Sampling(length, 0.0 if greedy else self.temperature, self.top_p, self.seed)

    def ks(self, samples: int) -> tuple[int, ...]:
        """The k of pass@k for this number of samples."""
        if self.k is not None:
            return tuple(k for k in sorted(set(self.k)) if k <= samples)
        powers = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
        return tuple(sorted({*powers, samples} - {0}))

    @property
    def split_name(self) -> Split:
        """The split as tasks take it."""
        return cast(Split, self.split)
