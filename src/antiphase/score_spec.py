"""The options with which the inversion score of a rollout is computed.

`scores` computes the score from entropy and gradient strength. This module only holds and checks the options, and it
imports no torch, so that a wrong option is refused at once.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import METHODS, UNITS, Method, Unit, check_one_of
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS, check_least

Control = Literal["none", "shuffled", "random"]

CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class ScoreSpec:
    """The options with which the score of a rollout is computed.

    The score is −ρ, where ρ is the correlation between entropy and gradient strength over the rollout's items.

    Args:
        method: the kind of correlation, `spearman` or `pearson`.
        unit: what one item is: `token` (a token), `type` (a distinct token id) or `step` (a sentence).
        min_tokens: a rollout with fewer measured tokens or types has no score. This holds for the units `token` and
            `type`.
        min_steps: a rollout with fewer steps has no score. This holds for the unit `step`.
        shrink: the number k in `scores.shrunk`, which moves the scores of short rollouts towards 0. A greater k moves
            them further; 0 leaves them unchanged.
        clip: scores are clipped to [−clip, clip].
        control: an experiment that destroys the information in the score. `none` leaves the score unchanged;
            `shuffled` permutes the items' strengths within each rollout before they are correlated; `random` replaces
            every defined score by a uniform draw from [−clip, clip].
        seed: the seed of the controls' random draws. The draws also depend on the rollout's tokens, so equal rollouts
            have equal draws.

    Raises:
        InvalidInputError: a value is not allowed or out of range.
    """

    method: Method = "spearman"
    unit: Unit = "token"
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS
    shrink: float = 0.0
    clip: float = 1.0
    control: Control = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("inversion_correlation", self.method, METHODS)
        check_one_of("inversion_unit", self.unit, UNITS)
        check_one_of("inversion_control", self.control, CONTROLS)
        check_least("inversion_min_tokens", self.min_tokens)
        check_least("inversion_min_steps", self.min_steps)
        if not (0 <= self.shrink < math.inf):
            raise InvalidInputError(f"inversion_shrink must be 0 or a positive number of items; got {self.shrink}.")
        if not 0 < self.clip <= 1:
            raise InvalidInputError(f"inversion_clip must lie in (0, 1]; got {self.clip}.")

    def least_of(self, unit: Unit) -> int:
        """Return how many items a rollout needs at least, so that its correlation is defined.

        Args:
            unit: what one item is: `token`, `type` or `step`.
        """
        return self.min_steps if unit == "step" else self.min_tokens
