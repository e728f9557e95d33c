"""Where the rows of a task are read: files, hub data sets, the GSM8K test questions inside the package."""

import importlib.util
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.tasks.problem import Split
from antiphase.tasks.table_task import Origin, Rows


@dataclass(frozen=True)
class FileOrigin(Origin):
    """A `.jsonl`, `.json` or `.parquet` file; it has no official splits."""

    path: str

    def read(self, split: Split) -> list[Rows]:
        """All rows, whatever the split."""
        del split
        path = Path(self.path).expanduser()
        return [Rows(read_table(path), path.stem, official=False, own_ids=True)]

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
        revision: commit, branch or tag.
        embedded_test: whether the GSM8K test questions of this package are its test split.
    """

    name: str
    hub_id: str
    config: str | None
    train: str | None
    test: str | None
    revision: str | None
    embedded_test: bool = False

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

    def _require_datasets(self) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise MissingExtraError("datasets", "train", f"reading the hub data set {self.hub_id!r}")

    def _part(self, split: str, *, official: bool) -> Rows:
        prefix = f"{self.name}_{split}"
        if self.embedded_test and split == self.test and self.revision is None:
            with resources.as_file(resources.files("antiphase.data") / "gsm8k_test.jsonl") as path:
                return Rows(read_table(path), prefix, official=official, own_ids=True)
        return Rows(self._download(split), prefix, official=official, own_ids=False)

    def _download(self, split: str) -> list[TableRow]:
        self._require_datasets()
        import datasets

        try:
            rows: Any = datasets.load_dataset(self.hub_id, self.config, split=split, revision=self.revision)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InvalidInputError(
                f"the hub data set {self.hub_id!r} (config {self.config or 'default'}, split {split}) could not be "
                f"read ({reason}). Name another config= or split=, or give a .jsonl file in its place."
            ) from error
        return [TableRow(f"{self.hub_id}, {split} row {i}", dict(values)) for i, values in enumerate(rows)]
