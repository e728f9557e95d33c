"""Adds the term of the mode `centered` to the advantages that TRL computed, and to those that it logs."""

from typing import Any

from torch import Tensor

from antiphase.training.host import HostError


def add_to_advantages(output: dict[str, Any], logged: Any, term: Tensor, *, process: int, num_processes: int) -> None:
    """Add a term to the advantages of this process, and to the logged advantages of all processes.

    Args:
        output: what TRL made of the batch; its entry `advantages` is replaced.
        logged: TRL's log of advantages, which keeps the latest ones; it is changed in place.
        term: the number to add for each rollout of all processes.
        process: index of this process.
        num_processes: number of processes.

    Raises:
        HostError: TRL has not one advantage for each rollout.
    """
    advantages = output["advantages"]
    size = len(advantages)
    if advantages.shape != (size,) or len(term) != size * num_processes:
        raise HostError(
            f"TRL's advantages have shape {tuple(advantages.shape)} for {len(term)} rollouts; expected one each."
        )
    first = process * size
    output["advantages"] = advantages + term[first : first + size].to(advantages)
    latest = list(logged)
    # TRL keeps only the latest rows, which may be fewer than this batch has.
    added = term.tolist()[-len(latest) :]
    for place, value in enumerate(added, start=len(latest) - len(added)):
        latest[place] += value
    logged.clear()
    logged.extend(latest)
