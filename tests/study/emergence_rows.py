"""Made-up measurements of the study of emergence."""


def measurement(corpus, seed, step, **each):
    """What is stored of a measurement, in which `each` gives the ρ of the texts of every set.

    With everything held fixed, it is half of it, and that of the first text is missing.
    """
    held = {texts: [None, *(value and value / 2 for value in values[1:])] for texts, values in each.items()}
    entries = [
        {
            "texts": texts, "estimator": "own", "step_strength": "mean", "entropy_mean": 1.0, "logprob_mean": -1.5,
            "units": {"step": {"within": {"none": {"each": values}, "length+position": {"each": values},
                                          "all": {"each": held[texts]}, "length": {"mean": 0.0}}}},
            "chain": {"entropy–logit": {"value": -0.5 - 0.01 * step}},
            "chain_partial": {"entropy–logit": {"value": None}},
        }
        for texts, values in each.items()
    ]  # fmt: skip
    cell = {"corpus": corpus, "seed": seed, "step": step}
    return {"cell": cell, "entries": entries, "sums": {"pass@1": 0.25 * (seed + 1), "named": 0.75, "ended": 0.5}}


BEFORE = [0.2, None, 0.4, 0.0]
ROWS = [
    measurement("untrained", 0, 0, reasoning=BEFORE, rollouts=[0.1, 0.3, 0.5, 0.3]),
    measurement("untrained", 1, 0, rollouts=[0.0, 0.2, 0.1, 0.1]),
    measurement("reasoning", 0, 25, reasoning=[-0.2, -0.3, 0.1, -0.2], rollouts=[-0.3, 0.0, 0.2, 0.1]),
    measurement("reasoning", 1, 25, reasoning=[0.0, 0.3, 0.1, None], rollouts=[-0.2, None, -0.1, -0.1]),
    measurement("base", 0, 25, reasoning=[0.3, 0.1, 0.4, 0.2], rollouts=[0.1, 0.3, 0.6, 0.2]),
]
