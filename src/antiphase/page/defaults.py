"""Define the defaults of the page: its file name, and which tokens it marks. This module imports nothing slow."""

from antiphase.errors import InvalidInputError

FILE = "report.html"
# Words that mark reasoning, chosen as MI-peaks (arXiv 2506.02867) chooses them. They are matched against whole tokens.
MARKERS = (
    "wait", "hmm", "hm", "so", "therefore", "thus", "hence", "then", "let", "now", "but", "however", "because",
    "since", "if", "maybe", "perhaps", "alternatively", "actually", "first", "next", "finally", "check", "verify",
    "suppose",
)  # fmt: skip
# Forking tokens are those with the highest entropy. This is their share of all tokens, as in arXiv 2506.01939.
FORKING_SHARE = 0.2


def check_share(forking_share: float) -> None:
    """Raise `InvalidInputError` unless the share of forking tokens lies between 0 and 1."""
    if not 0 < forking_share < 1:
        raise InvalidInputError(f"forking_share must lie between 0 and 1; got {forking_share}.")
