"""Draw figures of entropy and gradient strength: by token, by layer, along a rollout, and between models.

The figures show numbers that were measured elsewhere. No correlation is computed here, only the ranks and running
medians that are drawn. An undefined number is written as "undefined" and not drawn. Every function raises
MissingExtraError if matplotlib is not installed, and InvalidInputError if the list of results is empty or a table
lacks a column. `FIGURES` lists the figures of each kind of run; you can add your own.
"""

from antiphase.figures.correlations import entropy_strength, layer_map
from antiphase.figures.of_runs import FIGURES
from antiphase.figures.probes import model_comparison
from antiphase.figures.rollout import rollout_track
from antiphase.figures.saving import save_figures

__all__ = ["FIGURES", "entropy_strength", "layer_map", "model_comparison", "rollout_track", "save_figures"]
