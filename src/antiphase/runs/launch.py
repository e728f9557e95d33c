"""Find out from the environment whether a launcher started several processes, and which of them this process is.

torchrun, `accelerate launch` and similar launchers start the same command in several processes and set environment
variables. The module `team` lets these processes share one run. This module imports no torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from antiphase.errors import InvalidInputError

_LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_LOCAL_SIZE = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


@dataclass(frozen=True)
class Launch:
    """The place of this process among the processes that a launcher started together.

    Args:
        rank: the number of this process, from 0.
        size: the number of processes on all machines.
        local_rank: the number of this process among those of its machine, from 0.
        local_size: the number of processes of this machine.
        address: the host and the port at which process 0 or its launcher can be reached; None for a single process.
        attempt: how often the launcher has started the processes again after a failure.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: tuple[str, int] | None = None
    attempt: str = "0"

    @property
    def several(self) -> bool:
        """Whether a launcher started more than one process."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this is process 0, the one that makes the run folder, the summary and the page."""
        return self.rank == 0

    def refuse(self, what: str, instead: str) -> None:
        """Raise an error if several processes were started for something that works in one process only.

        Args:
            what: what works in one process only; the message begins with this text.
            instead: a sentence that says what the user can do.

        Raises:
            InvalidInputError: there is more than one process.
        """
        if self.several:
            raise InvalidInputError(
                f"{what} works in one process only, but a launcher started {self.size} processes "
                f"(WORLD_SIZE={self.size}). {instead}"
            )


def launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Read the place of this process from the environment variables of a launcher.

    Args:
        environment: the environment variables; None reads those of this process.

    Raises:
        InvalidInputError: a variable that several processes need is missing, or is no number; or torchrun is allowed
            to restart the processes of several machines.

    >>> launch({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0",
    ...         "MASTER_PORT": "29500"}).local_rank
    1
    >>> launch({}).several
    False
    """
    known = os.environ if environment is None else environment
    if not known.get("RANK") or not known.get("WORLD_SIZE") or known["WORLD_SIZE"] == "1":
        return Launch()
    local = next((name for name in _LOCAL_RANK if known.get(name)), _LOCAL_RANK[0])
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", local) if not known.get(name)]
    if missing:
        raise InvalidInputError(
            f"RANK and WORLD_SIZE say that a launcher started {known['WORLD_SIZE']} processes, but {missing[0]} is "
            "not set. Start the command with torchrun, or set this variable. For one process, unset RANK and "
            "WORLD_SIZE."
        )
    size = _number(known, "WORLD_SIZE")
    # The torchrun of each machine counts its own restarts, so the processes could not agree on their attempt.
    if known.get("GROUP_WORLD_SIZE", "1") != "1" and known.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise InvalidInputError(
            f"torchrun --max-restarts {known['TORCHELASTIC_MAX_RESTARTS']} works on one machine only, but there are "
            f"{known['GROUP_WORLD_SIZE']} machines. Leave --max-restarts out, and let the scheduler repeat the "
            "command with --resume."
        )
    local_size = next((_number(known, name) for name in _LOCAL_SIZE if known.get(name)), size)
    address = known["MASTER_ADDR"], _number(known, "MASTER_PORT")
    attempt = known.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Launch(_number(known, "RANK"), size, _number(known, local), local_size, address, attempt)


def _number(known: Mapping[str, str], name: str) -> int:
    if not known[name].isdecimal():
        raise InvalidInputError(f"the environment variable {name} must be a whole number; got {known[name]!r}.")
    return int(known[name])
