"""Make a task from its spec, the text by which users name a task and its options."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping

from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.registry import did_you_mean
from antiphase.tasks import choice_task, digit_sum, math_verify_alone, sums
from antiphase.tasks.choice_task import ChoiceTask
from antiphase.tasks.digit_sum import DigitSumTask
from antiphase.tasks.gym_names import gym_names
from antiphase.tasks.gym_task import GymTask
from antiphase.tasks.math_sets import FILE_SUFFIXES, MATH_SETS, file_task, hub_task, known_set
from antiphase.tasks.math_verify_alone import MathVerifyAlone
from antiphase.tasks.own_task import OwnTask, own_place
from antiphase.tasks.problem import Task
from antiphase.tasks.specs import Spec, parse_spec
from antiphase.tasks.sums import SumsTask
from antiphase.tasks.user_code import is_current

_ALIASES = {"gpqa": choice_task.NAME, "aime2024": "aime24", "aime2025": "aime25", "minervamath": "minerva"}
_BUILDERS: Mapping[str, Callable[[Spec], Task]] = {
    choice_task.NAME: ChoiceTask.from_spec,
    digit_sum.NAME: DigitSumTask.from_spec,
    sums.NAME: SumsTask.from_spec,
}
_OWN = (*MATH_SETS, *_BUILDERS)


def load_task(spec: str) -> Task:
    """Make the task that a spec names, and check what can be checked without a download.

    Args:
        spec: `NAME`, or `NAME:key=value,key=value` with options. NAME is one of these: a known set (`gsm8k`,
            `math500`, `gpqa_diamond`, …), `digit_sum`, `sums`, a reasoning_gym generator (`chain_sum`, `countdown`,
            …), a `.jsonl` or `.parquet` file, a data set on the hub as `owner/name`, or your own task as
            `file.py:MyTask` or `package.module:MyTask`.

    Raises:
        InvalidInputError: there is no such task or file, an option is unknown or has the wrong type, a row is
            malformed, a generator does not accept its own answers, or the user's own code raises.
        MissingExtraError: a package that the task needs is not installed.
    """
    task = renew_task(spec)
    task.check_source()
    return task


def renew_task(spec: str) -> Task:
    """Make the task that a spec names, without reading its problems.

    If the task is a user's own task, and its file has changed since it was loaded, the file is loaded again.
    """
    task = build_task(spec)
    if isinstance(task, OwnTask) and not is_current(task.code):
        build_task.cache_clear()
        task = build_task(spec)
    return task


@functools.lru_cache(maxsize=256)
def build_task(spec: str) -> Task:
    """Make the task that a spec names, without reading its problems. The task can verify even if its data are gone.

    Raises:
        InvalidInputError: there is no such task, an option is unknown or has the wrong type, or the user's own code
            raises.
        MissingExtraError: reasoning-gym is needed and not installed.
    """
    parsed = parse_spec(spec)
    if parsed.text == math_verify_alone.SPEC:
        return MathVerifyAlone(parsed.text, parsed.name, "math-verify's own rule", "Apache-2.0")
    place = own_place(parsed)
    if place is not None and _key(place.written) not in _by_key(_OWN):  # `gsm8k:extract` is gsm8k with a faulty option
        return OwnTask.from_spec(parsed, place)
    if parsed.name.endswith(FILE_SUFFIXES):
        return file_task(parsed)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", parsed.name):
        return hub_task(parsed)
    key = _key(parsed.name)
    known = _by_key(_OWN).get(key, _ALIASES.get(key))
    if known is not None:
        return _BUILDERS[known](parsed) if known in _BUILDERS else known_set(parsed, known)
    return GymTask.from_spec(parsed, _generator(parsed))


def _generator(spec: Spec) -> str:
    """Return the name of the reasoning_gym generator that the spec names, perhaps in another spelling.

    Raises:
        InvalidInputError: there is no task of this name.
        MissingExtraError: reasoning-gym is not installed, and the name is not close to another task's name.
    """
    own = list(_OWN)
    try:
        installed = list(gym_names())
    except MissingExtraError:
        if not did_you_mean(spec.name, own):
            raise MissingExtraError("reasoning-gym", "train", f"the task {spec.name!r}") from None
        installed = []
    name = _by_key(installed).get(_key(spec.name))
    if name is None:
        raise InvalidInputError(
            f"unknown task {spec.name!r}.{did_you_mean(spec.name, own + installed)} Expected one of {', '.join(own)}, "
            "a reasoning_gym generator, a .jsonl or .parquet file, a hub data set owner/name, or your own task "
            "as file.py:MyTask."
        )
    return name


def _key(name: str) -> str:
    """Return a name in a form for comparisons: `knights_and_knaves` and `Knights-Knaves` become `knightsknaves`."""
    return re.sub(r"[-_ ]", "", re.sub(r"[-_ ]and[-_ ]", "", name.lower()))


def _by_key(names: Iterable[str]) -> Mapping[str, str]:
    """Return a mapping from what `_key` returns for each name to the name itself."""
    return {_key(name): name for name in names}
