"""The defaults of the page: its file name, and which tokens it marks. This module imports nothing."""

FILE = "report.html"
# Words that mark reasoning, chosen as MI-peaks (arXiv 2506.02867) chooses them. They are matched against whole tokens.
MARKERS = (
    "wait", "hmm", "hm", "so", "therefore", "thus", "hence", "then", "let", "now", "but", "however", "because",
    "since", "if", "maybe", "perhaps", "alternatively", "actually", "first", "next", "finally", "check", "verify",
    "suppose",
)  # fmt: skip
# Forking tokens are those with the highest entropy. This is their share of all tokens, as in arXiv 2506.01939.
FORKING_SHARE = 0.2
