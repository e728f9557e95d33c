"""Studies: run a grid of models, settings, methods and seeds, and compare the results.

A cell is one point of the grid. It is trained, evaluated and stored; then the tables and figures are made from all
stored cells.
"""
