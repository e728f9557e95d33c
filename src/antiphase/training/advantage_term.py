"""Adds the inversion term to the advantages of TRL, for the option `inversion_combine="centered"`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from antiphase.training.host import HostError


def add_to_advantages(
    output: dict[str, Any], logged: Any, term: Tensor, *, process: int, num_processes: int, by_token: bool = False
) -> None:
    """Add a term to the advantages of this process, and to the logged advantages of all processes.

    Args:
        output: the batch, as TRL's `_generate_and_score_completions` returned it. Its entry `advantages` is replaced.
        logged: TRL's log of advantages, which keeps the latest ones; it is changed in place.
        term: the number to add for each rollout of all processes.
        process: index of this process.
        num_processes: number of processes.
        by_token: True if there is an advantage for each token, `[rollout, token]`; False if there is one for each
            rollout, `[rollout]`.

    Raises:
        HostError: the advantages do not have this shape, or `term` does not have one number for each rollout.
    """
    advantages = output["advantages"]
    size = len(advantages)
    if advantages.dim() != 1 + by_token or len(term) != size * num_processes:
        raise HostError(
            f"TRL's advantages have shape {tuple(advantages.shape)} for {len(term)} rollouts; expected one advantage "
            f"for each {'token' if by_token else 'rollout'}."
        )
    own = term[process * size : (process + 1) * size].to(advantages)
    output["advantages"] = advantages + (own[:, None] if by_token else own)
    latest = list(logged)
    # TRL keeps only the latest rows, which may be fewer than this batch has.
    added = term.tolist()[-len(latest) :]
    log_advantages(logged, [a + b for a, b in zip(latest[len(latest) - len(added) :], added, strict=True)])


def log_advantages(logged: Any, values: Sequence[float]) -> None:
    """Put the advantages of the latest batch in the place of those in TRL's log, which is changed in place."""
    kept = list(logged)[: max(0, len(logged) - len(values))]
    logged.clear()
    logged.extend([*kept, *values])
