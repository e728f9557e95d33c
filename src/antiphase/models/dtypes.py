"""The names of the dtypes in which a model can be loaded. This module imports no torch."""

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
