"""Evaluations for the tests: of given rollouts, which cost nothing, and of a tiny random model."""

import json

from antiphase.evaluation.evaluate import evaluate
from antiphase.tasks.registry import load_task

TASK = "digit_sum:base=3,num_digits=4"


def problems(num, task=TASK):
    return load_task(task).problems("test", num, 0)


def completion(problem, right, length=0):
    """A completion of at least ten characters, right or wrong."""
    answer = problem.answer if right else str((int(problem.answer) + 1) % 3)
    return f"<{problem.prompt[:4]}0120{'1' * length}>A{answer}"


def given(pattern, task=TASK):
    """Rows for as many problems as the pattern has: for each, which of its samples are right."""
    rows = []
    for problem, samples in zip(problems(len(pattern), task), pattern, strict=True):
        for sample, right in enumerate(samples):
            text = completion(problem, right, length=sample)
            rows.append({"problem_id": problem.problem_id, "completion": text, "sample": sample})
    return rows


def scored(model_dir, pattern, out=None, **options):
    # Over tokens: these completions are too short for types or steps.
    plain = {
        "tasks": (TASK,),
        "unit": "token",
        "num_problems": len(pattern),
        "progress": False,
        "figures": False,
        "num_resamples": 50,
    }
    return evaluate(str(model_dir), rollouts=given(pattern), out=out, **{**plain, **options})


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
