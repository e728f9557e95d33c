"""Batches of the TRL trainer: the numbers that the tests of verl are compared with.

`tests/training/test_trl_batches.py` makes them with `CorRPOTrainer`, and compares them with the stored file. The tests
of verl read the file, because TRL and verl cannot be installed together.
"""

import json
from pathlib import Path

FILE = Path(__file__).with_name("trl_batches.json")
COMBINES = ("penalty", "sum", "centered", "gated", "only")
SCALES = ("group", "none")
GROUP = 4
# What the trainer of a batch is given, besides the mode and the scaling.
WEIGHT, MIN_TOKENS = 0.5, 10


def stored():
    return json.loads(FILE.read_text())
