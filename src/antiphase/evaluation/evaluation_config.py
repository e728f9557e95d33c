"""The options of an evaluation. The run folder stores them, and a run can be continued only with the same options."""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

from antiphase.data.prompt_rendering import PromptFormat, check_used
from antiphase.errors import InvalidInputError
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.runs.run_config import RunConfig, signal_specs
from antiphase.signal_spec import SignalSpec, check_one_of
from antiphase.tasks.problem import SPLITS, Split
from antiphase.tasks.suites import SuiteEntry, asked_entry, resolve_suite

DEFAULT_MAX_NEW_TOKENS = 1024
DEFAULT_SAMPLES = 4
NO_SIGNALS = "none"
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class EvalConfig(RunConfig):
    """The options of an evaluation: those below, and all options of `RunConfig`.

    If `prompt_template` or `end_tokens` is None, each task uses its own. If the estimator is `none`, no signals
    (entropy and gradient strength) are measured.

    Args:
        tasks: specs (names with options) of tasks, such as `gsm8k`. If a `suite` is given too, these tasks replace
            those of the suite. A spec may set `samples` and `k` for its task, as in `aime24:samples=64,k=1|8`. For
            this task they replace the fields `samples` and `k`.
        suite: the name of a suite, a list of tasks with their options. Fields that you set here replace the options of
            the suite. `NAME:task=FILE` reads the problems of a task from a local file.
        num_problems: the number of problems of each task; `all` takes all. If None, it is the suite's number; if the
            suite names none, or without a suite, all problems are taken. Every run draws the same problems.
        split: the split of the data set that the problems come from.
        chat_template: whether the model's chat template is applied, if it has one. If None, the suite decides; without
            a suite, the template is applied.
        samples: the number of sampled completions of each problem. It may be 0 if `greedy` is true. If None, it is the
            suite's number (16 for `paper`); without a suite, it is 4. It stays None if the tasks of the suite have
            different numbers.
        greedy: whether a greedy completion of each problem is added.
        k: the values of k for pass@k, maj@k and best-of-k. If None, they are the number of samples and all powers of
            two below it. A task leaves out values above its own number of samples.
        max_new_tokens: the greatest number of tokens of a completion. If None, it is the suite's number; without a
            suite, it is 1024.
        timeout: the seconds that one verification may take. If it takes longer, the completion counts as wrong.
        by_projection: whether tokens.parquet keeps the strength of every layer and projection (four columns for a
            layer), and the summary keeps the correlation ρ of each layer and projection.
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
        check_used(self.chat_template_kwargs, self.chat_template)
        if not self.tasks and self.suite is None:
            raise InvalidInputError("name at least one task: --tasks gsm8k,math500, or --suite smoke.")
        if self.samples is None:
            of_suite = () if self.suite is None else resolve_suite(self.suite)
            numbers = {_first(entry.samples, DEFAULT_SAMPLES) for entry in of_suite} or {DEFAULT_SAMPLES}
            object.__setattr__(self, "samples", numbers.pop() if len(numbers) == 1 else None)
        self.check_once("task", [asked_entry(text).spec for text in self.tasks])
        if isinstance(self.num_problems, int) and self.num_problems < 1:
            raise InvalidInputError(f"num_problems must be at least 1, or 'all'; got {self.num_problems}.")
        if not self.timeout > 0:
            raise InvalidInputError(f"timeout must be a positive number of seconds; got {self.timeout}.")
        self._check_samples()
        check_one_of("split", self.split, SPLITS)
        # Both are built only because their constructors check the values.
        self.sampling(None), PromptFormat(self.prompt_template, self.system_prompt)

    def entries(self) -> tuple[SuiteEntry, ...]:
        """Return the tasks of the evaluation, each with its options.

        The tasks are those in the field `tasks`, or those of the suite if this field is empty. In every returned entry
        `samples` is set. `k` is None if neither the user nor the suite names values; see `ks`.

        Raises:
            InvalidInputError: the suite is unknown, or a spec is malformed.
        """
        if self.tasks:
            default = _first(self.samples, DEFAULT_SAMPLES)
            asked = [asked_entry(text) for text in self.tasks]
            return tuple(replace(e, samples=_first(e.samples, default), k=_first(e.k, self.k)) for e in asked)
        # An option of the user replaces that of the suite.
        return tuple(
            replace(e, samples=_first(self.samples, e.samples, DEFAULT_SAMPLES), k=_first(self.k, e.k))
            for e in resolve_suite(str(self.suite))
        )

    def _check_samples(self) -> None:
        entries = self.entries()
        for text, entry in zip(self.tasks or [entry.spec for entry in entries], entries, strict=True):
            samples, where = num_samples(entry), "" if entry.spec == text else f"task {text!r}: "
            if samples < 0 or (samples == 0 and not self.greedy):
                raise InvalidInputError(
                    f"{where}samples must be at least 1; got {samples}. Only with greedy completions may it be 0."
                )
            if samples and self.temperature == 0 and self.rollouts is None:
                raise InvalidInputError(
                    f"{where}temperature 0 would draw {samples} equal samples. For greedy accuracy ask for --samples "
                    "0 --greedy; else raise the temperature."
                )
            if where:
                self._check_ks(asked_entry(text).k or (), samples, where)
        # A k that is set for all tasks must be possible for at least one of them.
        self._check_ks(self.k or (), max(num_samples(entry) for entry in entries), "")

    def _check_ks(self, ks: tuple[int, ...], samples: int, where: str) -> None:
        for k in ks:
            if k < 1:
                raise InvalidInputError(
                    f"{where}k must be at least 1; got {k}. It is the number of samples that pass@k draws."
                )
            if k > samples and self.rollouts is None:
                fix = "samples or lower k" if where else "--samples or lower --k"
                raise InvalidInputError(
                    f"{where}pass@{k} needs at least {k} samples of each problem; got {samples}. Raise {fix}."
                )

    def specs(self) -> tuple[SignalSpec, ...]:
        """Return a `SignalSpec` (what is measured, and how) for each estimator; `()` if no signals are measured."""
        if self.estimators == (NO_SIGNALS,):
            return ()
        return signal_specs(self)

    def sampling(self, max_new_tokens: int | None, *, greedy: bool = False) -> Sampling:
        """Return the sampling options of a task.

        Args:
            max_new_tokens: the task's own length limit; None if it has none. If the user has set a limit, that limit
                is used instead.
            greedy: whether the most probable token is taken at each position.
        """
        length = self.max_new_tokens or max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            length = self.max_new_tokens  # `Sampling` raises the error for it.
        return Sampling(length, 0.0 if greedy else self.temperature, self.top_p, self.seed)

    def ks(self, task: str, samples: int) -> tuple[int, ...]:
        """Return the values of k for which pass@k of a task is computed.

        `samples` is the number of samples of each problem of the task.
        """
        asked = next((entry.k for entry in self.entries() if entry.spec == task), self.k)
        if asked is not None:
            return tuple(k for k in sorted(set(asked)) if k <= samples)
        powers = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
        return tuple(sorted({*powers, samples} - {0}))

    @property
    def split_name(self) -> Split:
        """The field `split`, typed as the names of splits that tasks accept: `train`, `test` or `all`."""
        return cast(Split, self.split)


def num_samples(entry: SuiteEntry) -> int:
    """Return how many completions of each problem of a task are sampled.

    `entry` is a task with its options, which `EvalConfig.entries` returned.
    """
    return cast(int, entry.samples)


def _first(*values: _Value | None) -> _Value | None:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)
