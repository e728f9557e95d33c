"""Check the arguments of an evaluation, as far as that is possible without a model.

`evaluate` begins with these checks. This module does not import torch and pandas, so the command line can make the
checks before it imports these slow packages. A user then learns of a wrong option, an unknown task or a missing file
at once.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.evaluation.evaluation_config import EvalConfig, num_samples
from antiphase.evaluation.matched_rollouts import GivenCompletion, given_digest, load_given
from antiphase.evaluation.plan import TaskPlan, check_distinct, plan_tasks
from antiphase.runs.folder_kinds import EVALUATION
from antiphase.runs.model_choice import weights_digests
from antiphase.runs.run_config import config_from
from antiphase.runs.run_request import Outputs, RunRequest, stored_draws, with_rollouts
from antiphase.tasks.own_task import code_digests, recorded_code
from antiphase.tasks.verdict import VERDICT_RULES


@dataclass(frozen=True)
class EvalRequest(RunRequest):
    """The checked arguments of an evaluation. All later errors come from the models.

    Args:
        config: all options.
        outputs: what the evaluation writes, and where.
        plans: the tasks with their problems. If rollouts are given, these are only the problems that they answer.
        matched: the given rollouts of each task; None if completions are generated.
    """

    config: EvalConfig
    outputs: Outputs
    plans: list[TaskPlan]
    matched: list[tuple[TaskPlan, list[GivenCompletion]]] | None

    @functools.cached_property
    def identities(self) -> list[dict[str, Any]]:
        """For each task, the values that must be the same in two results to compare them; see `TaskPlan.identity`."""
        return [plan.identity(self.config) for plan in self.plans]

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """The content of config.json. A run can be continued only with the same values."""
        return {
            **self.config.to_dict(),
            **recorded_code(code_digests(plan.task for plan in self.plans)),
            "identities": self.identities,
            "verdict_rules": VERDICT_RULES,
            "weights_sha256": weights_digests(self.config.models, self.config.adapter),
            "given_sha256": None if self.matched is None else given_digest(self.matched),
            **stored_draws(self.config, samples=any(num_samples(entry) > 0 for entry in self.config.entries())),
        }


def eval_request(
    models: str | Path | Sequence[str | Path],
    *,
    rollouts: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    figures: bool | None = None,
    report: bool = True,
    **options: Any,
) -> EvalRequest:
    """Check the arguments of `evaluate`, and return them as a request. `evaluate` explains the arguments.

    Raises:
        InvalidInputError: an option, a task, the given rollouts or the folder cannot be used.
        MissingExtraError: a package that figures or a task need is not installed.
    """
    options, in_memory = with_rollouts(options, rollouts)
    given = options.get("rollouts") if in_memory is None else in_memory
    config = config_from(models, options, EvalConfig)
    outputs = Outputs.of(out, resume=resume, figures=figures, report=report)
    plans = plan_tasks(config)
    check_distinct(plans)
    matched = None if given is None else load_given(given, plans)
    if matched is not None:
        plans = [plan for plan, _ in matched]
    request = EvalRequest(config, outputs, plans, matched)
    outputs.check(EVALUATION, request.stored)
    return request
