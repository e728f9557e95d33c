"""Where the corpora come from: a file that an environment variable names, or the hub.

ANTIPHASE_TRACES names a JSONL file with the columns `question`, `completion` and `kind` (`thinking` or `base`), which
are answers of reasoning models and of base models. ANTIPHASE_GSM8K_SOLUTIONS names one with `question` and `solution`.
ANTIPHASE_PROSE names a text file whose paragraphs are separated by blank lines. The hub offers
open-r1/Mixture-of-Thoughts, openai/gsm8k and Salesforce/wikitext instead, but no answers of base models.
"""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antiphase.data.tables import read_table
from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError
from antiphase.steps import Splitter

TRACES, SOLUTIONS, PROSE = "ANTIPHASE_TRACES", "ANTIPHASE_GSM8K_SOLUTIONS", "ANTIPHASE_PROSE"
# From a large data set of the hub, so many rows are read.
_HUB_ROWS = 4000
# So many characters make a piece of prose long enough for any text of this study.
_PIECE = 1800

Pair = tuple[str, str]


def traces(kind: str) -> list[Pair]:
    """Return questions with answers of reasoning models (`thinking`) or of base models (`base`).

    Raises:
        InvalidInputError: the file is missing or malformed; or answers of base models are asked for without a file.
    """
    if TRACES not in os.environ:
        if kind == "base":
            raise InvalidInputError(
                f"the corpus 'base' needs answers of base models, which the hub does not offer. Set {TRACES} to a "
                "JSONL file with the columns question, completion and kind (thinking or base); or remove 'base' from "
                "the corpora and from the texts of the study."
            )
        return [_of_messages(row["messages"]) for row in _hub("open-r1/Mixture-of-Thoughts", "math")]
    rows = read_table(Path(os.environ[TRACES]))
    found = [_texts(row.values, "completion", row.place) for row in rows if row.values.get("kind") == kind]
    if not found:
        raise InvalidInputError(f"the file that {TRACES} names has no row of the kind {kind!r}.")
    return found


def solutions() -> list[Pair]:
    """Return GSM8K's questions with worked solutions, without calculator annotations and without the last line.

    Raises:
        InvalidInputError: the file is missing or malformed.
    """
    if SOLUTIONS in os.environ:
        rows = read_table(Path(os.environ[SOLUTIONS]))
        return [_texts(row.values, "solution", row.place) for row in rows]
    rows_of_hub = _hub("openai/gsm8k", "main")
    return [(row["question"], re.sub(r"<<.*?>>", "", row["answer"]).split("####")[0].strip()) for row in rows_of_hub]


def prose() -> list[Pair]:
    """Return pieces of prose: the first sentence as the question, and what follows as the answer.

    Raises:
        InvalidInputError: the file is missing.
    """
    if PROSE in os.environ:
        path = Path(os.environ[PROSE])
        if not path.is_file():
            raise InvalidInputError(f"{PROSE} names the file {str(path)!r}, which does not exist.")
        paragraphs = [part for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    else:
        lines = (row["text"].strip() for row in _hub("Salesforce/wikitext", "wikitext-103-raw-v1", 8 * _HUB_ROWS))
        paragraphs = [line for line in lines if line and not line.startswith("=")]
    return [pair for piece in _pieces(paragraphs) if (pair := _after_first_sentence(piece)) is not None]


def _pieces(paragraphs: list[str]) -> Iterator[str]:
    """Yield runs of whole paragraphs, each of `_PIECE` characters or a little more. No paragraph is in two runs."""
    held: list[str] = []
    for paragraph in paragraphs:
        held.append(" ".join(paragraph.split()))
        if sum(map(len, held)) >= _PIECE:
            yield "\n\n".join(held)
            held = []


def _after_first_sentence(piece: str) -> Pair | None:
    starts = Splitter().starts(piece)
    return (piece[: starts[0]].strip(), piece[starts[0] :]) if starts else None


def _texts(row: Any, column: str, place: str) -> Pair:
    """Return the question and the answer of a row, and refuse a row that lacks one of them."""
    for name in ("question", column):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InvalidInputError(f"{place}: the column {name!r} must hold a text; got {row.get(name)!r}.")
    return row["question"].strip(), row[column].strip()


def _of_messages(messages: Any) -> Pair:
    """Return the question and the answer of a chat, without the tag that opens the answer's thought."""
    question = next(each["content"] for each in messages if each["role"] == "user")
    answer = next(each["content"] for each in messages if each["role"] == "assistant")
    return question.strip(), answer.strip().removeprefix("<think>").strip()


def _hub(name: str, config: str, limit: int = _HUB_ROWS) -> list[Any]:
    """Return the first rows of the training split of a data set on the hub."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "train", f"reading {name} from the hub") from error
    try:
        return list(itertools.islice(datasets.load_dataset(name, config, split="train", streaming=True), limit))
    except (OSError, ValueError, ConnectionError) as error:
        raise ModelNotFoundError(
            f"the data set {name!r} cannot be read from the hub ({type(error).__name__}: {error}). Set {TRACES}, "
            f"{SOLUTIONS} and {PROSE} to files instead; studies/second/README.md describes them."
        ) from error
