"""What a dry run can say without the hub: sizes that are known, and what could not be looked at.

A real run never comes here: what it cannot read is an error, before anything starts.
"""

from dataclasses import dataclass

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.evaluation.plan import plan_entry, suite_entries
from antiphase.tasks.math_sets import MATH_SETS
from antiphase.tasks.problem import Task
from antiphase.tasks.registry import load_task
from antiphase.tasks.suites import SuiteEntry

# Names of the errors that say "no network": those of the hub's client, of its transport, and of the standard library.
_NO_NETWORK = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "ConnectTimeout"}


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the hub could not be reached (not that it refused)."""
    while error is not None:
        if type(error).__name__ in _NO_NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class Count:
    """What an evaluation asks of one task.

    Args:
        spec: of the task.
        problems: how many.
        max_new_tokens: of a completion.
        seen: whether the problems were read; else their number is one that antiphase knows.
    """

    spec: str
    problems: int
    max_new_tokens: int
    seen: bool = True


def count_problems(config: EvalConfig, *, dry_run: bool) -> list[Count]:
    """What an evaluation asks of each of its tasks.

    Args:
        config: of the evaluation.
        dry_run: without the hub, take the known number of a known set's test problems.

    Raises:
        AntiphaseError: a task that `evaluate` would refuse.
    """
    entries = suite_entries(config)
    tasks = [load_task(entry.spec) for entry in entries]
    return [_count(entry, task, config, dry_run) for entry, task in zip(entries, tasks, strict=True)]


def _count(entry: SuiteEntry, task: Task, config: EvalConfig, dry_run: bool) -> Count:
    length = config.sampling(entry.max_new_tokens).max_new_tokens
    try:
        return Count(entry.spec, len(plan_entry(entry, task, config).problems), length)
    except InvalidInputError as error:
        known = MATH_SETS[task.name].test_rows if task.name in MATH_SETS else None
        if not dry_run or known is None or config.split != "test" or not is_unreachable(error):
            raise
        wanted = config.num_problems if config.num_problems is not None else entry.num_problems
        return Count(entry.spec, min(known, wanted) if isinstance(wanted, int) else known, length, seen=False)
