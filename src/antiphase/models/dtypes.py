"""The names of the dtypes that models are loaded in. Imports no torch."""

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
