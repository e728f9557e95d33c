"""Read the published curves of ρ over training, which come from the first author's post and from the paper.

Figures show them beside the curves that antiphase measured. ρ is the Spearman correlation of token entropy and
gradient strength. Each curve is a single run without an interval, and no independent replication is known.
`published.json` holds the numbers and their sources; antiphase measured none of them.

Our reading: the post's curves are computed over distinct token ids. The paper does not say over what its curves are
computed. We assume distinct token ids there too, because the paper's curves begin at −0.171, as two curves of the post
do.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources

from antiphase.signal_spec import Unit


@dataclass(frozen=True)
class PublishedCurve:
    """A published curve that shows how ρ changes from training step to training step.

    ρ is the correlation of token entropy and gradient strength.

    Args:
        source: `post` or `paper`.
        training: the method by which the model was trained, such as `SFT`.
        model: the family of the model; None if it is not known.
        unit: what ρ was computed over: `token` (positions), `type` (distinct token ids) or `step` (sentences).
        steps: the training steps.
        spearman: ρ at each training step.
        url: the address of the source.
        read: how the authors of antiphase read the source: in full, or only a digest of it.
    """

    source: str
    training: str
    model: str | None
    unit: Unit
    steps: tuple[int, ...]
    spearman: tuple[float, ...]
    url: str
    read: str

    @property
    def label(self) -> str:
        """The name of the curve in a figure, such as `SFT, Llama (post)`."""
        return f"{self.training}{'' if self.model is None else f', {self.model}'} ({self.source})"


@functools.cache
def published_curves() -> tuple[PublishedCurve, ...]:
    """Return all published curves of ρ over training.

    >>> [(curve.label, curve.spearman[0], curve.spearman[-1]) for curve in published_curves()][:2]
    [('SFT, Llama (post)', 0.036, -0.606), ('SFT, Qwen (post)', -0.171, -0.494)]
    """
    held = json.loads(resources.files("antiphase.data").joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(
        PublishedCurve(
            source=curve["source"],
            training=curve["training"],
            model=curve["model"],
            unit=curve["unit"],
            steps=tuple(curve["steps"]),
            spearman=tuple(curve["spearman"]),
            url=held["sources"][curve["source"]]["url"],
            read=held["sources"][curve["source"]]["read"],
        )
        for curve in held["curves"]
    )
