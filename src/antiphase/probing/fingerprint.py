"""`Fingerprint`: the result of a probe, as tables and numbers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from antiphase import figures
from antiphase.errors import InvalidInputError
from antiphase.page.building import signals_document
from antiphase.page.document import Document
from antiphase.page.html import render_overview
from antiphase.page.subjects import model_labels
from antiphase.probing.probe_table import render_table
from antiphase.probing.rival_tables import rival_tables
from antiphase.runs.parts import KINDS
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.units import by_unit, headline_of
from antiphase.signal_spec import UNITS, Unit, check_one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Fingerprint:
    """The result of a probe: its tables, and the correlations of entropy and gradient strength.

    Args:
        tokens: one row for each model, estimator and generated token (columns: see docs/files.md).
        rollouts: one row for each model, estimator and rollout.
        summary: the content of summary.json.
        alternatives: the most probable next tokens, one row for each generated token and rank; None if the run did not
            store them.
        steps: one row for each model, estimator, rollout and step (sentence). None for runs of older versions, which
            did not measure steps.
    """

    tokens: pd.DataFrame
    rollouts: pd.DataFrame
    summary: dict[str, Any]
    alternatives: pd.DataFrame | None = None
    steps: pd.DataFrame | None = None

    def result(self, model: str | None = None, estimator: str | None = None) -> dict[str, Any]:
        """Return the first entry of `summary["results"]` for a model and an estimator. None matches every name.

        Raises:
            InvalidInputError: this run has no result for the model and the estimator.
        """
        for entry in self.summary["results"]:
            if model in (None, entry["model"]) and estimator in (None, entry["estimator"]):
                return dict(entry)
        have = ", ".join(f"{entry['model']}/{entry['estimator']}" for entry in self.summary["results"])
        raise InvalidInputError(f"no result for model {model!r} and estimator {estimator!r}; this run has {have}.")

    def correlation(self, unit: Unit | None = None) -> dict[str, Any]:
        """Return the Spearman ρ of entropy and gradient strength, pooled over all rollouts of the first result.

        Args:
            unit: what a pair of entropy and strength is: a `token` (position), a `type` (distinct token id) or a
                `step` (sentence). None takes the headline unit, whose ρ is shown first.

        Returns:
            `value`, `low` and `high` (the 95 % interval), and more; see docs/metrics.md.

        Raises:
            InvalidInputError: the unit is unknown, or the run is from an older version, which did not measure it.
        """
        result = self.result()
        chosen = unit or headline_of(result)
        check_one_of("unit", chosen, UNITS)
        entry = by_unit(result).get(chosen)
        if entry is None:
            raise InvalidInputError(f"this run holds no correlation over {chosen}s; measure the model again.")
        return dict(entry)

    @property
    def spearman(self) -> float:
        """The Spearman ρ of entropy and gradient strength, pooled over all rollouts of the first result.

        The unit (`type`, `token` or `step`) is the headline unit, whose ρ is shown first. The value is NaN if ρ is
        undefined.
        """
        value = self.correlation()["value"]
        return float("nan") if value is None else float(value)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `spearman` as (low, high), from resampled prompts; (NaN, NaN) if it is undefined."""
        bounds = [self.correlation()[key] for key in ("low", "high")]
        low, high = (float("nan") if bound is None else float(bound) for bound in bounds)
        return low, high

    @property
    def inversion(self) -> float:
        """The inversion score ι = −ρ, the negative of `spearman`. A positive score means inversion."""
        return -self.spearman

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the table of tokens.

        Entropy and log-probability are in nats. There is a column for the gradient strength of a token, and one for
        its strength in each layer and projection.
        """
        return self.tokens.copy()

    def plot(
        self,
        kind: str = "entropy_strength",
        *,
        model: str | None = None,
        estimator: str | None = None,
        rollout_id: str | None = None,
    ) -> "Figure":
        """Draw a matplotlib figure.

        Args:
            kind: `entropy_strength` (entropy against strength, all results), `layer_map` (ρ by layer and projection of
                one result), `rollout_track` (both signals along one rollout, with its text), or `model_comparison`
                (all results side by side).
            model, estimator: the result that `layer_map` and `rollout_track` show; None takes the first one.
            rollout_id: the rollout that `rollout_track` shows; None takes the one with the most measured tokens.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InvalidInputError: the kind, the result or the rollout does not exist.
        """
        if kind == "entropy_strength":
            return figures.entropy_strength(self.tokens, self.summary["results"])
        if kind == "model_comparison":
            return figures.model_comparison(self.summary["results"])
        result = self.result(model, estimator)
        if kind == "layer_map":
            return figures.layer_map(result)
        if kind != "rollout_track":
            raise InvalidInputError(
                f"unknown kind {kind!r}: expected entropy_strength, layer_map, rollout_track or model_comparison."
            )
        chosen = self.tokens[(self.tokens.model == result["model"]) & (self.tokens.estimator == result["estimator"])]
        if rollout_id is None and len(chosen):
            rollout_id = str(chosen.groupby("rollout_id", sort=False).strength.count().idxmax())
        rollout = chosen[chosen.rollout_id == rollout_id]
        if rollout.empty:
            raise InvalidInputError(f"no rollout {rollout_id!r} with tokens in this run.")
        return figures.rollout_track(rollout, f"{result['model']} · {result['estimator']} · {rollout_id}")

    def save(self, path: str | Path) -> Path:
        """Write the tables and summary.json to a new folder, as `antiphase probe` does.

        Raises:
            InvalidInputError: the folder exists and is not empty, or cannot be written to.
        """
        folder = RunFolder.create(Path(path), self.summary["config"])
        try:
            for kind in KINDS:
                table: pd.DataFrame | None = getattr(self, kind)
                if table is not None:
                    folder.write_table(kind, pa.Table.from_pandas(table, preserve_index=False))
            folder.write_json("summary.json", self.summary)
        except BaseException:
            folder.discard_if_unused()
            raise
        return folder.path

    @classmethod
    def load(cls, path: str | Path) -> "Fingerprint":
        """Read the result of a finished probe from its folder.

        Raises:
            InvalidInputError: the folder is not the folder of a probe, or the run is unfinished (continue it with
                `--resume`).
        """
        folder = RunFolder.open(Path(path))
        summary = folder.read_summary()
        tokens, rollouts = folder.read_frames()
        return cls(tokens, rollouts, summary, folder.read_alternatives(), folder.read_steps())

    def document(self, name: str = "run") -> Document:
        """Return the content of the interactive page about this run.

        Args:
            name: the name of the run on the page.
        """
        document = signals_document(
            "probe",
            name,
            self.tokens,
            self.rollouts,
            self.summary,
            steps=self.steps,
            alternatives=self.alternatives,
        )
        results = self.summary["results"]
        return replace(document, tables=rival_tables(results, model_labels(results, None)))

    def __str__(self) -> str:
        return render_table(self.summary)

    def __repr__(self) -> str:
        names = ", ".join(f"{entry['model']} by {entry['estimator']}" for entry in self.summary["results"])
        return f"<Fingerprint of {names}: {len(self.rollouts):,} rollouts, {len(self.tokens):,} rows of tokens>"

    def _repr_html_(self) -> str:
        """Return the overview of the interactive page as HTML, which notebooks show."""
        empty = self.tokens.iloc[:0]
        return render_overview(signals_document("probe", "run", empty, self.rollouts, self.summary))
