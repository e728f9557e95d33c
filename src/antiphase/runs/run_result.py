"""The result of a run, and the tables that it is made from."""

from typing import NamedTuple, Protocol, runtime_checkable

import pandas as pd

from antiphase.page.document import Document


@runtime_checkable
class Result(Protocol):
    """The result of a run (a probe or an evaluation), as far as `Run` uses it."""

    def document(self, title: str) -> Document:
        """Return the content of the interactive page about the run."""


class Frames(NamedTuple):
    """The tables of a finished run, with the rows of all batches and models.

    `steps` is None in a run that was made before antiphase measured steps. `alternatives` is None if none were stored.
    """

    tokens: pd.DataFrame
    rollouts: pd.DataFrame
    steps: pd.DataFrame | None
    alternatives: pd.DataFrame | None
