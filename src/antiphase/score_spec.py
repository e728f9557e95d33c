"""How the score of a rollout is computed from its signals. Imports no torch; `scores` computes it."""

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
    """How the score of a rollout is computed from its signals.

    Args:
        method: `spearman` or `pearson`.
        unit: what is correlated: the rollout's `token`s, its `type`s (distinct token ids), or its `step`s.
        min_tokens: if the unit is the token or the type, rollouts with fewer measured tokens or types have no score.
        min_steps: if the unit is the step, rollouts with fewer steps have no score.
        shrink: the number k of pseudo-items of the prior that shrinks short rollouts towards 0 (see `shrunk`); 0
            changes nothing.
        clip: scores are clipped to [−clip, clip].
        control: `none`; `shuffled` permutes the items' strengths within each rollout before correlating; `random`
            replaces every defined score by a uniform draw from [−clip, clip].
        seed: seeds the controls, together with the rollout's content, so that equal rollouts have equal draws.

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
        """The least number of items of a given unit with which a rollout has a correlation."""
        return self.min_steps if unit == "step" else self.min_tokens
