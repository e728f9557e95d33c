"""Read from a summary the correlations that the page shows: ρ over each unit, the chain and the controls.

ρ is the correlation of entropy and gradient strength. The units are tokens, types and steps. The chain is the
correlations along the paper's argument from entropy to strength (docs/metrics.md). An old summary has no units: it
holds ρ only over tokens and types, under other names. This module computes nothing. If a summary lacks a number, the
page says so.
"""

from collections.abc import Mapping
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import PARTS

ENDS = ("value", "low", "high")
NOTHING: Mapping[str, None] = dict.fromkeys(ENDS)
# The order of the units on the page.
ORDER = ("type", "token", "step")
_NESTED = ("given", "windows", "with_length")
_COUNTS = ("num_items", "num_undefined")


def units_of(model: Any, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Read the correlations of a result, and check that each of them is a number.

    These entries are returned (docs/metrics.md explains the numbers):

    * `headline`: the unit whose ρ is shown first.
    * `units`: for each unit, in the order type, token, step: `value, low, high, num_items, num_undefined, within`,
      `subsampling_error` if it is known, and for steps also `given, windows, with_length`.
    * `segment`: which tokens are correlated: `all`, `thought` or `answer`.
    * `segments`: the `units` of the thought and those of the answer; empty without thoughts.
    * `chain`, `controls`: the entries of the summary with these names; empty if they were not measured.

    Args:
        model: the model of the result, for error messages.
        statistics: an entry of `results`, or the `signals` of such an entry.

    Raises:
        InvalidInputError: the result has something other than a number where a number must be, or the headline is not
            one of the units.
    """
    given = statistics.get("units") or _before_units(statistics)
    units = {name: _entry(model, name, given[name]) for name in ORDER if given.get(name) is not None}
    headline = statistics.get("headline") or "token"
    if headline not in units:
        raise _not(model, "headline", f"one of {', '.join(units)}", headline)
    chain = [
        {**_interval(model, f"chain {link['link']}", link), **{key: str(link[key]) for key in _WORDS}}
        for link in statistics.get("chain") or []
    ]
    controls = {
        str(name): {key: _interval(model, f"controls {name} {key}", value) for key, value in control.items()}
        for name, control in (statistics.get("controls") or {}).items()
    }
    return {
        "headline": headline,
        "units": units,
        "segment": str(statistics.get("segment") or "all"),
        "segments": _segments(model, statistics.get("segments") or {}),
        "chain": chain,
        "controls": controls,
    }


_WORDS = ("link", "x", "y", "expected", "verdict")


def headline_entry(reading: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the correlation ρ that is shown first (over the headline unit), with its interval and counts.

    The headline unit is `type`, `token` or `step`. For old runs without units, ρ over tokens is returned.

    Args:
        reading: the numbers of one model and estimator, in the form that `reading_of` returns.
    """
    found: Mapping[str, Any] = reading["units"][reading["headline"]] if "units" in reading else reading["spearman"]
    return found


def _before_units(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return, for an old result, what newer results hold as `units`: the correlation ρ over types and tokens.

    An old result has these numbers under other names.
    """
    token = dict(statistics.get("spearman") or NOTHING)
    token |= {"num_items": statistics.get("num_tokens"), "num_undefined": statistics.get("num_undefined")}
    found = {"token": {**token, "within": statistics.get("spearman_within")}}
    if statistics.get("spearman_unique") is not None:
        items = {"num_items": statistics.get("num_unique_tokens"), "num_undefined": None}
        found["type"] = {**statistics["spearman_unique"], **items}
    return found


def _segments(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the correlation ρ of the thought and that of the answer, over each unit."""
    return {
        part: {name: _entry(model, name, entry["units"][name]) for name in ORDER if entry["units"].get(name)}
        for part, entry in given.items()
        if part in PARTS
    }


def _entry(model: Any, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the correlation ρ over one unit, its interval and counts, after checking that all are numbers."""
    where = f"units {name}"
    found: dict[str, Any] = _interval(model, where, entry)
    for key in _COUNTS:
        found[key] = entry.get(key)
        if not isinstance(found[key], int | None):
            raise _not(model, f"{where} {key}", "a number", found[key])
    if "subsampling_error" in entry:
        error = found["subsampling_error"] = entry["subsampling_error"]
        if not isinstance(error, float | int | None):
            raise _not(model, f"{where} subsampling_error", "a number", error)
    found["within"] = None if entry.get("within") is None else _interval(model, f"{where} within", entry["within"])
    for key in _NESTED:
        if entry.get(key) is not None:
            found[key] = {
                str(part): _interval(model, f"{where} {key} {part}", value) for part, value in entry[key].items()
            }
    return found


def _interval(model: Any, where: str, entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Return only `value`, `low` and `high` of a mapping, after checking that they are numbers or None."""
    found = {end: entry.get(end) for end in ENDS}
    for value in found.values():
        if not isinstance(value, int | float | None):
            raise _not(model, where, "a number", value)
    return found


def _not(model: Any, where: str, what: str, value: Any) -> InvalidInputError:
    """Return the error for a wrong value. `what` says what the value must be, and `where` says where it is."""
    return InvalidInputError(f"the result of {model!r}: {where} must be {what}, got {value!r}.")
