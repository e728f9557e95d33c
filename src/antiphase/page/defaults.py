"""What a page is called, and which tokens it marks, unless someone asks otherwise. Imports nothing."""

FILE = "report.html"
# Words that mark reasoning, in the manner of MI-peaks (2506.02867); matched against whole tokens.
MARKERS = (
    "wait", "hmm", "hm", "so", "therefore", "thus", "hence", "then", "let", "now", "but", "however", "because",
    "since", "if", "maybe", "perhaps", "alternatively", "actually", "first", "next", "finally", "check", "verify",
    "suppose",
)  # fmt: skip
# Share of tokens that count as forking: those of the highest entropy (2506.01939 takes a fifth).
FORKING_SHARE = 0.2
