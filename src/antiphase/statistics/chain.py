"""Correlations that test why entropy and gradient strength are related: the paper's chain, and controls.

The paper's appendix D explains the relation by a chain, H ↓ → z_y ↑ → ‖h‖ ↑ → I ↑. A token with low entropy H has a
large logit z_y. A large logit needs a large hidden state h, because z_y = w_y·h ≤ ‖w_y‖ ‖h‖. A large hidden state
makes large weight gradients, whose norm is the strength I. Each arrow is a link, and its correlation is measured over
tokens.

A control is another series, such as the token's position, that might explain the correlation of entropy and strength.
docs/method.md explains both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import Unit
from antiphase.statistics.estimate import number_or_none
from antiphase.statistics.partial_correlation import Joint
from antiphase.statistics.resampling import MIN_PROMPTS
from antiphase.types import Correlation

Expected = Literal["negative", "positive", "none"]
Verdict = Literal["as the paper says", "opposite", "undecided", "related"]

# Each link: its name, its two series, and the sign that the paper's argument needs. The argument assumes that ‖w_y‖ is
# constant.
_LINKS: tuple[tuple[str, str, str, Expected], ...] = (
    ("entropy–logit", "entropy", "logit", "negative"),
    ("logit–hidden", "logit", "hidden_norm", "positive"),
    ("hidden–strength", "hidden_norm", "strength", "positive"),
    ("logit–hidden_before", "logit", "hidden_norm_before", "positive"),
    ("hidden_before–strength", "hidden_norm_before", "strength", "positive"),
    ("unembedding–strength", "unembedding_norm", "strength", "none"),
    ("unembedding–entropy", "unembedding_norm", "entropy", "none"),
)
# The name of each control in the results, and the column that holds it.
_CONTROLS = {
    "logprob": "logprob_control",
    "unembedding_norm": "unembedding_norm",
    "position": "position",
    "frequency": "frequency",
}
# The controls that were added later. They are correlated apart from those above, whose numbers therefore stay bitwise
# what they were.
LATER_CONTROLS = ("surprisal", "impurity", "attention_entropy")


@dataclass(frozen=True)
class Link:
    """One link of the paper's chain from entropy to gradient strength, with its measured correlation.

    The chain explains why entropy and strength are related: low entropy goes with a large logit, a large logit with a
    large hidden state, and a large hidden state with a large gradient.

    Args:
        name: the name of the link, such as `entropy–logit`.
        x, y: the names of the columns that hold the two correlated series.
        expected: the sign of the correlation that the paper's argument needs; `none` if the argument needs none.
        correlation: the correlation over all tokens. Its interval treats the prompts as a random sample.
        num_prompts: the number of prompts that the tokens come from; None if it is unknown.
    """

    name: str
    x: str
    y: str
    expected: Expected
    correlation: Correlation
    num_prompts: int | None = None

    @property
    def verdict(self) -> Verdict:
        """Return what the interval says about the expected sign.

        The verdict is `undecided` if the interval contains 0 or is undefined, or if there are fewer than 4 prompts.
        If the interval excludes 0, the verdict is `as the paper says` or `opposite`, or `related` if no sign is
        expected.
        """
        low, high = self.correlation.low, self.correlation.high
        few = self.num_prompts is not None and self.num_prompts < MIN_PROMPTS
        if few or math.isnan(low) or math.isnan(high) or low <= 0 <= high:
            return "undecided"
        if self.expected == "none":
            return "related"
        return "as the paper says" if (low > 0) == (self.expected == "positive") else "opposite"

    def as_dict(self) -> dict[str, Any]:
        """Return the values of the link for JSON; NaN becomes None."""
        return {
            "link": self.name,
            "x": self.x,
            "y": self.y,
            **interval_dict(self.correlation),
            "expected": self.expected,
            "verdict": self.verdict,
        }


def interval_dict(correlation: Correlation) -> dict[str, float | None]:
    """Return the `value`, `low` and `high` of a correlation for JSON; NaN becomes None."""
    return {name: number_or_none(getattr(correlation, name)) for name in ("value", "low", "high")}


def frequency(token_ids: Int[Tensor, "token"]) -> Int[Tensor, "token"]:
    """Count, for each token, how many of the tokens have the same id.

    >>> import torch
    >>> frequency(torch.tensor([7, 3, 7])).tolist()
    [2, 1, 2]
    """
    _, place, count = token_ids.unique(return_inverse=True, return_counts=True)
    occurrences: Tensor = count[place]
    return occurrences


class _Columns:
    """Computes correlations between named columns, all over the same tokens and the same resamples of prompts.

    A column has one value for each token. A column that is missing or all NaN is left out. A token is used if it has a
    value in all remaining columns.
    """

    def __init__(self, columns: Mapping[str, Tensor], wanted: Sequence[str], clusters: Tensor, **options: Any) -> None:
        for name in ("entropy", "strength"):
            if name not in columns:
                raise InvalidInputError(f"columns must hold {name!r}; got {', '.join(columns)}.")
        self.least = options.pop("min_tokens")
        present = [name for name in wanted if name in columns and not bool(columns[name].isnan().all())]
        self.place = {name: index for index, name in enumerate(present)}
        self.joint = Joint.of([columns[name] for name in present], clusters, **options) if present else None

    def correlation(self, x: str, y: str, given: Sequence[str] = ()) -> Correlation:
        """Return the correlation of columns x and y with the columns `given` held fixed.

        The correlation is NaN if one of these columns was left out.
        """
        if self.joint is None or not {x, y, *given} <= self.place.keys():
            return Correlation(math.nan, math.nan, math.nan, 0, math.nan, "spearman", 0.95)
        return self.joint.correlation(
            self.place[x], self.place[y], [self.place[name] for name in given], min_tokens=self.least
        )


def chain_links(
    columns: Mapping[str, Tensor],
    clusters: Int[Tensor, "token"],
    *,
    unit: Unit = "token",
    token_ids: Int[Tensor, "token"] | None = None,
    min_tokens: int | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Link, ...]:
    """Compute the rank correlation of every link of the paper's chain.

    All links use the same tokens and the same resamples of prompts.

    Args:
        columns: `entropy`, `strength`, `logit`, `hidden_norm`, `hidden_norm_before` and `unembedding_norm`, with one
            value for each token. If a column is missing or all NaN, its links are undefined. A token is used if it has
            a value in all of the remaining columns.
        clusters: the prompt that each token belongs to.
        unit: what a pair of values belongs to: `token` (the unit of the paper's argument) or `type` (a distinct token
            id; every column is first averaged over the tokens of each type).
        token_ids: the id of each token, which the unit `type` needs.
        min_tokens: with fewer tokens or types, every link is undefined. None means the default of the unit.
        num_resamples: the number of resamples of prompts.
        seed: seed of the random generator that draws the resamples.

    Returns:
        The links of the chain, in the order of the paper's argument. Then come the links of the hidden state before
        the last norm, and the links of ‖w_y‖, the norm of the token's row in the output embedding.

    Raises:
        InvalidInputError: the column `entropy` or `strength` is missing, or the shapes differ.
    """
    wanted = list(dict.fromkeys(series for _, x, y, _ in _LINKS for series in (x, y)))
    joint = _Columns(
        columns,
        wanted,
        clusters,
        unit=unit,
        token_ids=token_ids,
        min_tokens=min_tokens,
        num_resamples=num_resamples,
        seed=seed,
    )
    num_prompts = joint.joint.resampler.num_clusters if joint.joint is not None else 0
    return tuple(Link(name, x, y, expected, joint.correlation(x, y), num_prompts) for name, x, y, expected in _LINKS)


def controls(
    columns: Mapping[str, Tensor],
    clusters: Int[Tensor, "token"],
    token_ids: Int[Tensor, "token"],
    *,
    unit: Unit = "token",
    min_tokens: int | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Correlate each control with entropy and with strength.

    A control is another number that each token has, such as its position. It might explain why entropy and strength
    are correlated. So the correlation of entropy and strength is also computed with the control held fixed.

    Args:
        columns: `entropy`, `strength`, `logprob_control`, `unembedding_norm` and `position`, with one value for each
            token. There may also be `surprisal` (−ln p of the token), `impurity` (1 − Σ p²) and `attention_entropy`.
            If a column is missing or all NaN, its correlations are undefined.
        clusters: the prompt that each token belongs to.
        token_ids: the id of each token. The frequency of the id among all tokens is one of the controls.
        unit: what a pair of values belongs to: `token` or `type` (a distinct token id).
        min_tokens: with fewer tokens or types, every correlation is undefined. None means the default of the unit.
        num_resamples: the number of resamples of prompts.
        seed: seed of the random generator that draws the resamples.

    Returns:
        Values for JSON, with an entry for each control. The controls are `logprob`, `unembedding_norm`, `position`,
        `frequency`, and each of `surprisal`, `impurity` and `attention_entropy` that the columns hold. An entry has
        three rank correlations, each with `value`, `low` and `high`. `entropy` and `strength` are the correlations of
        the control with these two series, and `partial` is the correlation of entropy and strength with the control
        held fixed. A last entry `together` has only `partial`, with `unembedding_norm`, `position` and `frequency` all
        held fixed.

        The controls `logprob`, `surprisal` and `impurity` are computed from the same distribution as the entropy and
        rise with it by construction. Their `partial` therefore says little.
    """
    with_frequency = {**columns, "frequency": frequency(token_ids).double()}
    options = {"unit": unit, "token_ids": token_ids, "num_resamples": num_resamples, "seed": seed}

    def together(wanted: Sequence[str]) -> _Columns:
        both = ["entropy", "strength", *wanted]
        return _Columns(with_frequency, both, clusters, min_tokens=min_tokens, **options)

    joint = together(list(_CONTROLS.values()))
    found = {name: _of_control(joint, column) for name, column in _CONTROLS.items()}
    held = [column for name, column in _CONTROLS.items() if name != "logprob" and column in joint.place]
    found["together"] = {"partial": interval_dict(joint.correlation("entropy", "strength", held))}
    later = [name for name in LATER_CONTROLS if name in columns]
    if later:
        joint = together(later)
        found |= {name: _of_control(joint, name) for name in later}
    return found


def _of_control(joint: _Columns, column: str) -> dict[str, dict[str, float | None]]:
    """Return the three correlations of one control, as `controls` describes them."""
    return {
        "entropy": interval_dict(joint.correlation(column, "entropy")),
        "strength": interval_dict(joint.correlation(column, "strength")),
        "partial": interval_dict(joint.correlation("entropy", "strength", [column])),
    }
