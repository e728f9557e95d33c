"""The speed of a machine for each kind of work in `model_shape.Counts`. `H100` holds the speeds of an H100 GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from antiphase.training.model_shape import Counts


@dataclass(frozen=True)
class Device:
    """The speed of a machine for each kind of work in `Counts`.

    Args:
        name: the name of the machine.
        gpu: True for a GPU, False for a CPU. A GPU is assumed to have fast matrix products in float64.
        products: speed of matrix products in the dtype of the weights, in operations a second.
        wide: speed of matrix products in float64, in operations a second.
        solver: speed of QR and eigenvalue solvers in float64 on a CPU, in operations a second.
        column: time that a GPU needs for one column of a QR decomposition, in seconds.
        bandwidth: speed of reading and writing memory, in bytes a second.
        launch: time that the CPU needs to start one kernel, in seconds.
        memory: size of the memory, in bytes.
        links: speeds of the exchange of data between GPUs, in bytes a second. The first is within a node, the second
            between nodes.
        token_floor: shortest time in which an inference engine makes one token of every rollout, in seconds.
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
        """Return the seconds that some phases of work take, one phase after another.

        A phase has two times: the time to start its kernels, and the time of their work. A GPU works while the CPU
        starts further kernels, so the longer time is taken. On a CPU, the two times are added. The time for the
        columns of QR decompositions is added to the result.
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
