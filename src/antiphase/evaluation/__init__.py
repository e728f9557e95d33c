"""Evaluate models on tasks, and compare models or methods, with intervals.

This package imports nothing from `antiphase.training`. The two packages share only the files that they save.
"""
