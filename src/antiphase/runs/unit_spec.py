"""The options that say what is correlated: tokens, types or steps, of the thought, of the answer or of both.

A unit is what one item of a correlation is: `token` is a position, `type` a distinct token id, `step` a sentence or
another part of a rollout. This module imports no torch; the statistics are in `units`.
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
# The values of options in effect in a run whose config.json is older than these options.
BEFORE_UNITS: Mapping[str, Any] = {
    "unit": "token", "splitter": None, "step_strength": "mean", "min_steps": MIN_STEPS, "segment": "all"
}  # fmt: skip


@dataclass(frozen=True)
class UnitSpec:
    """The options that say what is correlated: tokens, types or steps, and of which part of a rollout.

    Args:
        headline: the unit of the ρ that is shown if there is room for one number only.
        splitter: the rule that says where steps end.
        min_tokens: the least number of tokens, or of types, that a correlation needs.
        min_steps: the least number of steps that a correlation needs.
        segment: which tokens of a rollout are correlated: those of its `thought`, those of its `answer`, or `all`.
        tags: pairs of an opening and a closing tag of a thought.
    """

    headline: Unit = DEFAULT_UNIT
    splitter: Splitter = Splitter()
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS
    segment: Segment = "all"
    tags: tuple[tuple[str, str], ...] = TAGS

    @classmethod
    def of(cls, config: Any) -> "UnitSpec":
        """Return the options that say what is correlated, taken from a config and checked.

        Args:
            config: a `RunConfig`, or any object with its fields `unit`, `splitter`, `step_strength`, `segment`,
                `min_tokens`, `min_steps` and `think_tags`.

        Raises:
            InvalidInputError: a unit, splitter, step strength or segment is unknown, or `min_tokens` or `min_steps`
                is below 3.
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
        """Return how many items of a unit (tokens, types or steps) a correlation needs at least."""
        return self.min_steps if unit == "step" else self.min_tokens
