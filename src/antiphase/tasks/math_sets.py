"""The known sets of mathematics: where each is on the hub, its splits, its columns and its licence."""

from dataclasses import dataclass
from typing import Any

from antiphase.tasks.extraction import ExtractMode
from antiphase.tasks.math_equality import Order
from antiphase.tasks.origins import FileOrigin, HubOrigin
from antiphase.tasks.specs import Spec, parse_options
from antiphase.tasks.table_task import ANSWER_COLUMNS, QUESTION_COLUMNS, Columns, Origin, TableTask

FILE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
_SHARED: dict[str, Any] = {"extract": ExtractMode, "order": Order}
_COLUMN_OPTIONS: dict[str, Any] = {"question_column": str, "answer_column": str}


@dataclass(frozen=True)
class MathSet:
    """A known set: hub id, config, splits and columns, licence."""

    hub_id: str
    config: str | None
    train: str | None
    test: str | None
    question: str
    answer: str
    licence: str
    embedded_test: bool = False


MATH_SETS = {
    "gsm8k": MathSet("openai/gsm8k", "main", "train", "test", "question", "answer", "MIT", embedded_test=True),
    "math": MathSet("DigitalLearningGmbH/MATH-lighteval", None, "train", "test", "problem", "solution", "MIT"),
    "math500": MathSet("HuggingFaceH4/MATH-500", None, None, "test", "problem", "answer", "MIT (as MATH)"),
    "aime24": MathSet("HuggingFaceH4/aime_2024", None, None, "train", "problem", "answer", "problems © MAA"),
    "aime25": MathSet("math-ai/aime25", None, None, "test", "problem", "answer", "problems © MAA"),
    "amc23": MathSet("math-ai/amc23", None, None, "test", "question", "answer", "problems © MAA"),
    "deepscaler": MathSet("agentica-org/DeepScaleR-Preview-Dataset", None, "train", None, "problem", "answer", "MIT"),
}


def known_set(spec: Spec, name: str) -> TableTask:
    """The task of a known set; `revision=` chooses another version of it."""
    options = parse_options(spec, {**_SHARED, "revision": str})
    known = MATH_SETS[name]
    origin = HubOrigin(
        name, known.hub_id, known.config, known.train, known.test, options.get("revision"), known.embedded_test
    )
    # The embedded file calls its question column `prompt`.
    columns = Columns((known.question, "prompt"), (known.answer,))
    source = f"hub data set {known.hub_id}" + (", test split inside this package" if known.embedded_test else "")
    return _task(spec, name, source, known.licence, origin, columns, options)


def file_task(spec: Spec) -> TableTask:
    """The task of a local file; its prompts decide the split."""
    options = parse_options(spec, _SHARED | _COLUMN_OPTIONS)
    origin = FileOrigin(spec.name)
    return _task(spec, spec.name, f"the file {spec.name}", "not stated", origin, _columns(options), options)


def hub_task(spec: Spec) -> TableTask:
    """The task of a hub data set: its splits train and test, or the one that `split=` names, divided by prompt."""
    allowed = _SHARED | _COLUMN_OPTIONS | {"config": str, "split": str, "revision": str}
    options = parse_options(spec, allowed)
    train, test = (options["split"], None) if "split" in options else ("train", "test")
    origin = HubOrigin(spec.name, spec.name, options.get("config"), train, test, options.get("revision"))
    return _task(spec, spec.name, f"hub data set {spec.name}", "see its page", origin, _columns(options), options)


def _columns(options: dict[str, Any]) -> Columns:
    question, answer = options.get("question_column"), options.get("answer_column")
    return Columns((question,) if question else QUESTION_COLUMNS, (answer,) if answer else ANSWER_COLUMNS)


def _task(
    spec: Spec, name: str, source: str, licence: str, origin: Origin, columns: Columns, options: dict[str, Any]
) -> TableTask:
    return TableTask(
        spec=spec.text,
        name=name,
        source=source,
        licence=licence,
        origin=origin,
        columns=columns,
        extract=options.get("extract", "auto"),
        order=options.get("order", "given"),
    )
