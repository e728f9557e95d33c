"""How fast a machine does the work that `model_shape.Counts` names, with the rates of an H100."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from antiphase.training.model_shape import Counts


@dataclass(frozen=True)
class Device:
    """How fast a machine does the work that `Counts` names.

    Args:
        name: its name.
        gpu: True for a GPU, False for a CPU. A GPU is assumed to have fast products in float64.
        products: operations a second of matrix products in the dtype of the weights.
        wide: operations a second of matrix products in float64.
        solver: operations a second of float64 solvers; only for a CPU.
        column: seconds for one column of a QR decomposition; only for a GPU.
        bandwidth: bytes a second that are read or written.
        launch: seconds in which the CPU starts a kernel.
        memory: bytes of memory.
        links: bytes a second that a GPU exchanges with others in its node, and with other nodes.
        token_floor: the shortest time, in seconds, of one step of an inference engine. A step makes one token of
            every rollout.
    """

    name: str
    gpu: bool
    products: float
    wide: float
    solver: float
    column: float
    bandwidth: float
    launch: float
    memory: float = 80e9
    links: tuple[float, float] = (math.inf, math.inf)
    token_floor: float = 0.0

    def seconds(self, phases: Sequence[Counts]) -> float:
        """Return the time of some phases that follow one another.

        A GPU works while the CPU starts its kernels, so the slower of the two counts. On a CPU, both are added.
        """
        total = 0.0
        for part in phases:
            starting = part.calls * self.launch
            work = (
                part.products / self.products
                + part.wide / self.wide
                + part.solver / self.solver
                + part.bytes / self.bandwidth
            )
            total += (max(starting, work) if self.gpu else starting + work) + part.columns * self.column
        return total


# The rates are those that fit the stored measurements (benchmarks/scale.py); the links and the floor are assumptions.
H100 = Device(
    "NVIDIA H100 80GB SXM",
    gpu=True,
    products=6.0e14,
    wide=2.8e13,
    solver=math.inf,
    column=6e-6,
    bandwidth=2.3e12,
    launch=3.0e-5,
    memory=80e9,
    links=(3.0e11, 4.0e10),
    token_floor=5e-3,
)
