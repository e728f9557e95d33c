"""The paper's chain from entropy to strength, link by link, and the controls beside its correlation (docs/method.md).

Its appendix D argues H ↓ → z_y ↑ → ‖h‖ ↑ → I ↑: a certain token has a large logit, a large logit needs a large hidden
state (z_y = w_y·h ≤ ‖w_y‖ ‖h‖), and a large hidden state makes large weight gradients. Every arrow can be measured,
token by token. A control is a series that might explain the correlation of entropy and strength, since it goes along
with both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from antiphase.errors import InvalidInputError
from antiphase.signal_spec import Unit
from antiphase.statistics.partial_correlation import Joint
from antiphase.statistics.resampling import MIN_PROMPTS
from antiphase.types import Correlation

Expected = Literal["negative", "positive", "none"]
Verdict = Literal["as the paper says", "opposite", "undecided", "related"]

# Name, the two series, and the sign that the paper's argument needs. It takes ‖w_y‖ for a constant.
_LINKS: tuple[tuple[str, str, str, Expected], ...] = (
    ("entropy–logit", "entropy", "logit", "negative"),
    ("logit–hidden", "logit", "hidden_norm", "positive"),
    ("hidden–strength", "hidden_norm", "strength", "positive"),
    ("logit–hidden_before", "logit", "hidden_norm_before", "positive"),
    ("hidden_before–strength", "hidden_norm_before", "strength", "positive"),
    ("unembedding–strength", "unembedding_norm", "strength", "none"),
    ("unembedding–entropy", "unembedding_norm", "entropy", "none"),
)
# Name in the results → column.
_CONTROLS = {
    "logprob": "logprob_control",
    "unembedding_norm": "unembedding_norm",
    "position": "position",
    "frequency": "frequency",
}


@dataclass(frozen=True)
class Link:
    """One arrow of the chain, as measured.

    Args:
        name: of the link, as `entropy–logit`.
        x, y: columns of the two series.
        expected: the sign of their correlation by the paper's argument; `none` for a series that it leaves out.
        correlation: over all tokens, with its interval over prompts.
        num_prompts: that it comes from; None where they were not counted.
    """

    name: str
    x: str
    y: str
    expected: Expected
    correlation: Correlation
    num_prompts: int | None = None

    @property
    def verdict(self) -> Verdict:
        """What the interval says of the expected sign.

        `undecided` where it holds 0 or is undefined, and below 4 prompts. Else `as the paper says` or `opposite`;
        `related` where no sign is expected.
        """
        low, high = self.correlation.low, self.correlation.high
        few = self.num_prompts is not None and self.num_prompts < MIN_PROMPTS
        if few or math.isnan(low) or math.isnan(high) or low <= 0 <= high:
            return "undecided"
        if self.expected == "none":
            return "related"
        return "as the paper says" if (low > 0) == (self.expected == "positive") else "opposite"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, NaN as None."""
        return {
            "link": self.name,
            "x": self.x,
            "y": self.y,
            **interval_dict(self.correlation),
            "expected": self.expected,
            "verdict": self.verdict,
        }


def interval_dict(correlation: Correlation) -> dict[str, float | None]:
    """`value, low, high`, with None for NaN."""
    triple = {"value": correlation.value, "low": correlation.low, "high": correlation.high}
    return {key: None if math.isnan(value) else value for key, value in triple.items()}


def frequency(token_ids: Int[Tensor, "token"]) -> Int[Tensor, "token"]:
    """How often each token's id occurs among all of them.

    >>> import torch
    >>> frequency(torch.tensor([7, 3, 7])).tolist()
    [2, 1, 2]
    """
    _, place, count = token_ids.unique(return_inverse=True, return_counts=True)
    occurrences: Tensor = count[place]
    return occurrences


class _Columns:
    """The series that hold a value somewhere, ranked and resampled together over the tokens where all of them do."""

    def __init__(self, columns: Mapping[str, Tensor], wanted: Sequence[str], clusters: Tensor, **options: Any) -> None:
        for name in ("entropy", "strength"):
            if name not in columns:
                raise InvalidInputError(f"columns must hold {name!r}; got {', '.join(columns)}.")
        self.least = options.pop("min_tokens")
        present = [name for name in wanted if name in columns and not bool(columns[name].isnan().all())]
        self.place = {name: index for index, name in enumerate(present)}
        self.joint = Joint.of([columns[name] for name in present], clusters, **options) if present else None

    def correlation(self, x: str, y: str, given: Sequence[str] = ()) -> Correlation:
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
    """The rank correlation of every link of the chain, over the same tokens and the same resamples of prompts.

    Args:
        columns: `entropy`, `strength`, `logit`, `hidden_norm`, `hidden_norm_before`, `unembedding_norm`, one value a
            token. A token counts where every column that holds any value holds one; a column that is missing or all
            NaN makes its links undefined.
        clusters: the prompt that each token belongs to.
        unit, token_ids: as for `pooled_correlation`; the paper argues token by token.
        min_tokens, num_resamples, seed: as for `pooled_correlation`.

    Returns:
        the links in the order of the argument; then those of the state before the last norm, and of ‖w_y‖.

    Raises:
        InvalidInputError: no entropy or strength, or shapes differ.
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
    """What goes along with entropy and strength, and what is left of their correlation without it, JSON-ready.

    Args:
        columns: `entropy`, `strength`, `logprob_control`, `unembedding_norm`, `position`, as for `chain_links`.
        clusters: the prompt that each token belongs to.
        token_ids: of the tokens: their frequency in the run is a control.
        unit, min_tokens, num_resamples, seed: as for `chain_links`.

    Returns:
        under `logprob`, `unembedding_norm`, `position` and `frequency`: `entropy` and `strength`, the control's rank
        correlation with each, and `partial`, that of entropy and strength with the control held fixed; under
        `together` that with the last three held fixed. Each holds `value, low, high`.

        `logprob` is a function of the same distribution as the entropy and rises with it by construction: what is left
        of ρ beside it says little.
    """
    with_frequency = {**columns, "frequency": frequency(token_ids).double()}
    joint = _Columns(
        with_frequency,
        ["entropy", "strength", *_CONTROLS.values()],
        clusters,
        unit=unit,
        token_ids=token_ids,
        min_tokens=min_tokens,
        num_resamples=num_resamples,
        seed=seed,
    )
    found = {
        name: {
            "entropy": interval_dict(joint.correlation(column, "entropy")),
            "strength": interval_dict(joint.correlation(column, "strength")),
            "partial": interval_dict(joint.correlation("entropy", "strength", [column])),
        }
        for name, column in _CONTROLS.items()
    }
    held = [column for name, column in _CONTROLS.items() if name != "logprob" and column in joint.place]
    found["together"] = {"partial": interval_dict(joint.correlation("entropy", "strength", held))}
    return found
