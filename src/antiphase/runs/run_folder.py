"""Read and write a run folder: the parts of finished batches, the whole tables at the end, and the checks on resuming.

    OUT/config.json                     the options with their defaults; also says which kind of run the folder holds
    OUT/parts/MODEL/BATCH.*.parquet     the finished batches; deleted when the run is complete
    OUT/parts/MODEL/BATCH.kept.jsonl    the finished rollouts of a batch, if a server generates them; deleted too
    OUT/tokens.parquet, rollouts.parquet, steps.parquet, alternatives.parquet (if asked for), summary.json, figures/

Every file is written under a temporary name and renamed when it is complete. So a run that stops at any time, even by
kill -9, leaves no incomplete file under a final name.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.rollouts.kept_rollouts import kept_counts
from antiphase.runs.auto_targets import PLANNED
from antiphase.runs.folder_kinds import PROBE, FolderKind, check_out, is_free, read_json, read_marker, read_summary
from antiphase.runs.parts import (
    KINDS,
    Kind,
    joined_schema,
    joined_tables,
    kept_paths,
    model_folder,
    part_path,
    whole_parts,
)

_Folder = TypeVar("_Folder", bound="RunFolder")


def _as_frame(table: pa.Table) -> pd.DataFrame:
    # Arrow reads damaged text without an error, and fails later where the text is used. So the table is checked here.
    table.validate(full=True)
    frame: pd.DataFrame = table.to_pandas()
    return frame


class RunFolder:
    """The run folder of a probe. Subclasses are the folders of other kinds of runs.

    Attributes:
        KIND: the kind of run that the folder holds.
    """

    KIND: FolderKind = PROBE

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created_here = False

    @classmethod
    def create(cls: type[_Folder], path: Path, config: Mapping[str, Any]) -> _Folder:
        """Make a new run folder.

        Raises:
            InvalidInputError: the folder exists and is not empty, or cannot be written to.
        """
        check_out(path, cls.KIND, config, resume=False)
        folder = cls(path)
        with folder._writing():
            path.mkdir(parents=True, exist_ok=True)
        folder.write_json("config.json", folder._marker(config))
        folder.created_here = True
        return folder

    @classmethod
    def resume(cls: type[_Folder], path: Path, config: Mapping[str, Any]) -> _Folder:
        """Open the folder of an interrupted run with the same options, or make a new folder if the path is free.

        Raises:
            InvalidInputError: the folder holds another kind of run, or a run with other options (the message names
                them).
        """
        if is_free(path):
            return cls.create(path, config)
        check_out(path, cls.KIND, config, resume=True)
        folder, stored = cls(path), read_marker(path, cls.KIND)["config"]
        # A finished run of an earlier version stored no `draws`, and its rollouts were not drawn in the present way.
        same = {key: value for key, value in config.items() if key != "draws" or key in stored}
        folder.write_json("config.json", folder._marker(same))
        return folder

    @classmethod
    def open(cls: type[_Folder], path: Path) -> _Folder:
        """Open an existing run folder.

        Raises:
            InvalidInputError: the folder holds another kind of run, or was written in another format version.
        """
        read_marker(path, cls.KIND)
        return cls(path)

    def _marker(self, config: Mapping[str, Any]) -> dict[str, Any]:
        prompts = self.kept_prompts()
        kept = {"prompts": prompts} if prompts else {}
        return {"format": self.KIND.format, "format_version": self.KIND.version, "config": dict(config), **kept}

    def kept_prompts(self) -> dict[str, Any]:
        """Return the facts about the prompts that `keep_prompts` wrote; an empty mapping if it was not called yet."""
        if not (self.path / "config.json").is_file():
            return {}
        return dict(self.read_json("config.json").get("prompts", {}))

    def keep_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Write facts about the prompts to config.json. A resumed run checks that they are still the same.

        Args:
            prompts: `sha256` is the digest of the prompts' token ids for each model. `moment` is the time that chat
                templates read; it is there only if a template asks for the time.

        Raises:
            InvalidInputError: the folder has other digests, since the tokenizer or its chat template has changed.
        """
        before = self.kept_prompts()
        other = [name for name, value in before.get("sha256", {}).items() if prompts["sha256"].get(name) != value]
        if other:
            raise InvalidInputError(
                f"the prompts have other token ids for {', '.join(other)} than when {str(self.path)!r} was begun: the "
                "tokenizer or its chat template has changed since. Start a new run in another --out."
            )
        self.write_json("config.json", {**self.read_json("config.json"), "prompts": dict(prompts)})

    @property
    def complete(self) -> bool:
        """Whether the run is finished: whether its summary exists."""
        return (self.path / "summary.json").is_file()

    def read_json(self, name: str) -> dict[str, Any]:
        """Read the JSON object in a file of the folder."""
        return read_json(self.path / name)

    def read_summary(self) -> dict[str, Any]:
        """Read the summary of a finished run.

        Raises:
            InvalidInputError: the run is unfinished, or was written in another format version.
        """
        return read_summary(self.path, self.KIND)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object to a file in the folder. NaN is refused, since JSON has no NaN."""
        self.write_text(name, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in the folder. The file gets its name only when it is complete."""
        with self._writing(), self._replacing(self.path / name) as work:
            work.write_text(text, encoding="utf-8")

    def write_table(self, kind: Kind, table: pa.Table) -> None:
        """Write the whole table of a finished run, such as tokens.parquet."""
        with self._writing(), self._replacing(self.path / f"{kind}.parquet") as work:
            pq.write_table(table, work)

    def has_part(self, model: int, batch: int) -> bool:
        """Return whether a batch is finished: whether its rollouts file exists, which is written last."""
        return part_path(self.path, model, batch, "rollouts").is_file()

    def write_part(self, model: int, batch: int, tables: Mapping[Kind, pa.Table]) -> None:
        """Write the tables of a finished batch to the folder, one file for each table."""
        with self._writing():
            model_folder(self.path, model).mkdir(parents=True, exist_ok=True)
            for kind in KINDS:
                if kind in tables:
                    with self._replacing(part_path(self.path, model, batch, kind)) as work:
                        pq.write_table(tables[kind], work)

    def read_part(self, model: int, batch: int, kind: Kind) -> pa.Table:
        """Read one table of a finished batch."""
        return pq.read_table(part_path(self.path, model, batch, kind))

    def read_parts(self, kind: Kind) -> pd.DataFrame | None:
        """Read one table from the finished batches of an unfinished run; None if no batch has this table.

        The run may continue meanwhile, so a table that is read later may contain more batches.

        Raises:
            InvalidInputError: a file of a batch cannot be read.
        """
        parts = whole_parts(self.path, kind)
        if not parts:
            return None
        with self._reading(self.path / "parts"):
            return _as_frame(pa.concat_tables(joined_tables(parts, joined_schema(parts))))

    def merge_parts(self) -> None:
        """Join the files of all batches (the parts) into whole tables, and write them.

        If a model lacks a column that another model has, the rows of the first model have null in this column.
        """
        for kind in KINDS:
            parts = whole_parts(self.path, kind)
            if not parts:
                continue
            schema = joined_schema(parts)
            with (
                self._writing(),
                self._replacing(self.path / f"{kind}.parquet") as work,
                pq.ParquetWriter(work, schema) as writer,
            ):
                for table in joined_tables(parts, schema):
                    writer.write_table(table)

    def read_frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Read the whole tables of tokens and of rollouts.

        Raises:
            InvalidInputError: a table cannot be read.
        """
        return self.read_frame("tokens"), self.read_frame("rollouts")

    def read_frame(self, kind: Kind) -> pd.DataFrame:
        """Read one whole table of a finished run, such as tokens.parquet.

        Raises:
            InvalidInputError: the table cannot be read.
        """
        path = self.path / f"{kind}.parquet"
        with self._reading(path):
            return _as_frame(pq.read_table(path))

    def read_steps(self) -> pd.DataFrame | None:
        """Read the whole table of steps; None if the run was made before antiphase measured steps.

        Raises:
            InvalidInputError: the table cannot be read.
        """
        return self.read_frame("steps") if (self.path / "steps.parquet").is_file() else None

    def read_alternatives(self) -> pd.DataFrame | None:
        """Read the table of the most probable next tokens at each position (alternatives); None if none were stored.

        Raises:
            InvalidInputError: the table cannot be read.
        """
        return self.read_frame("alternatives") if (self.path / "alternatives.parquet").is_file() else None

    def write_model(self, model: int, facts: Mapping[str, Any]) -> None:
        """Write the facts about a loaded model, such as its dtype and layers, to its model.json.

        Raises:
            InvalidInputError: the finished batches were measured on another model.
        """
        place = model_folder(self.path, model)
        if (place / "model.json").is_file():
            before = self.read_model(model)
            # An earlier version wrote fewer facts. Only the facts that it wrote are compared.
            differing = [key for key in facts if key in before and before[key] != facts[key]]
            # An earlier version wrote the number of the device too, as in cuda:0.
            one_device = "+" not in before.get("device", "")
            if "device" in differing and one_device and before["device"].partition(":")[0] == facts["device"]:
                differing.remove("device")
            if differing:
                shown = ", ".join(f"{key} was {before.get(key)!r}, now {facts[key]!r}" for key in differing)
                raise InvalidInputError(
                    f"{str(self.path)!r} was begun with another model, or on another device: {shown}. "
                    "Start a new run in another --out."
                )
        with self._writing():
            place.mkdir(parents=True, exist_ok=True)
        self.write_json(f"parts/model-{model:03d}/model.json", facts)

    def planned_targets(self, model: int) -> dict[str, int]:
        """Return a mapping from estimators to how many tokens of each rollout of a model they measure, as planned.

        The mapping contains only the estimators that a user gave as NAME:auto. It is empty if there are none.
        """
        there = (model_folder(self.path, model) / "model.json").is_file()
        return dict(self.read_model(model).get(PLANNED, {})) if there else {}

    def read_model(self, model: int) -> dict[str, Any]:
        """Read the facts about a model that `write_model` wrote.

        If a server generated the rollouts, the facts include how many of them came as text and were tokenised here.
        """
        return {**self.read_json(f"parts/model-{model:03d}/model.json"), **kept_counts(kept_paths(self.path, model))}

    def discard_if_unused(self) -> None:
        """Remove the folder if this run made it and finished no rollout.

        A corrected command can then use the same path.
        """
        begun = any(any(self.path.glob(f"parts/*/*.{ending}")) for ending in ("parquet", "jsonl"))
        if self.created_here and not begun and not self.complete:
            shutil.rmtree(self.path / "parts", ignore_errors=True)
            (self.path / "config.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def drop_parts(self) -> None:
        """Remove the parts (the files of single batches). The whole tables must have been written before."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise InvalidInputError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None

    @contextlib.contextmanager
    def _replacing(self, target: Path) -> Iterator[Path]:
        work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            yield work
            os.replace(work, target)
        finally:
            work.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except AntiphaseError:
            raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            mend = (
                "Free some space; a run is continued with --resume."
                if full
                else "Choose a folder that you can write to."
            )
            raise InvalidInputError(
                f"cannot write to {str(self.path)!r} ({error.strerror or error}). {mend}"
            ) from error
