"""Make the interactive page of a run: one HTML file that holds the tables of the run and everything to show them.

This package reads no run folder and starts no model. `antiphase.report` reads the folders.
"""
