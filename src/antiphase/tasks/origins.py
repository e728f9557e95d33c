"""Read the rows that a task's problems are made from.

Rows come from a file, from a data set on the Hugging Face hub, or from the GSM8K test questions inside this package.
"""

import importlib.util
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError, MissingExtraError, first_line
from antiphase.tasks.problem import Split
from antiphase.tasks.row_task import ID_COLUMNS, Ids, Origin, Rows

# Finds `test` as a separate word: in `gsm8k-test.jsonl` and `test/algebra/3.json`, not in `latest` or `contest`.
_SAYS_TEST = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class FileOrigin(Origin):
    """A `.jsonl`, `.json` or `.parquet` file that the rows of a task are read from.

    A known set is a data set that antiphase knows by name, such as `gsm8k`. The file may be a
    local copy of a known set.

    Args:
        path: the path of the file.
        test_of: the name of the known set that the file is a copy of. The copy is read as the set's test split. For
            any other file, None is given, and the prompt of each row decides the split of the row.
        ids: how the problems get their ids (see `Rows`).
        has_train: whether the known set also has a train split. If so, a training reads the file as a copy of the
            train split.
        embedded_test: whether the known set is GSM8K, whose test split antiphase contains.
    """

    path: str
    test_of: str | None = None
    ids: Ids = "own"
    has_train: bool = False
    embedded_test: bool = False

    def read(self, split: Split) -> list[Rows]:
        """Return all rows of the file, as a list of one `Rows`. The rows are the same for every split.

        Raises:
            InvalidInputError: the file cannot be read, or `split` is `train` although the file is read as a test
                split.
        """
        if self.test_of is not None and split == "train":
            mend = (
                "Only `antiphase train` reads the file as the train split." if self.has_train else
                f"Train on another set. To train on these rows all the same, name the file alone: {self.path}"
            )  # fmt: skip
            raise InvalidInputError(
                f"the file {self.path} is read as the test split of {self.test_of}, so it has no train split. {mend}"
            )
        path = Path(self.path).expanduser()
        prefix = path.stem if self.test_of is None else self.test_of + ("" if self.ids == "text" else "_test")
        return [Rows(read_table(path), prefix, official=self.test_of is not None, ids=self.ids)]

    def for_training(self) -> Origin:
        """Return the origin that training uses for this file.

        If the file is a copy of a known set with a train split, the returned origin reads the file as the train
        split. For any other file, this origin itself is returned.
        """
        if self.test_of is None or not self.has_train:
            return self
        return TrainingFile(self.path, self.test_of, self.ids, self.has_train, self.embedded_test)


class TrainingFile(FileOrigin):
    """A file that is read as the train split of a known set (see `FileOrigin`). `test_of` is the name of the set.

    The held-out problems measure a training. If antiphase contains the set's test questions, these are the held-out
    problems. Otherwise the prompt of each row decides whether the row is for training or held out.
    """

    def read(self, split: Split) -> list[Rows]:
        """Return the rows of the split. Warn if the name of the file or the ids of its rows say "test".

        Raises:
            InvalidInputError: the file cannot be read, or it holds test questions that antiphase contains.
        """
        rows = read_table(Path(self.path).expanduser())
        training = Rows(rows, f"{self.test_of}_train", official=self.embedded_test, ids=self.ids)
        if split != "test":
            self._look_for_test(rows)
        if not self.embedded_test:
            return [training]
        parts = {"train": training, "test": _embedded_test(f"{self.test_of}_test")}
        return [part for kind, part in parts.items() if split in (kind, "all")]

    def _look_for_test(self, rows: Sequence[TableRow]) -> None:
        """Raise InvalidInputError if rows are known test questions. Warn if the rows look like a test split."""
        if self.embedded_test:
            known = {str(row.values["prompt"]).strip() for row in _embedded_test("").rows}
            texts = [[value.strip() for value in row.values.values() if isinstance(value, str)] for row in rows]
            shared = sum(not known.isdisjoint(values) for values in texts)
            if shared:
                raise InvalidInputError(
                    f"{shared} of the {len(rows)} rows of {self.path} are test questions of {self.test_of}. A "
                    f"training must not use them. Give a copy of the train split of {self.test_of}."
                )
        ids = [str(row.first_of(ID_COLUMNS)) for row in rows]
        called = sum(_SAYS_TEST.search(name) is not None for name in ids) > len(ids) / 2
        if called or _SAYS_TEST.search(Path(self.path).stem):
            warnings.warn(
                f"{self.path} seems to be a test split, by {'the ids of its rows' if called else 'its name'}, but the "
                f"run trains on it. An evaluation on {self.test_of} would then use problems that the model has seen.",
                stacklevel=2,
            )


@dataclass(frozen=True)
class HubOrigin(Origin):
    """A data set on the Hugging Face hub that the rows of a task are read from.

    Args:
        name: the name of the data set. The ids of its problems begin with this name.
        hub_id: the id of the data set on the hub, `owner/name`.
        config: the configuration of the data set; None is its default.
        train: the name of the data set's split for training; None if it has no such split.
        test: the name of the data set's split for tests; None if it has no such split.
        revision: the commit, branch or tag that the user asks for; None if the user names no version.
        pinned: the commit that is read if `revision` is None; None reads the newest version.
        embedded_test: whether the data set is GSM8K, whose test split antiphase contains.
        ids: how the problems get their ids (see `Rows`).
        columns: the only columns that are kept, for a data set whose other columns are large; None keeps all.
    """

    name: str
    hub_id: str
    config: str | None
    train: str | None
    test: str | None
    revision: str | None
    pinned: str | None = None
    embedded_test: bool = False
    ids: Ids = "row"
    columns: tuple[str, ...] | None = None

    def read(self, split: Split) -> list[Rows]:
        """Return the rows of the split. If the data set has no test split, return all rows.

        Raises:
            InvalidInputError: the data set has no such split, or it cannot be read from the hub.
            MissingExtraError: the package `datasets` is needed but not installed.
        """
        if self.test is None:
            return [self._part(self.train or "train", official=False)]
        wanted = [name for kind, name in (("train", self.train), ("test", self.test)) if split in (kind, "all")]
        parts = [self._part(name, official=True) for name in wanted if name is not None]
        if not parts:
            raise InvalidInputError(f"{self.name} has no {split} split, but only a test split. Train on another set.")
        return parts

    def at_hand(self) -> list[Rows]:
        """Return an empty list, because rows of the hub need a download. Check that the download is possible.

        Raises:
            MissingExtraError: the package `datasets` is needed but not installed.
        """
        if not self.embedded_test:
            self._require_datasets()
        return []

    @property
    def remedy(self) -> str:
        """The last sentence of an error message. It says what the user can do if the hub cannot be read."""
        if self.name == self.hub_id:
            return "Name another config= or split=, or give a .jsonl file in its place."
        return f"Or give a local copy: {self.name}:file=PATH."

    def _require_datasets(self) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise MissingExtraError("datasets", "train", f"reading the hub data set {self.hub_id!r}")

    def _part(self, split: str, *, official: bool) -> Rows:
        """Return the rows of one split. If antiphase contains these rows, the hub is not asked."""
        prefix = self.name if self.ids == "text" else f"{self.name}_{split}"
        if self.embedded_test and split == self.test and self.revision is None:
            return _embedded_test(prefix)
        return Rows(self._download(split), prefix, official=official, ids=self.ids)

    def _download(self, split: str) -> list[TableRow]:
        self._require_datasets()
        import datasets

        try:
            revision = self.revision or self.pinned
            rows: Any = datasets.load_dataset(self.hub_id, self.config, split=split, revision=revision)
            if self.columns is not None:
                rows = rows.select_columns([name for name in self.columns if name in rows.column_names])
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            if _is_gated(error):
                raise InvalidInputError(
                    f"the hub data set {self.hub_id!r} is gated: accept its terms on "
                    f"https://huggingface.co/datasets/{self.hub_id} and log in with `hf auth login`. {self.remedy}"
                ) from error
            raise InvalidInputError(
                f"the hub data set {self.hub_id!r} (config {self.config or 'default'}, split {split}) could not be "
                f"read ({first_line(error)}). {self.remedy}"
            ) from error
        return [TableRow(f"{self.hub_id}, {split} row {i}", dict(values)) for i, values in enumerate(rows)]


def _embedded_test(prefix: str) -> Rows:
    """Read the GSM8K test questions that antiphase contains. The ids of problems begin with `prefix`."""
    with resources.as_file(resources.files("antiphase.data") / "gsm8k_test.jsonl") as path:
        return Rows(read_table(path), prefix, official=True, ids="own")


def _is_gated(error: BaseException | None) -> bool:
    """Return whether an error, or the error that caused it, says that the hub asks for consent or a login."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or "gated dataset" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False
