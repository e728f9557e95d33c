"""What the items of a correlation are: tokens, types or steps, of the thought, of the answer or of both.

Imports no torch; the statistics are in `units`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antiphase.signal_spec import SEGMENTS, STEP_STRENGTHS, UNITS, Segment, Unit, check_one_of
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS, check_least
from antiphase.steps.splitter import DEFAULT_SPLITTER, Splitter
from antiphase.steps.thoughts import TAGS, thought_tags

# The paper's fingerprint is over unique tokens.
DEFAULT_UNIT: Unit = "type"
# What a run did whose config.json was written before the options existed.
BEFORE_UNITS: Mapping[str, Any] = {
    "unit": "token", "splitter": None, "step_strength": "mean", "min_steps": MIN_STEPS, "segment": "all"
}  # fmt: skip


@dataclass(frozen=True)
class UnitSpec:
    """What is correlated.

    Args:
        headline: the unit whose ρ stands for the run where one number is asked for.
        splitter: where steps end.
        min_tokens: a correlation needs at least so many tokens, or types.
        min_steps: a correlation needs at least so many steps.
        segment: which tokens of a rollout are correlated: those of its `thought`, of its `answer`, or `all`.
        tags: what opens and what closes a thought.
    """

    headline: Unit = DEFAULT_UNIT
    splitter: Splitter = Splitter()
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS
    segment: Segment = "all"
    tags: tuple[tuple[str, str], ...] = TAGS

    @classmethod
    def of(cls, config: Any) -> "UnitSpec":
        """What a config correlates that has the fields of `UnitOptions`.

        Raises:
            InvalidInputError: an unknown unit, splitter or segment, or a least number that is too small.
        """
        check_one_of("unit", config.unit, UNITS)
        check_one_of("step_strength", config.step_strength, STEP_STRENGTHS)
        check_one_of("segment", config.segment, SEGMENTS)
        check_least("min_tokens", config.min_tokens)
        check_least("min_steps", config.min_steps)
        splitter = Splitter.parse(config.splitter or DEFAULT_SPLITTER)
        tags = thought_tags(config.think_tags)
        return cls(config.unit, splitter, config.min_tokens, config.min_steps, config.segment, tags)

    def least(self, unit: Unit) -> int:
        """How many items of a unit a correlation needs at least."""
        return self.min_steps if unit == "step" else self.min_tokens
