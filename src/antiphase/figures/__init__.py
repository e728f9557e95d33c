"""Figures of entropy against gradient strength: by token, by layer, along a rollout, between models.

The figures draw numbers that were measured elsewhere. Only the ranks and the running median that they show are
computed here, and no correlation. An undefined statistic is written as "undefined" and never drawn. Every function
raises MissingExtraError if matplotlib is not installed, and InvalidInputError for an empty list of results or a table
that lacks a column. Each kind of run draws the figures in `FIGURES`, to which you can add your own.
"""

from antiphase.figures.correlations import entropy_strength, layer_map
from antiphase.figures.of_runs import FIGURES
from antiphase.figures.probes import model_comparison
from antiphase.figures.rollout import rollout_track
from antiphase.figures.saving import save_figures

__all__ = ["FIGURES", "entropy_strength", "layer_map", "model_comparison", "rollout_track", "save_figures"]
