"""Define the suites: named lists of tasks, each with the settings that evaluation uses for it.

`NAME:task=FILE,task=FILE` reads some of the suite's data sets from local copies.
"""

from dataclasses import dataclass, replace
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean
from antiphase.tasks.math_sets import MATH_SETS
from antiphase.tasks.specs import parse_options, parse_spec


@dataclass(frozen=True)
class SuiteEntry:
    """One task of a suite, with its settings. If a setting is None, the task or the evaluation decides it.

    Args:
        spec: the task's spec, as `load_task` reads it.
        num_problems: how many of the task's test problems the model is asked.
        prompt_template: a text with `{prompt}` in it, in place of the task's own template.
        max_new_tokens: the number of tokens after which a completion is cut off.
        chat_template: whether the model's chat template is used, if the model has one.
        end_tokens: texts of tokens that end a completion, in addition to the model's own end tokens. Each is the text
            of one token.
        samples: the number of sampled completions of each problem.
        k: the values of k for which pass@k, maj@k and best-of-k are computed.
    """

    spec: str
    num_problems: int | None = None
    prompt_template: str | None = None
    max_new_tokens: int | None = None
    chat_template: bool | None = None
    end_tokens: tuple[str, ...] = ()
    samples: int | None = None
    k: tuple[int, ...] | None = None


# The options of a spec that evaluation reads. They do not belong to the task, so the task is made without them.
EVALUATION_OPTIONS: dict[str, Any] = {"samples": int, "k": tuple[int, ...]}


def asked_entry(text: str) -> SuiteEntry:
    """Return the task that a spec of `--tasks` names, with the options `samples` and `k` that the spec gives.

    These two options are removed from the spec itself. So the same task has the same spec, however many samples are
    drawn.

    >>> asked_entry("aime24:samples=64,k=1|8,file=a.jsonl").spec, asked_entry("aime24:samples=64,k=1|8").k
    ('aime24:file=a.jsonl', (1, 8))

    Raises:
        InvalidInputError: the text is no spec, `samples` is no whole number, or `k` is no list of whole numbers.
    """
    spec = parse_spec(text)
    own = {key: value for key, value in spec.options.items() if key in EVALUATION_OPTIONS}
    if not own:
        return SuiteEntry(text)
    values = parse_options(replace(spec, options=own), EVALUATION_OPTIONS)
    rest = ",".join(f"{key}={value}" for key, value in spec.options.items() if key not in own)
    return SuiteEntry(f"{spec.name}:{rest}" if rest else spec.name, **values)


_SUMS = "43+7=50, since 43+7=50\n78+5=83, since 78+5=83\n{prompt}="
_ASKED = "State the final answer to the following arithmetic problem: "
_CHAIN = "\n".join([*(f"{_ASKED}{shown}" for shown in ("3 + 4 = 7", "9 - 5 = 4", "6 + 8 = 14")), "{prompt}"])
# Our choice. A prompt and 3,072 new tokens fit the 4,096 tokens of Qwen2.5-Math-7B, the shortest context of the models
# in the paper.
_PAPER_TOKENS = 3072
_MATH = ("gsm8k", "math500", "aime24", "aime25", "amc23", "minerva", "olympiadbench")
_LOGIC = (
    "knights_knaves:n_people=3",
    "zebra_puzzles:num_people=3,num_characteristics=3",
    "countdown:min_numbers=3,max_numbers=4,min_target=10,max_target=100",
    "syllogism",
    "mini_sudoku",
    "maze",
    "family_relationships",
    "circuit_logic",
)
SUITES: dict[str, tuple[SuiteEntry, ...]] = {
    "math": tuple(map(SuiteEntry, _MATH)),
    "logic": tuple(SuiteEntry(spec, num_problems=100) for spec in _LOGIC),
    # The data sets in the tables of arXiv 2605.17770, according to a public digest of the paper.
    # The paper reports Pass@16 and Major@16.
    "paper": tuple(
        SuiteEntry(spec, max_new_tokens=_PAPER_TOKENS, samples=16) for spec in ("aime24", "math500", "gsm8k")
    ),
    # For models of about 135 million weights, which follow no instruction about the form of the answer.
    "smoke": (
        SuiteEntry("sums:digits=2|1", 24, _SUMS, 16, chat_template=False, end_tokens=("\n",)),
        SuiteEntry(
            "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1", 16, _CHAIN, 8,
            chat_template=False, end_tokens=("\n",),
        ),
        SuiteEntry("gsm8k", 6, max_new_tokens=96),
    ),
}  # fmt: skip


def resolve_suite(text: str) -> tuple[SuiteEntry, ...]:
    """Return the tasks of a suite, which is a named list of tasks.

    Args:
        text: `NAME`, or `NAME:task=FILE,task=FILE` to read some of the suite's data sets from local copies.

    >>> [entry.spec for entry in resolve_suite("paper:aime24=a.jsonl")]
    ['aime24:file=a.jsonl', 'math500', 'gsm8k']

    Raises:
        InvalidInputError: there is no such suite, or a file is given for a name that is not a data set of the suite.
    """
    suite = parse_spec(text)
    if suite.name not in SUITES:
        raise InvalidInputError(
            f"unknown suite {suite.name!r}.{did_you_mean(suite.name, SUITES)} Expected one of {', '.join(SUITES)}."
        )
    entries = SUITES[suite.name]
    sets = [entry.spec for entry in entries if entry.spec in MATH_SETS]
    for name in suite.options:
        if name not in sets:
            raise InvalidInputError(
                f"the suite {suite.name!r} has no set {name!r}.{did_you_mean(name, sets)} A local copy can "
                f"be given for: {', '.join(sets) or 'none'}."
            )
    files = {name: f"{name}:file={path}" for name, path in suite.options.items()}
    return tuple(replace(entry, spec=files.get(entry.spec, entry.spec)) for entry in entries)
