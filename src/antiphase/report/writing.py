"""`write_report`: write the interactive page of one run or of several runs."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.page.defaults import FORKING_SHARE, MARKERS, check_share
from antiphase.page.document import Document, joined
from antiphase.page.html import write_page
from antiphase.report.entries import Source, check_report
from antiphase.report.sources import read_run


def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    markers: Sequence[str] = MARKERS,
    forking_share: float = FORKING_SHARE,
) -> Path:
    """Write the interactive page of one run or of several runs, as one file that a browser opens from disk.

    Args:
        runs: the folders of probes, evaluations, comparisons or training runs, finished or not. Each entry may have
            the form `[NAME=]RUN[,RUN…]`. Several runs under one name are seeds of one training recipe.
        out: the file to write. The default is `report.html` in the folder of the run, if there is only one run.
        markers: the words that count as reasoning markers. They are compared with whole tokens, ignoring case.
        forking_share: forking tokens are the tokens with the highest entropy. This is their share of all tokens, in
            (0, 1).

    Returns:
        the path of the file.

    Raises:
        InvalidInputError: a folder is missing, is empty, holds no run or is damaged, nothing in it is finished, two
            runs have one name, or the file cannot be written.

    Cost: it grows with tokens × layers × projections. docs/report.md has measured numbers.
    """
    found, path = check_report(runs, out, forking_share=forking_share)
    return write_page(document_of(found, markers=markers, forking_share=forking_share), path)


def document_of(
    sources: Sequence[Source], *, markers: Sequence[str] = MARKERS, forking_share: float = FORKING_SHARE
) -> Document:
    """Read the runs, and return the content of one page about all of them.

    If models or training runs of several folders have the same name, they get the name of their folder instead.

    Args:
        sources: the runs.
        markers: the words that count as reasoning markers. They are compared with whole tokens, ignoring case.
        forking_share: the share of forking tokens, which are the tokens with the highest entropy, among all tokens.

    Raises:
        InvalidInputError: the folder of a run is missing, holds no run or is damaged, nothing in it is finished, two
            runs have one name, or an option is invalid.
    """
    if isinstance(markers, str) or not all(isinstance(word, str) for word in markers):
        raise InvalidInputError(f"markers must be a list of words, such as ['wait', 'so']; got {markers!r}.")
    words = tuple(dict.fromkeys(word.strip().lower() for word in markers if word.strip()))
    check_share(forking_share)
    documents = [read_run(source.path, label=source.label, group=source.group) for source in sources]
    counts = Counter(label for document in documents for label in _labels(document))
    folders = Counter(source.path.resolve().name for source in sources)
    for place, source in enumerate(sources):
        if source.label is None and any(counts[label] > 1 for label in _labels(documents[place])):
            name = source.path.resolve().name
            label = str(source.path) if folders[name] > 1 else name
            documents[place] = read_run(source.path, label=label, group=source.group)
    title = documents[0].title if len(documents) == 1 else _title(documents)
    return dataclasses.replace(
        joined(documents, title),
        markers=words,
        forking_share=forking_share,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _labels(document: Document) -> list[str]:
    """Return the names of the models and training runs of a document."""
    return [subject.label for subject in document.subjects] + [training.label for training in document.trainings]


def _title(documents: Sequence[Document]) -> str:
    """Return a title that names up to three runs."""
    names = list(dict.fromkeys(run.name for document in documents for run in document.runs))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
