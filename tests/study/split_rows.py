"""Made-up rollouts whose ι follows from entropy and length."""

import numpy as np
import pandas as pd


def made(coupling=0.0, entropy_shift=0.0, length_shift=0.0, method="grpo"):
    """Rollouts in which ι = 0.2 − 0.5 · entropy + 0.01 · length, plus what a problem and a coupling add."""
    draw = np.random.default_rng(0)
    rows = []
    for seed in range(3):
        for problem in range(12):
            level = draw.normal()
            for _ in range(4):
                entropy = 1 + 0.2 * draw.normal() + level + entropy_shift
                length = 50 + 5 * draw.normal() + length_shift
                # The level of a problem raises both, so a slope over all rollouts would be wrong.
                iota = 0.2 - 0.5 * entropy + 0.01 * length + 3 * level + coupling
                rows.append({"method": method, "seed": seed, "problem": f"p{problem}", "iota": iota,
                             "entropy": entropy, "length": length})  # fmt: skip
    return pd.DataFrame(rows)
