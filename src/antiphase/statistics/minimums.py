"""The fewest items that a correlation is made of, unless a caller says otherwise. Imports nothing."""

MIN_TOKENS = 8
# The fewest steps of which a perfect order is significant: p = 2/5! = 0.017, but 2/4! = 0.083.
MIN_STEPS = 5
