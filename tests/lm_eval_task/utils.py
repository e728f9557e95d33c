"""What boxed_math.yaml calls: its rows, and the score of one completion. Nothing here knows of antiphase.

(lm-eval looks functions up in a file next to the YAML; `utils.py` is its convention.)
"""

import json
from pathlib import Path
from typing import Any

import datasets
from math_verify import parse, verify


def load_problems(problems: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The rows of the JSONL file that `--metadata '{"problems": FILE}'` names: `question`, `answer`, and what more."""
    rows = [json.loads(line) for line in Path(problems).read_text().splitlines()]
    return {"test": datasets.Dataset.from_list(rows)}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether math-verify finds the reference in the completion, called as in lm-eval's own `minerva_math`."""
    gold = parse(f"\\boxed{{{doc['answer']}}}")
    return {"math_verify": float(verify(gold=gold, target=parse(results[0])))}
