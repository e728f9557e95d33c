"""Load models, and find their attention projections and their output heads."""
