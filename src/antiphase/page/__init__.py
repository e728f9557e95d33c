"""The interactive page: it takes the tables of a run and makes one self-contained HTML file.

This room reads no folder and starts no model. `antiphase.report` reads the folders.
"""
