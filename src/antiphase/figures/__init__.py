"""Figures of entropy against gradient strength: by token, by layer, along a rollout, between models.

They draw what was measured elsewhere: besides display ranks and a running median nothing is computed here,
and no correlation. Undefined statistics are written as such, never drawn. Every function raises MissingExtraError
without matplotlib, and InvalidInputError for an empty list of results or a table that lacks a column.
"""

from antiphase.figures.correlations import entropy_strength, layer_map
from antiphase.figures.probes import model_comparison
from antiphase.figures.rollout import rollout_track
from antiphase.figures.saving import save_figures

__all__ = ["entropy_strength", "layer_map", "model_comparison", "rollout_track", "save_figures"]
