"""What boxed_math.yaml calls: it reads the rows and scores a completion. Nothing here knows of antiphase.

The name is lm-eval's convention for the functions of a task.
"""

import json
from pathlib import Path
from typing import Any

import datasets
from math_verify import parse, verify


def load_problems(problems: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The rows of a JSONL file, as the split `test`; `problems` and the rest are lm-eval's `--metadata`."""
    rows = [json.loads(line) for line in Path(problems).read_text(encoding="utf-8").splitlines()]
    return {"test": datasets.Dataset.from_list(rows)}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The scores of one completion.

    Args:
        doc: its row.
        results: the completion alone.

    Returns:
        `math_verify`: whether math-verify finds the reference anywhere in the text, called as in lm-eval's
        `minerva_math`; `boxed`: whether it finds it in the last box, cut out by lm-eval's `hendrycks_math`.
    """
    # lm-eval is not at hand where the tests are only collected.
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string

    gold = parse(f"\\boxed{{{doc['answer']}}}")
    box = last_boxed_only_string(results[0])
    return {
        "math_verify": float(verify(gold=gold, target=parse(results[0]))),
        "boxed": 0.0 if box is None else float(verify(gold=gold, target=parse(box))),
    }
