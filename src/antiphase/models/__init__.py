"""Where a model comes from, and where it keeps its attention projections and its head."""
