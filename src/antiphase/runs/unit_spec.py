"""What the items of a correlation are: tokens, types or steps. Imports no torch; the statistics are in `units`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from antiphase.signal_spec import STEP_STRENGTHS, UNITS, Unit, check_one_of
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS, check_least
from antiphase.steps.splitter import DEFAULT_SPLITTER, Splitter

# The paper's fingerprint is over unique tokens.
DEFAULT_UNIT: Unit = "type"
# What a run did whose config is older than the options.
BEFORE_UNITS: Mapping[str, Any] = {"unit": "token", "splitter": None, "step_strength": "mean", "min_steps": MIN_STEPS}


class UnitOptions(Protocol):
    """The fields of a config that say what is correlated."""

    unit: str
    splitter: str
    step_strength: str
    min_tokens: int
    min_steps: int


@dataclass(frozen=True)
class UnitSpec:
    """What is correlated.

    Args:
        headline: the unit whose ρ stands for a run where one number is asked for.
        splitter: where steps end.
        min_tokens: the fewest tokens, or types, of which a correlation is defined.
        min_steps: the fewest steps.
    """

    headline: Unit = DEFAULT_UNIT
    splitter: Splitter = Splitter()
    min_tokens: int = MIN_TOKENS
    min_steps: int = MIN_STEPS

    @classmethod
    def of(cls, config: Any) -> "UnitSpec":
        """Of a config that has the fields of `UnitOptions`.

        Raises:
            InvalidInputError: an unknown unit or splitter, or a least number that is too small.
        """
        options: UnitOptions = config
        check_one_of("unit", options.unit, UNITS)
        check_one_of("step_strength", options.step_strength, STEP_STRENGTHS)
        check_least("min_tokens", options.min_tokens)
        check_least("min_steps", options.min_steps)
        splitter = Splitter.parse(options.splitter or DEFAULT_SPLITTER)
        return cls(cast(Unit, options.unit), splitter, options.min_tokens, options.min_steps)

    def least(self, unit: Unit) -> int:
        """The fewest items of a unit of which a correlation is defined."""
        return self.min_steps if unit == "step" else self.min_tokens
