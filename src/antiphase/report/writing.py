"""`write_report`: one page of one run or several."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.evaluation.compare import parse_entry
from antiphase.page.document import FORKING_SHARE, MARKERS, Document, joined
from antiphase.page.html import FILE, write_page
from antiphase.report.sources import read_run


@dataclass(frozen=True)
class Source:
    """A run to be shown.

    Args:
        path: of its folder.
        label: what the user calls it.
        group: the name that the seeds of one training recipe share.
    """

    path: Path
    label: str | None = None
    group: str | None = None


def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    markers: Sequence[str] = MARKERS,
    forking_share: float = FORKING_SHARE,
) -> Path:
    """Write the interactive page of one run or several: one file that opens from disk.

    Args:
        runs: folders of probes, evaluations, comparisons or training runs, finished or not; each may be
            `[NAME=]RUN[,RUN…]`, where several under one name are seeds.
        out: the file; by default `report.html` in the folder of the only run.
        markers: reasoning markers, matched against whole tokens without case.
        forking_share: share of tokens of the highest entropy that count as forking, in (0, 1).

    Returns:
        the path of the file.

    Raises:
        InvalidInputError: a folder that is missing, empty, foreign, damaged or has nothing finished; two models of one
            name; or a file that cannot be written.

    Cost: see docs/report.md; it grows with tokens × layers × projections.
    """
    found = sources_of(runs)
    if out is None and len(found) > 1:
        raise InvalidInputError("a report of several runs needs a file to write to. Name it with --out report.html.")
    path = Path(out) if out is not None else found[0].path / FILE
    if os.path.isdir(path):
        raise InvalidInputError(f"{str(path)!r} is a folder. Name a file, such as {path / FILE}.")
    return write_page(document_of(found, markers=markers, forking_share=forking_share), path)


def sources_of(entries: str | Path | Sequence[str | Path]) -> list[Source]:
    """The runs of one entry or several, each `[NAME=]RUN[,RUN…]`.

    Raises:
        InvalidInputError: no entry, a malformed one, a run named twice, or two of one name.
    """
    found: list[Source] = []
    listed = [entries] if isinstance(entries, str | Path) else entries
    if not isinstance(listed, Sequence) or not all(isinstance(entry, str | Path) for entry in listed):
        raise InvalidInputError(f"runs must be a folder or a list of folders; got {entries!r}.")
    for entry in listed:
        # A folder whose name has a comma or an equals sign is taken as it is.
        name, paths = (None, [str(entry)]) if os.path.exists(entry) else parse_entry(str(entry))
        if not str(entry).startswith(f"{name}="):
            name = None  # several without a name go by their folders
        for place, path in enumerate(paths):
            label = f"{name} #{place + 1}" if name and len(paths) > 1 else name
            found.append(Source(Path(path), label, name if len(paths) > 1 else None))
    if not found:
        raise InvalidInputError("name at least one run.")
    twice = [path for path, count in Counter(source.path.resolve() for source in found).items() if count > 1]
    if twice:
        raise InvalidInputError(f"the run {str(twice[0])!r} is named twice.")
    labels = Counter(source.label for source in found if source.label is not None)
    shared = next((label for label, count in labels.items() if count > 1), None)
    if shared is not None:
        raise InvalidInputError(
            f"two runs are called {shared!r}. Name them differently; or give the seeds of one as NAME=RUN,RUN."
        )
    return found


def check_share(forking_share: float) -> None:
    """Refuse a share of forking tokens that is none.

    Raises:
        InvalidInputError: it does not lie between 0 and 1.
    """
    if not 0 < forking_share < 1:
        raise InvalidInputError(f"forking_share must lie between 0 and 1; got {forking_share}.")


def document_of(
    sources: Sequence[Source], *, markers: Sequence[str] = MARKERS, forking_share: float = FORKING_SHARE
) -> Document:
    """The runs as one document; where models or training runs would share a name, they carry their folder's.

    Raises:
        InvalidInputError: as `write_report`.
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
    return [subject.label for subject in document.subjects] + [training.label for training in document.trainings]


def _title(documents: Sequence[Document]) -> str:
    names = list(dict.fromkeys(run.name for document in documents for run in document.runs))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
