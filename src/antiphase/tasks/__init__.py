"""Tasks: prompts with reference answers, and verifiers that decide whether a completion is right.

A user who writes a task imports what the task needs from here. Each name is loaded when it is first used, so importing
`antiphase.tasks` is fast. The modules of antiphase itself import from the modules that define the names.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antiphase.tasks.extraction import extract_answer as extract_answer
    from antiphase.tasks.pool import VerifierPool as VerifierPool
    from antiphase.tasks.problem import Problem as Problem
    from antiphase.tasks.problem import Split as Split
    from antiphase.tasks.problem import Task as Task
    from antiphase.tasks.question_task import QuestionTask as QuestionTask
    from antiphase.tasks.registry import load_task as load_task
    from antiphase.tasks.verdict import Verdict as Verdict

_HOMES = {
    "Problem": "problem",
    "QuestionTask": "question_task",
    "Split": "problem",
    "Task": "problem",
    "Verdict": "pool",
    "VerifierPool": "pool",
    "extract_answer": "extraction",
    "load_task": "registry",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'antiphase.tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"antiphase.tasks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
