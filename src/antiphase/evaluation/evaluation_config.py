"""All options of an evaluation. Every field is written to the run folder and compared on resume."""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

from antiphase.data.prompt_rendering import PromptFormat
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
    """The options of an evaluation: those of every run (`RunConfig`), and these.

    Without a `prompt_template` or `end_tokens`, each task has its own. The estimator `none` measures no signals.

    Args:
        tasks: specs of the task registry. With a `suite` too, these tasks replace the suite's. A spec may say
            `samples` and `k` for its task, as in `aime24:samples=64,k=1|8`; these win over the fields of these names.
        suite: a named list of tasks with options of their own. The options below win over the suite's.
            `NAME:task=FILE` reads local copies.
        num_problems: number of problems of each task; `all` takes all. Every run draws the same problems.
        split: split that the problems come from.
        chat_template: apply the model's chat template where it has one; by default as the suite says, else yes.
        samples: number of sampled completions of each problem. It may be 0 if `greedy` is true. The default is the
            suite's number (16 for `paper`), else 4. It is None only for a suite whose tasks have different numbers.
        greedy: add a greedy completion of each problem.
        k: the k of pass@k, maj@k and best-of-k; by default the powers of two up to the number of samples, and that
            number. A task with fewer samples than the largest k has only the k up to its number.
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
        # These are built for the checks that they make.
        self.sampling(None), PromptFormat(self.prompt_template, self.system_prompt)

    def entries(self) -> tuple[SuiteEntry, ...]:
        """The tasks that the options name, else those of the suite, each with its number of samples.

        The `k` of an entry is None where evaluation chooses it.

        Raises:
            InvalidInputError: the suite is unknown, or a spec is malformed.
        """
        if self.tasks:
            default = _first(self.samples, DEFAULT_SAMPLES)
            asked = [asked_entry(text) for text in self.tasks]
            return tuple(replace(e, samples=_first(e.samples, default), k=_first(e.k, self.k)) for e in asked)
        # An option wins over the suite.
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
                    f"{where}samples must be at least 1, or 0 with greedy completions; got {samples}. Nothing would "
                    "be evaluated."
                )
            if samples and self.temperature == 0 and self.rollouts is None:
                raise InvalidInputError(
                    f"{where}temperature 0 would draw {samples} equal samples. For greedy accuracy ask for --samples "
                    "0 --greedy; else raise the temperature."
                )
            if where:
                self._check_ks(asked_entry(text).k or (), samples, where)
        # A k of all tasks must fit one of them.
        self._check_ks(self.k or (), max(num_samples(entry) for entry in entries), "")

    def _check_ks(self, ks: tuple[int, ...], samples: int, where: str) -> None:
        for k in ks:
            if k < 1:
                raise InvalidInputError(
                    f"{where}k must be at least 1; got {k}. pass@k of k samples needs at least one."
                )
            if k > samples and self.rollouts is None:
                fix = "samples or lower k" if where else "--samples or lower --k"
                raise InvalidInputError(
                    f"{where}pass@{k} needs at least {k} samples of each problem; got {samples}. Raise {fix}."
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

    def ks(self, task: str, samples: int) -> tuple[int, ...]:
        """The k of pass@k of a task, which has this number of samples of each problem."""
        asked = next((entry.k for entry in self.entries() if entry.spec == task), self.k)
        if asked is not None:
            return tuple(k for k in sorted(set(asked)) if k <= samples)
        powers = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
        return tuple(sorted({*powers, samples} - {0}))

    @property
    def split_name(self) -> Split:
        """The split as tasks take it."""
        return cast(Split, self.split)


def num_samples(entry: SuiteEntry) -> int:
    """The number of samples of each problem of an entry of `EvalConfig.entries`, which has one."""
    return cast(int, entry.samples)


def _first(*values: _Value | None) -> _Value | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)
