"""Where the rows of a task are read: files, hub data sets, the GSM8K test questions inside the package."""

import importlib.util
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.tasks.problem import Split
from antiphase.tasks.row_task import Ids, Origin, Rows


@dataclass(frozen=True)
class FileOrigin(Origin):
    """A `.jsonl`, `.json` or `.parquet` file.

    Args:
        path: of the file.
        test_of: the known set whose test split it is a copy of; None is a file without official splits.
        ids: of the problems.
    """

    path: str
    test_of: str | None = None
    ids: Ids = "own"

    def read(self, split: Split) -> list[Rows]:
        """All rows, whatever the split; of a copy of a test split, none for training."""
        if self.test_of is not None and split == "train":
            raise InvalidInputError(
                f"{self.test_of} has no train split in the file {self.path}, only test; train on another set."
            )
        path = Path(self.path).expanduser()
        prefix = path.stem if self.test_of is None else self.test_of + ("" if self.ids == "text" else "_test")
        return [Rows(read_table(path), prefix, official=self.test_of is not None, ids=self.ids)]

    def at_hand(self) -> list[Rows]:
        """All rows."""
        return self.read("all")


@dataclass(frozen=True)
class HubOrigin(Origin):
    """A data set on the Hugging Face hub.

    Args:
        name: what ids begin with.
        hub_id: `owner/name`.
        config: of the data set; None is its default.
        train: its split for training; None if it has none.
        test: its split for tests; None if it has none.
        revision: commit, branch or tag that is asked for.
        pinned: the commit that is read unless `revision` asks for another.
        embedded_test: whether the GSM8K test questions of this package are its test split.
        ids: of the problems.
        columns: that are read, where the others are large; None reads all.
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
        """The rows of the official split; of a data set with only one, all rows where it is for training."""
        if self.test is None:
            return [self._part(self.train or "train", official=False)]
        wanted = [("train", self.train), ("test", self.test)]
        if split != "all":
            wanted = [(kind, name) for kind, name in wanted if kind == split]
        parts = [self._part(name, official=True) for _, name in wanted if name is not None]
        if not parts:
            raise InvalidInputError(f"{self.name} has no {split} split, only test; train on another set.")
        return parts

    def at_hand(self) -> list[Rows]:
        """None; raises unless the package `datasets` is there, where it is needed."""
        if not self.embedded_test:
            self._require_datasets()
        return []

    @property
    def remedy(self) -> str:
        """What to do where the hub does not help."""
        if self.name == self.hub_id:
            return "Name another config= or split=, or give a .jsonl file in its place."
        return f"Or give a local copy: {self.name}:file=PATH."

    def _require_datasets(self) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise MissingExtraError("datasets", "train", f"reading the hub data set {self.hub_id!r}")

    def _part(self, split: str, *, official: bool) -> Rows:
        prefix = self.name if self.ids == "text" else f"{self.name}_{split}"
        if self.embedded_test and split == self.test and self.revision is None:
            with resources.as_file(resources.files("antiphase.data") / "gsm8k_test.jsonl") as path:
                return Rows(read_table(path), prefix, official=official, ids="own")
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
            reason = str(error).partition("\n")[0]
            raise InvalidInputError(
                f"the hub data set {self.hub_id!r} (config {self.config or 'default'}, split {split}) could not be "
                f"read ({reason}). {self.remedy}"
            ) from error
        return [TableRow(f"{self.hub_id}, {split} row {i}", dict(values)) for i, values in enumerate(rows)]


def _is_gated(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the hub asks for consent or a login."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or "gated dataset" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False
