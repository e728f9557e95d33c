"""The interactive page: tables of a run in, one self-contained HTML file out.

Above the figures and below everything that runs: it reads no folder and starts no model (see `antiphase.report`).
"""
