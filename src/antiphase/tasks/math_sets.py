r"""Tasks of mathematical questions: the sets that antiphase knows by name, local files, and other sets on the hub.

For each set that antiphase knows, this module has its place on the Hugging Face hub, splits, columns and licence. The
spec `NAME:file=PATH` reads a local copy of the set instead. An evaluation reads the copy as the test split, and a
training reads it as the train split. The problems of a copy get the same ids as those from the hub.
"""

from dataclasses import dataclass, replace
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.tasks.extraction import ExtractMode
from antiphase.tasks.math_equality import Compare, Order
from antiphase.tasks.origins import FileOrigin, HubOrigin
from antiphase.tasks.row_task import Ids, Origin
from antiphase.tasks.specs import Spec, parse_options
from antiphase.tasks.table_task import ANSWER_COLUMNS, QUESTION_COLUMNS, Columns, TableTask

FILE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
BOXED_TEMPLATE = "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{}."
_SHARED: dict[str, Any] = {"extract": ExtractMode, "order": Order, "compare": Compare}
_COLUMN_OPTIONS: dict[str, Any] = {"question_column": str, "answer_column": str}


@dataclass(frozen=True)
class MathSet:
    """A data set on the Hugging Face hub that antiphase knows by name: where it is, and what its columns mean.

    Args:
        hub_id: the id of the data set on the hub, `owner/name`.
        revision: the commit that is read; the name of a branch, if antiphase has not fixed a commit.
        config: the configuration of the data set; None is its default.
        train: the name of the set's split for training; None if the set has no such split.
        test: the name of the set's split for tests; None if the set has no such split.
        question: the column of the question.
        answer: the column of the answer.
        licence: the licence of the problems.
        embedded_test: whether antiphase contains the test split.
        ids: how the problems get their ids (see `Rows`). The default makes an id from the text of the problem, because
            copies of a test set can differ in the order of their rows.
        order: whether the order of the items matters in an answer such as `1,-2`, a list without brackets. `given`
            means yes, and `any` means no.
        context: the column of a text that belongs before the question; None if the set has no such column.
        joined: whether the answer column holds lists of answers.
        test_rows: the number of rows of the test split at the commit `revision`; None if the set has no test split.
        boxed_only: whether rows without a boxed answer are left out.
    """

    hub_id: str
    revision: str
    config: str | None
    train: str | None
    test: str | None
    question: str
    answer: str
    licence: str
    embedded_test: bool = False
    ids: Ids = "text"
    order: Order = "given"
    context: str | None = None
    joined: bool = False
    test_rows: int | None = None
    boxed_only: bool = False


MATH_SETS = {
    "gsm8k": MathSet(
        "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866",
        "main", "train", "test", "question", "answer", "MIT", embedded_test=True, ids="row", test_rows=1319,
    ),
    "math": MathSet(
        "DigitalLearningGmbH/MATH-lighteval", "0530c78699ea5e8eb5530600900e1f328b48acad",
        None, "train", "test", "problem", "solution", "MIT", ids="row", test_rows=5000,
    ),
    "math500": MathSet(
        "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        None, None, "test", "problem", "answer", "MIT (as MATH)", test_rows=500,
    ),
    "aime24": MathSet(
        "HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        None, None, "train", "problem", "answer", "problems © MAA", test_rows=30,
    ),
    "aime25": MathSet(
        "math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        None, None, "test", "problem", "answer", "problems © MAA", test_rows=30,
    ),
    "amc23": MathSet(
        "math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057",
        None, None, "test", "question", "answer", "problems © MAA", test_rows=40,
    ),
    "minerva": MathSet(
        "math-ai/minervamath", "ee46ddc498933b1977577953250ca5c66be64f96",
        None, None, "test", "question", "answer", "problems of MIT OpenCourseWare", test_rows=272,
    ),
    "olympiadbench": MathSet(
        "Hothan/OlympiadBench", "91184b52131e7fc9455fef848035173aea8cc01a",
        "OE_TO_maths_en_COMP", None, "train", "question", "final_answer", "Apache-2.0",
        order="any", context="context", joined=True, test_rows=674,
    ),
    "deepscaler": MathSet(
        "agentica-org/DeepScaleR-Preview-Dataset", "b6ae8c60f5c1f2b594e2140b91c49c9ad0949e29",
        None, "train", None, "problem", "answer", "MIT", ids="row",
    ),
    "openthoughts_math": MathSet(
        "open-r1/OpenThoughts-114k-math", "main",
        None, "train", None, "problem", "solution", "see its page", ids="row", boxed_only=True,
    ),
}  # fmt: skip


def known_set(spec: Spec, name: str) -> TableTask:
    """Make the task of a data set that antiphase knows by name, such as `gsm8k`.

    The option `revision=` chooses another version of the set. The option `file=` reads a local copy.

    Raises:
        InvalidInputError: an option is unknown, both `revision=` and `file=` are given, or the file name has an
            unknown suffix.
    """
    options = parse_options(spec, _SHARED | _COLUMN_OPTIONS | {"revision": str, "file": str})
    known = MATH_SETS[name]
    # The usual names are looked for too, since copies may use them: the embedded file calls the question `prompt`.
    columns = Columns(
        tuple(dict.fromkeys((known.question, *QUESTION_COLUMNS))),
        tuple(dict.fromkeys((known.answer, *ANSWER_COLUMNS))),
        (known.context,) if known.context else (),
        known.joined,
    )
    source = describe_source(options, known.hub_id, known.embedded_test)
    origin = known_origin(spec, name, known, options)
    task = _task(spec, source, known.licence, origin, {"order": known.order, **options}, columns)
    return replace(task, name=name, prompt_template=BOXED_TEMPLATE, boxed_only=known.boxed_only)


def known_origin(spec: Spec, name: str, known: MathSet, options: dict[str, Any]) -> Origin:
    """Return where to read a data set that antiphase knows by name, such as `gsm8k`: a file, or the hub.

    The option `file=` names a file to read. Without this option, the set is read from the hub, in the version that the
    option `revision=` names, or else in the version that antiphase has fixed.

    Raises:
        InvalidInputError: both options are given, or the file name has an unknown suffix.
    """
    path, revision = options.get("file"), options.get("revision")
    if path is None:
        return HubOrigin(
            name, known.hub_id, known.config, known.train, known.test, revision, known.revision, known.embedded_test,
            known.ids, (known.question, known.answer) if known.boxed_only else None,
        )  # fmt: skip
    if revision is not None:
        raise InvalidInputError(f"task {spec.text!r}: give file= or revision=, not both; a file has no revisions.")
    if not path.endswith(FILE_SUFFIXES):
        raise InvalidInputError(f"task {spec.text!r}: file must end in {', '.join(FILE_SUFFIXES)}; got {path!r}.")
    if known.test is None:
        return FileOrigin(path, ids="own")
    ids: Ids = "text" if known.ids == "text" else "own"
    return FileOrigin(path, name, ids, has_train=known.train is not None, embedded_test=known.embedded_test)


def describe_source(options: dict[str, Any], hub_id: str, embedded_test: bool = False) -> str:
    """Return one line that says where the problems come from: a file, the hub, or antiphase itself."""
    if "file" in options:
        return f"the file {options['file']}, a copy of the hub data set {hub_id}"
    return f"hub data set {hub_id}" + (", test split inside this package" if embedded_test else "")


def file_task(spec: Spec) -> TableTask:
    """Make the task of a local file. The prompt of a problem decides the split (see `distinct_problems`)."""
    options = parse_options(spec, _SHARED | _COLUMN_OPTIONS)
    return _task(spec, f"the file {spec.name}", "not stated", FileOrigin(spec.name), options, Columns())


def hub_task(spec: Spec) -> TableTask:
    """Make the task of a data set on the hub, with its splits train and test.

    If the option `split=` names one split of the data set, all problems come from it. The prompt of a problem then
    decides whether the problem is for training or for tests (see `distinct_problems`).
    """
    allowed = _SHARED | _COLUMN_OPTIONS | {"config": str, "split": str, "revision": str}
    options = parse_options(spec, allowed)
    train, test = (options["split"], None) if "split" in options else ("train", "test")
    origin = HubOrigin(spec.name, spec.name, options.get("config"), train, test, options.get("revision"))
    return _task(spec, f"hub data set {spec.name}", "see its page", origin, options, Columns())


def _task(
    spec: Spec, source: str, licence: str, origin: Origin, options: dict[str, Any], columns: Columns
) -> TableTask:
    if "question_column" in options:
        columns = replace(columns, question=(options["question_column"],))
    if "answer_column" in options:
        columns = replace(columns, answer=(options["answer_column"],))
    return TableTask(
        spec=spec.text,
        name=spec.name,
        source=source,
        licence=licence,
        origin=origin,
        extract=options.get("extract", "auto"),
        columns=columns,
        order=options.get("order", "given"),
        compare=options.get("compare", "math"),
    )
