"""Adds the inversion term to the advantages of TRL, for the option `inversion_combine="centered"`."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxtyping import Int
from torch import Tensor

from antiphase.training.host import HostError


def add_to_advantages(
    output: dict[str, Any], logged: Any, term: Tensor, *, process: int, num_processes: int, by_token: bool = False
) -> None:
    """Add a term to the advantages of this process, and to the logged advantages of all processes.

    Args:
        output: the batch, as TRL's `_generate_and_score_completions` returned it. Its entry `advantages` is replaced.
        logged: TRL's log, which holds the advantages of the latest rollouts of all processes. It is changed in place.
        term: the term of each rollout of all processes.
        process: index of this process.
        num_processes: number of processes.
        by_token: True if TRL has an advantage for each token, `[rollout, token]`. The term is then added only at the
            tokens that are trained on. False if TRL has one advantage for each rollout, `[rollout]`.

    Raises:
        HostError: the advantages do not have the shape that `by_token` says, or `term` does not have one number for
            each rollout.
    """
    advantages = output["advantages"]
    size = len(advantages)
    if advantages.dim() != 1 + by_token or len(term) != size * num_processes:
        raise HostError(
            f"TRL's advantages have shape {tuple(advantages.shape)} for {len(term)} rollouts; expected one advantage "
            f"for each {'token' if by_token else 'rollout'}."
        )
    own = term[process * size : (process + 1) * size].to(advantages)
    output["advantages"] = advantages + (own[:, None] * trained_tokens(output) if by_token else own)
    latest = list(logged)
    # TRL keeps only the latest rows, which may be fewer than this batch has.
    added = term.tolist()[-len(latest) :]
    log_advantages(logged, [a + b for a, b in zip(latest[len(latest) - len(added) :], added, strict=True)])


def trained_tokens(output: Mapping[str, Any]) -> Int[Tensor, "rollout token"]:
    """Return a tensor that is 1 at completion tokens that are trained on, and 0 at tokens of tools and at padding.

    Args:
        output: what TRL's `_generate_and_score_completions` returned.
    """
    return cast(Tensor, output["completion_mask"] * output.get("tool_mask", 1))


def log_advantages(logged: Any, values: Sequence[float]) -> None:
    """Replace the advantages that TRL logged for the latest batch.

    Args:
        logged: TRL's log of advantages. Its last entries belong to the latest batch; they are replaced in place.
        values: the new advantages, one for each rollout of the batch.
    """
    kept = list(logged)[: max(0, len(logged) - len(values))]
    logged.clear()
    logged.extend([*kept, *values])
