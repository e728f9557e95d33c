"""Pure functions that turn numbers into correlations, accuracies and differences with their intervals."""
