"""`write_report`: one page of one run or several."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.evaluation.comparing import parse_entry
from antiphase.page.document import FORKING_SHARE, MARKERS, Document, joined
from antiphase.page.render import FILE, write_page
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

    Cost: a second for 10,000 tokens with all layers, about a minute for a million.
    """
    found = sources_of([runs] if isinstance(runs, str | Path) else runs)
    if out is None and len(found) > 1:
        raise InvalidInputError("a report of several runs needs a file to write to. Name it with --out report.html.")
    path = Path(out) if out is not None else found[0].path / FILE
    if path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a folder. Name a file, such as {path / FILE}.")
    return write_page(document_of(found, markers=markers, forking_share=forking_share), path)


def sources_of(entries: Sequence[str | Path]) -> list[Source]:
    """The runs of the entries `[NAME=]RUN[,RUN…]`.

    Raises:
        InvalidInputError: no entry, a malformed one, or a run named twice.
    """
    found = []
    for entry in entries:
        # A folder whose name has a comma or an equals sign is taken as it is.
        name, paths = (None, [str(entry)]) if Path(entry).exists() else parse_entry(str(entry))
        named = name if len(paths) == 1 or name is None else None
        for place, path in enumerate(paths):
            label = named if len(paths) == 1 else f"{name} #{place + 1}"
            found.append(Source(Path(path), label, name if len(paths) > 1 else None))
    if not found:
        raise InvalidInputError("name at least one run.")
    twice = [path for path, count in Counter(source.path.resolve() for source in found).items() if count > 1]
    if twice:
        raise InvalidInputError(f"the run {str(twice[0])!r} is named twice.")
    return found


def document_of(
    sources: Sequence[Source], *, markers: Sequence[str] = MARKERS, forking_share: float = FORKING_SHARE
) -> Document:
    """The runs as one document; models that would share a name carry their folder's.

    Raises:
        InvalidInputError: as `write_report`.
    """
    words = tuple(dict.fromkeys(word.strip().lower() for word in markers if word.strip()))
    if not 0 < forking_share < 1:
        raise InvalidInputError(f"forking_share must lie between 0 and 1; got {forking_share}.")
    documents = [read_run(source.path, label=source.label, group=source.group) for source in sources]
    counts = Counter(subject.label for document in documents for subject in document.subjects)
    folders = Counter(source.path.resolve().name for source in sources)
    for place, source in enumerate(sources):
        if any(counts[subject.label] > 1 for subject in documents[place].subjects):
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


def _title(documents: Sequence[Document]) -> str:
    names = list(dict.fromkeys(run.name for document in documents for run in document.runs))
    return " against ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
