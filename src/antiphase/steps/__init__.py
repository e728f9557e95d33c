"""Steps: the sentences (or lines, windows, matches) of a rollout, on token boundaries (METHOD §4.2).

`sentences` finds where sentences begin in a text, `splitter` names the ways to cut, `places` finds where each token
stands in the text, and `assigning` puts the three together. Nothing here measures a signal.
"""

from antiphase.steps.splitter import DEFAULT_SPLITTER as DEFAULT_SPLITTER
from antiphase.steps.splitter import Splitter as Splitter
