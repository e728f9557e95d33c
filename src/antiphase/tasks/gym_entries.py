"""Store entries of reasoning_gym as JSON without loss, and keep dangerous answers from its scorers.

An entry is reasoning_gym's own record of one problem; its scorer reads it. Several scorers pass the answer to `eval`,
or to sympy's `parse_expr`, which calls `eval`. A completion could run code there. Some scorers also accept answers
that break the rules of the puzzle. Each generator with such a scorer has a guard here. The guard lets the scorer see
an answer only if the answer has the form that the puzzle asks for.
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from numbers import Integral
from typing import Any

from antiphase.tasks.plain_numbers import plain_number

_FUNCTIONS = re.compile(r"a?(?:sin|cos|tan)h?|sec|csc|cot|exp|log|ln|sqrt|pi|[aA]bs")
_WORD = re.compile(r"[A-Za-z_]\w*")
_FORBIDDEN = re.compile(r"[^\w\s+\-*/^().,]|__|\.\s*[A-Za-z_]")
_ARITHMETIC = re.compile(r"[\d\s+\-*/()]*")
_NOT_A_NUMBER = re.compile(r"\b(?:nan|inf|infinity)\b", re.IGNORECASE)
_TOLERANCE = Fraction(1, 100)
_MAX_ARITHMETIC = 300
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CONTAINERS = (list, tuple, set, frozenset)
_BUILDERS: dict[str, Callable[[Any], Any]] = {"$dict": dict} | {f"${c.__name__}": c for c in _CONTAINERS}


def pack_entry(entry: Mapping[str, Any]) -> str | None:
    """Return an entry (reasoning_gym's record of one problem) as JSON text.

    The result is None if `unpack_entry` would not turn the text back into an equal entry.

    JSON cannot hold tuples, sets, or keys that are not texts. So these are written in a marked form: the tuple `(1,)`
    becomes `{"$tuple": [1]}`.
    """
    try:
        text = json.dumps(_pack(entry))
    except TypeError:
        return None
    return text if unpack_entry(text) == entry else None


def unpack_entry(text: str) -> Any:
    """Return the entry (reasoning_gym's record of one problem) that `pack_entry` turned into this text.

    >>> unpack_entry(pack_entry({"a": (1, [2]), "b": {3: {4}}}))
    {'a': (1, [2]), 'b': {3: {4}}}
    """
    return json.loads(text, object_pairs_hook=_unpack)


def _pack(value: Any) -> Any:
    """Return a value of an entry in the form that `pack_entry` writes. Raise TypeError if this is not possible."""
    if value is None or isinstance(value, bool):
        return value
    for kind, plain in ((str, str), (Integral, int), (float, float)):  # numpy's scalars become Python's
        if isinstance(value, kind):
            return plain(value)
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {str(key): _pack(item) for key, item in value.items()}
        return {"$dict": [[_pack(key), _pack(item)] for key, item in value.items()]}
    if type(value) not in _CONTAINERS:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    items = [_pack(item) for item in value]
    return items if isinstance(value, list) else {f"${type(value).__name__}": items}


def _unpack(pairs: list[tuple[str, Any]]) -> Any:
    """Return the tuple, set or dictionary that a JSON object stands for. `pairs` are its keys and values."""
    build = _BUILDERS.get(pairs[0][0]) if len(pairs) == 1 else None
    return dict(pairs) if build is None else build(pairs[0][1])


def safe_to_score(generator: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """Return whether the scorer of a reasoning_gym generator may see the answer. If not, the answer counts as wrong.

    The scorer must not see code. It may see `nan` or `inf` only if the reference answer contains one of them. If the
    reference answer is a plain number, the answer must be a plain number within 1% of it. Without these rules, some
    scorers would accept `nan`, a text with the number somewhere in it, or only the beginning of the number.
    """
    reference = str(entry["answer"])
    wanted, given = plain_number(reference), plain_number(answer)
    if wanted is not None and (given is None or abs(given - wanted) > abs(wanted) * _TOLERANCE):
        return False
    if _NOT_A_NUMBER.search(answer) and not _NOT_A_NUMBER.search(reference):
        return False
    guard = _GUARDS.get(generator)
    return guard is None or guard(answer, entry)


def exact_value(expression: str) -> Fraction | None:
    """Return the exact value of an expression of whole numbers, + - * / and parentheses; None for any other text.

    >>> exact_value("38 + 4 + 33 - 14"), exact_value("1/3*3"), exact_value("2**3"), exact_value("1/0")
    (Fraction(61, 1), Fraction(1, 1), None, None)
    """
    if len(expression) > _MAX_ARITHMETIC or not _ARITHMETIC.fullmatch(expression):
        return None
    try:
        return _evaluate(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    """Return the value of a parsed expression; raise ValueError if it holds anything but arithmetic."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError("not arithmetic")


def _uses_numbers(answer: str, entry: Mapping[str, Any], target: int) -> bool:
    """Return whether the answer uses each number of the puzzle exactly once, and has the value `target`."""
    numbers = sorted(int(number) for number in re.findall(r"\d+", answer[:_MAX_ARITHMETIC]))
    return numbers == sorted(entry["metadata"]["numbers"]) and exact_value(answer) == target


def _is_algebra(answer: str, entry: Mapping[str, Any]) -> bool:
    """Return whether the answer holds only operators, numbers, variables of one letter and known functions."""
    del entry
    words = _WORD.findall(answer)
    return not _FORBIDDEN.search(answer) and all(len(word) == 1 or _FUNCTIONS.fullmatch(word) for word in words)


def _calls_nothing(answer: str, entry: Mapping[str, Any]) -> bool:
    del entry
    return "(" not in answer


_GUARDS: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "countdown": lambda answer, entry: _uses_numbers(answer, entry, entry["metadata"]["target"]),
    "puzzle24": lambda answer, entry: _uses_numbers(answer, entry, 24),
    "simple_integration": _is_algebra,
    "intermediate_integration": _is_algebra,
    "polynomial_multiplication": _is_algebra,
    "binary_matrix": _calls_nothing,
    "n_queens": _calls_nothing,
    "spiral_matrix": _calls_nothing,
    "string_insertion": _calls_nothing,
}
