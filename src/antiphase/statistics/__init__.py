"""Pure functions that compute correlations, accuracies and differences, each with its interval."""
