"""What tests of tasks share: wrong neighbours of a reference, other ways to write it, hostile completions, rows."""

import json
import re

from antiphase.tasks.listed_items import items_of
from antiphase.tasks.plain_numbers import exact_number
from antiphase.tasks.problem import Problem

TOWER = "9^{9^{9^{9}}}"


def perturbed(answer: str, *, ordered: bool) -> list[str]:
    """Answers that are wrong and look like the reference."""
    found = []
    digits = list(re.finditer(r"(?<!\}\^)\d+", answer))  # units and their powers are not judged
    if digits:
        for match in (digits[0], digits[-1]):
            found.append(f"{answer[: match.start()]}{int(match[0]) + 1}{answer[match.end() :]}")
    number = exact_number(answer)
    if number:
        found += [
            f"-{answer}" if number > 0 else answer.replace("-", "", 1),
            f"{answer} {answer}",
            f"{answer},{answer}",
        ]
    elif number is None and re.fullmatch(r"[-\w\s\\{}+^()/]+", answer) and "text" not in answer:
        found += [f"-({answer})", f"{answer}+1"]
    brackets, items = items_of(answer)
    if len(items) > 1 and "pm" not in answer:  # the two values of ± have no order
        found.append(brackets[: len(brackets) // 2] + ",".join(items[:-1]) + brackets[len(brackets) // 2 :])
        if (ordered and not brackets) or brackets in ("()", "(]", "[)", "[]"):
            swapped = [items[-1], *items[1:-1], items[0]]
            found += [brackets[: len(brackets) // 2] + ",".join(swapped) + brackets[len(brackets) // 2 :]] * (
                swapped != items
            )
    if re.fullmatch(r"\\text\{[^{}]*\}", answer):
        found.append(answer.replace("{", "{un"))
    return found


def rewritten(answer: str) -> list[str]:
    """The same answer in other forms."""
    found = [f"${answer}$", f" {answer} .", answer.replace("\\frac", "\\dfrac")]
    if "\\left" not in answer and answer.count("(") == answer.count(")"):
        found.append(answer.replace("(", "\\left(").replace(")", "\\right)"))
    number = exact_number(answer)
    if number is not None and number.denominator == 1:
        found += [f"{number}.0", f"{number.numerator:,}".replace(",", "{,}"), f"\\frac{{{2 * number}}}{{2}}"]
    return found


def hostile(*forms: str) -> list[str]:
    """Completions that try to stop, end or fool a verifier; none is right for a reference of a few characters.

    `forms` say where the worst of them stand, such as `<answer>%s</answer>`.
    """
    return [form.replace("%s", content) for form in forms for content in _CONTENTS] + _WHOLE


_DEEP = 100_000
_CONTENTS = [
    "", " \t\n", "\0", "\0" * 5000, "9" * 10_000, "-" * 10_000, "1e999999", "1e-999999", "9" * 99 + "e999",
    "9**9**9**9", TOWER, "((((9!)!)!)!)!", "\\binom{10^9}{10^8}",
    "\\int_0^{\\infty} e^{e^{e^x}} dx", "\\sum_{k=1}^{10^{12}} \\frac{1}{k^k}",
    "(" * 900 + ")" * 900, "(" * _DEEP, "[" * 300 + "1" + "]" * 300,
    "{" * 500 + "}" * 500, "{" * _DEEP, "\\frac{" * 150 + "}" * 300, "\\left(" * 1000,
    "\\sqrt{" * 400 + "2" + "}" * 400, "^" * 5000, "x^{" * 500 + "}" * 500,
    "__import__('os')._exit(0)", "__import__('os').system('true')", "exit()", "exec('while True: pass')",
    "[x for x in iter(int, 1)]", "().__class__.__bases__[0].__subclasses__()", "lambda: 0",
    "open('/etc/passwd').read()", "%d%s%n", "{0.__class__}", "{answer}", "${7*7}", "{{7*7}}", "\x1b[2J",
    "'; DROP TABLE problems; --", "\\input{/etc/passwd}", "\u202e1384\u202c", "\u2066\u202e1384\u2069",
    "\ud800\udfff\ud800", "\ufeff", "²½Ⅷ𝟙", "\u0660" * 3000, "\u0301" * 5000, "nan", "inf", "-inf", "None", "True",
    "0x12", "1_8", "\\infty", "1/0", "0/0", "3=4", "=", ",,,,", "1,2,3,4,5", "\\text{18", '{"a":' * 3000,
    "<b>" * 3000, "A B C D", "ABCD", "a or b", "\\begin{matrix}", "\\def\\x{\\x\\x}\\x", "\\", "$$$", "}{",
]  # fmt: skip
_WHOLE = [
    "", " ", "\n" * 1000, "x" * 10_000_000, "7 " * 5_000_000, "A" * 100_000, "\\boxed{", "\\boxed{" * 5000,
    "\\boxed{}" * 3000, "}" * 10_000, "<answer>", "</answer>", "<answer>" * 3000, "</answer><answer>",
    "<answer></answer>", "\\boxed{1}\\boxed{2}\\boxed{3}", "\\boxed{\\boxed{\\boxed{}}}", "answer is " * 5000,
    "answer:" + " " * 50_000, "Answer: " + "*" * 30_000, "the answer is not known", "(" * _DEEP + ")" * _DEEP,
    "\ud800", "\u202e", "%" * 20_000,
]  # fmt: skip


def as_problem(row: dict) -> Problem:
    """A problem that went through an Arrow table and JSON, as a training row does."""
    row = json.loads(json.dumps(row))
    return Problem(row["problem_id"], row["task"], "", row["answer"], row["metadata"])
