"""Count the problems of an evaluation, to compute the budget of a study.

If a dry run cannot reach the hub, it uses the sizes of data sets that antiphase knows. A real run does not: if it
cannot read a data set, it fails before anything starts.
"""

from dataclasses import dataclass

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig, num_samples
from antiphase.evaluation.plan import plan_entry
from antiphase.tasks.math_sets import MATH_SETS
from antiphase.tasks.problem import Task
from antiphase.tasks.registry import load_task
from antiphase.tasks.suites import SuiteEntry

# Names of the errors that mean that the network cannot be used. They come from the hub's client, from the HTTP library
# below it, and from the standard library.
_NO_NETWORK = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "ConnectTimeout"}


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that the hub could not be reached.

    If the hub was reached but refused the request, the result is False.
    """
    while error is not None:
        if type(error).__name__ in _NO_NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class Count:
    """The numbers that decide how long an evaluation takes on one task.

    Args:
        spec: the task's spec.
        problems: number of problems.
        max_new_tokens: length limit of a completion, in tokens.
        samples: number of sampled completions of each problem.
        seen: whether the problems were read. If not, `problems` is the number that antiphase has stored.
    """

    spec: str
    problems: int
    max_new_tokens: int
    samples: int
    seen: bool = True


def count_problems(config: EvalConfig, *, dry_run: bool) -> list[Count]:
    """Return the number of problems, the number of samples and the length limit for each task of an evaluation.

    Args:
        config: options of the evaluation.
        dry_run: whether to go on if a data set cannot be read because the Hugging Face hub cannot be reached.
            antiphase has stored the number of test problems of some data sets. This stored number is then used.

    Raises:
        AntiphaseError: a task is invalid or cannot be read, so that `evaluate` would refuse it too.
    """
    entries = config.entries()
    tasks = [load_task(entry.spec) for entry in entries]
    return [_count(entry, task, config, dry_run) for entry, task in zip(entries, tasks, strict=True)]


def _count(entry: SuiteEntry, task: Task, config: EvalConfig, dry_run: bool) -> Count:
    """Return the numbers of one task of an evaluation: its problems, its samples and its length limit.

    If `dry_run` is True and the hub cannot be reached, the number of problems is the one that antiphase has stored.
    """
    length, samples = config.sampling(entry.max_new_tokens).max_new_tokens, num_samples(entry)
    try:
        return Count(entry.spec, len(plan_entry(entry, task, config).problems), length, samples)
    except InvalidInputError as error:
        known = MATH_SETS[task.name].test_rows if task.name in MATH_SETS else None
        if not dry_run or known is None or config.split != "test" or not is_unreachable(error):
            raise
        wanted = config.num_problems if config.num_problems is not None else entry.num_problems
        return Count(entry.spec, min(known, wanted) if isinstance(wanted, int) else known, length, samples, seen=False)
