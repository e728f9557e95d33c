"""The random reward: 1 or 0 for each completion, drawn without reading it (spurious rewards, arXiv 2506.10947).

A training with this reward is a control. If the accuracy rises in the control too, then the same rise in a training
with another reward does not show that the other reward taught the model anything.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from antiphase.errors import InvalidInputError


def seeded(seed: int, step: int, call: int) -> torch.Generator:
    """Return a random generator on the CPU whose draws depend only on the three arguments.

    Args:
        seed: seed of the training.
        step: number of optimizer steps done.
        call: number of earlier draws of the caller at this step.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{call}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class RandomReward:
    """Reward of 1 with probability γ, else 0, whatever the completion says.

    The draw for a rollout depends only on four numbers: the seed, the optimizer step, the number of earlier calls at
    this step, and the index of the rollout in the batch of all processes. So a resumed training draws the same
    rewards, with any number of processes. The exception is a step at which TRL also runs an evaluation, because the
    evaluation calls this function too. If a training is resumed at this step, the number of earlier calls may differ,
    and the training may draw other rewards.

    >>> coin = RandomReward(0.5, seed=1)
    >>> first, again = coin(["right"] * 6), RandomReward(0.5, seed=1)(["wrong"] * 6)
    >>> first == again, coin(["right"] * 6) == first
    (True, False)

    Args:
        probability: γ, above 0 and below 1; the paper's main run has 0.5.
        seed: seed of the random generator.

    Raises:
        InvalidInputError: γ is 0 or less, or 1 or more. With 0 or 1, all rewards of every group would be equal.
    """

    __name__ = "random"

    def __init__(self, probability: float = 0.5, seed: int = 0) -> None:
        if not 0 < probability < 1:
            raise InvalidInputError(
                f"the probability of the reward 'random' must be above 0 and below 1; got {probability}."
            )
        self.probability, self.seed = probability, seed
        # The optimizer step of the latest call, and the number of calls at this step before it.
        self._place = (-1, 0)

    def __call__(self, completions: Sequence[Any], trainer_state: Any = None, **_: Any) -> list[float]:
        """Return a random 1 or 0 for each completion of this process."""
        from accelerate import PartialState

        step = 0 if trainer_state is None else int(trainer_state.global_step)
        self._place = (step, self._place[1] + 1 if self._place[0] == step else 0)
        state, count = PartialState(), len(completions)
        coins = torch.rand(state.num_processes * count, generator=seeded(self.seed, *self._place))
        first = state.process_index * count
        return (coins[first : first + count] < self.probability).double().tolist()
