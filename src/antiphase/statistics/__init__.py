"""Correlations, accuracies and differences with their intervals: numbers in, numbers out."""
