"""Generate, measure and write the batches of each model of a run, in one process or shared by several.

A batch is the unit of work. Every process takes the next batch that no other process has taken. What a batch contains
does not depend on the process that works on it.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel, load_model
from antiphase.progress import Progress
from antiphase.rollouts.sampling import end_tokens
from antiphase.runs.auto_targets import PLANNED, auto_names, planned
from antiphase.runs.engines import Engines, completed_batch
from antiphase.runs.items import Batch
from antiphase.runs.measuring import model_facts, short_name
from antiphase.runs.parts import Kind, kept_path
from antiphase.runs.placing import own_device
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.target_plan import plans
from antiphase.runs.team import Alone
from antiphase.signal_spec import SignalSpec

_SECONDS_TO_APPEAR = 120.0
_SECONDS_FOR_FOLDER = 60.0
_SECONDS_BETWEEN_LOOKS = 0.1


class ModelWork(ABC):
    """The part of a run that generates, measures and writes batches. `Run` derives from it.

    Args:
        config: the options of the run, a `RunConfig`.
        progress: whether a progress bar is shown.
        in_memory: a model that the user gives in memory; None loads the models by their names.

    Attributes:
        team: the processes that share the run.
        missing: for each model, the numbers of the batches that were not finished when the run began or continued.
        plans_before: for each model, the planned numbers of tokens that the interrupted run stored. A number says how
            many tokens of each rollout an estimator NAME:auto measures.
    """

    def __init__(self, config: Any, *, progress: bool, in_memory: LoadedModel | None) -> None:
        self.config, self.progress, self.in_memory = config, progress, in_memory
        self.team = Alone()
        self.missing: list[list[int]] = []
        self.plans_before: list[dict[str, int]] = []
        # The planned numbers of tokens of the estimators NAME:auto, for the model that is measured.
        self.planned: dict[str, int] = {}

    @abstractmethod
    def tables(self, batch: Any, loaded: LoadedModel, bar: Progress) -> dict[Kind, pa.Table]:
        """Measure a batch of completed rollouts. Return a mapping from the name of each table to the batch's rows."""

    def shared(self, batches: Sequence[Batch], loaded: LoadedModel, folder: RunFolder) -> Sequence[Batch]:
        """Return the batches that the second or a later model of the run works on.

        By default they are unchanged. A probe may put the completions of the first model into them.

        Args:
            batches: the batches of this model.
            loaded: this model.
            folder: the run folder.
        """
        return batches

    def specs(self) -> tuple[SignalSpec, ...]:
        """Return a `SignalSpec` (what is measured, and how) for each estimator.

        If an estimator is given as NAME:auto, its `SignalSpec` has the number of tokens that was planned for the
        present model.
        """
        return planned(self.config.specs(), self.planned)

    def run_models(self, folder: RunFolder, batches: Sequence[Sequence[Batch]]) -> None:
        """Work on batches until every batch is taken by some process. Process 0 then waits until all are written.

        Args:
            folder: the run folder.
            batches: all batches of each model.
        """
        stages = len(self.config.specs()) + (1 if self.config.rollouts is None else 0)
        total, team = stages * sum(len(b.items) for model in batches for b in model), self.team
        with Progress(
            total, shown=self.progress and team.launch.first, elsewhere=team.counted_elsewhere, finished=team.report
        ) as bar:
            for index, name in enumerate(self.config.models):
                of_model, missing = batches[index], self.missing[index]
                if team.launch.first:
                    left = set(missing)
                    there = sum(len(batch.items) for number, batch in enumerate(of_model) if number not in left)
                    bar.skip(f"{name}: resuming", stages * there)
                place = team.take(f"batch/{index}") if missing else 0
                # A process for which no batch is left does not load the model.
                if place < len(missing):
                    bar.stage(f"{name}: loading", 0)
                    loaded = self.in_memory or self._load(name)
                    if index > 0:
                        of_model = self.shared(of_model, loaded, folder)
                    with Engines(self.config, loaded, name) as engines:
                        self._run_model(folder, index, place, of_model, loaded, engines, bar)
                    del loaded
            if team.launch.first:
                bar.stage("waiting for the other processes", 0)
                for index in range(len(self.config.models)):
                    self.wait_for_parts(folder, index, bar)

    def _run_model(
        self,
        folder: RunFolder,
        index: int,
        place: int,
        batches: Sequence[Batch],
        loaded: LoadedModel,
        engines: Engines,
        bar: Progress,
    ) -> None:
        """Generate, measure and write batches of one model until none is left.

        `place` is an index in the list of missing batches. This process has taken the batch at this index first.
        """
        missing, team = self.missing[index], self.team
        first = batches[missing[0]]
        facts = model_facts(loaded, first.items[0].prompt_ids, self.config.specs())
        engine = None if first.is_completed else engines.ending_at(first.end_ids)
        of_engine = {"engine": None} if engine is None else {"engine": engine.name, **engine.facts}
        given = _without_end(batches, loaded) if self.config.rollouts is not None else {}
        self.planned = self.plans_before[index]
        facts = {**facts, **of_engine, **given}
        if place == 0:
            folder.write_model(index, {**facts, PLANNED: self.planned} if self.planned else facts)
            team.publish(f"model/{index}", facts)
        else:
            self._check_same_model(loaded.name, team.wait_for(f"model/{index}"), facts)
        while place < len(missing):
            team.check()
            batch = batches[missing[place]]
            if not batch.is_completed:
                kept = kept_path(folder.path, index, missing[place])
                batch = completed_batch(batch, loaded, engines, bar, kept)
            some = any(item.completion_ids for item in batch.items)
            if some and not self.planned and auto_names(self.config.estimators):
                self._plan(folder, index, batch, batches, loaded, facts, bar)
            tables = self.tables(batch, loaded, bar)
            team.check()  # Nothing is written to the folder of a run that has ended.
            folder.write_part(index, missing[place], tables)
            team.add(f"written/{index}")
            place = team.take(f"batch/{index}")

    def _plan(
        self,
        folder: RunFolder,
        index: int,
        batch: Batch,
        batches: Sequence[Batch],
        loaded: LoadedModel,
        facts: Mapping[str, Any],
        bar: Progress,
    ) -> None:
        """Find, for the estimators that a user gave as NAME:auto, how many tokens of each rollout they measure.

        One process finds the numbers, and the others use the same numbers.
        """
        bar.stage(f"{short_name(loaded)}: planning", 0)
        if self.team.take(f"plan/{index}") > 0:
            self.planned = self.team.wait_for(f"planned/{index}")
            return
        # Several processes measure at the same time, so each has only its share of the rollouts to measure.
        share = math.ceil(sum(len(one.items) for one in batches) / self.team.launch.size)
        self.planned = plans(loaded, batch.items, share, self.config)
        folder.write_model(index, {**facts, PLANNED: self.planned})
        self.team.publish(f"planned/{index}", self.planned)

    def _check_same_model(self, name: str, first: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Raise InvalidInputError if this process and the process with the first batch loaded different models."""
        differing = [key for key in own if first.get(key) != own[key]]
        if differing:
            shown = ", ".join(f"{key} is {own[key]!r} in one and {first.get(key)!r} in another" for key in differing)
            raise InvalidInputError(
                f"{name!r} is not the same model, or not on the same kind of device, in all processes: {shown}. All "
                "processes must load the same files on the same kind of device."
            )

    def wait_for_folder(self, folder: RunFolder, marker: Mapping[str, Any]) -> None:
        """Wait until this process sees the config.json that process 0 has written to the run folder.

        Args:
            folder: the run folder.
            marker: the content of the config.json of process 0.

        Raises:
            LostProcessError: another process has failed or does not answer.
            InvalidInputError: after a minute, the file is not there or has another content.
        """
        deadline = time.monotonic() + _SECONDS_FOR_FOLDER
        while not (folder.path / "config.json").is_file() or folder.read_json("config.json") != marker:
            self.team.check()
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"process {self.team.launch.rank} does not see the config.json that process 0 has written to "
                    f"{str(folder.path)!r}. The folder must be on a file system that all processes share."
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def wait_for_parts(self, folder: RunFolder, index: int, bar: Progress | None = None) -> None:
        """Wait until all batches of a model are written to the run folder, no matter by which process.

        Raises:
            LostProcessError: another process has failed or does not answer.
            InvalidInputError: all batches are written, but this process does not see the files of one of them.
        """
        missing, since = list(self.missing[index]), math.inf
        while missing:
            if folder.has_part(index, missing[-1]):
                missing.pop()
                continue
            self.team.check()
            # A network file system may show a file later than it was written.
            if self.team.add(f"written/{index}", 0) >= len(self.missing[index]):
                since = min(since, time.monotonic())
                if time.monotonic() - since > _SECONDS_TO_APPEAR:
                    raise InvalidInputError(
                        f"batch {missing[-1]} was written by another process, but process {self.team.launch.rank} "
                        f"does not see it in {str(folder.path)!r}. The folder must be on a file system that all "
                        "processes share."
                    )
            if bar is not None:
                bar.refresh()
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _load(self, name: str) -> LoadedModel:
        mapped = self.config.device_map is not None
        return load_model(
            name,
            dtype=self.config.dtype,
            device=self.config.device if mapped else own_device(self.config.device, self.team.launch),
            device_map=self.config.device_map,
            trust_remote_code=self.config.trust_remote_code,
            revision=self.config.revision,
            adapter=self.config.adapter,
        )


def _without_end(batches: Sequence[Batch], loaded: LoadedModel) -> dict[str, int]:
    """Return `num_without_end`: the number of given rollouts that have no end token and were not cut at a limit."""
    ends = set(end_tokens(loaded, batches[0].end_ids))
    items = [item for batch in batches for item in batch.items if item.finish != "length" and item.completion_ids]
    return {"num_without_end": sum(item.completion_ids[-1] not in ends for item in items if item.completion_ids)}
