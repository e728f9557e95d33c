"""The loop of a run over models and batches, which a probe and an evaluation share.

What can be refused without weights is refused before anything is loaded: architectures, layers, lengths, token ids and
the output folder. Each model's weights, and one tiny measurement, are checked before its first rollout. Batches are
written as they finish, so a run that was cut is continued.
"""

import contextlib
import dataclasses
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import pandas as pd
import pyarrow as pa

from antiphase.data.chat_template import reads_clock, unused_variables
from antiphase.data.prompt_rendering import prompts_digest
from antiphase.errors import InvalidInputError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel, inspect_model, load_model
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.document import Document
from antiphase.page.html import add_page
from antiphase.progress import Progress
from antiphase.rollouts.sampling import end_tokens
from antiphase.runs.engines import Engines
from antiphase.runs.items import Batch, Limits, completed
from antiphase.runs.measuring import model_facts, short_name
from antiphase.runs.parts import Kind
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.run_request import RunRequest
from antiphase.runs.versions import commit, versions
from antiphase.signals.alternatives import check_alternatives
from antiphase.signals.measure import chosen_layers


@runtime_checkable
class Result(Protocol):
    """What a run returns."""

    def document(self, title: str) -> Document:
        """The interactive page about the run."""


class Frames(NamedTuple):
    """The whole tables of a run."""

    tokens: pd.DataFrame
    rollouts: pd.DataFrame
    steps: pd.DataFrame | None
    alternatives: pd.DataFrame | None


Found = TypeVar("Found", bound=Result)
Wanted = TypeVar("Wanted", bound=RunRequest)


class Run(ABC, Generic[Wanted, Found]):
    """A run from its checked request to its result. A subclass adds what only a probe, or only an evaluation, does.

    Args:
        request: what the user asks for, checked.
        progress: show a progress bar.
        in_memory: a model that the user gives in memory; None loads the models by their names.
        moment: the time in ISO format that chat templates read; None is the present time. A run that is continued
            keeps the time at which it began, so that its prompts stay the same.

    Attributes:
        FOLDER: the class of the folder that the run writes to.
        RESAMPLED: what the bootstrap draws, in the words of the progress bar.
    """

    FOLDER: type[RunFolder]
    RESAMPLED: str

    def __init__(
        self, request: Wanted, *, progress: bool, in_memory: LoadedModel | None = None, moment: str | None = None
    ) -> None:
        self.request, self.config, self.progress, self.in_memory = request, request.config, progress, in_memory
        self.moment = datetime.now().isoformat(timespec="seconds") if moment is None else moment
        self._reads_clock, self._unused = False, set(self.config.chat_template_kwargs or ())
        # The commit at the beginning, since the sources may change while a run goes on.
        self.commit = commit()

    @abstractmethod
    def batches(self, tokenizer: Any, limits: Limits) -> Sequence[Batch]:
        """All rollouts of one model, encoded by its tokenizer. What does not fit the model is refused."""

    @abstractmethod
    def tables(self, batch: Any, loaded: LoadedModel, bar: Progress) -> dict[Kind, pa.Table]:
        """Measure a completed batch; its rows, by the name of the table."""

    @abstractmethod
    def results(self, frames: Frames, models: dict[str, dict[str, Any]], bar: Progress) -> dict[str, Any]:
        """The part of the summary that only this kind of run has."""

    @abstractmethod
    def found(self, frames: Frames, summary: dict[str, Any]) -> Found:
        """Make the result from its tables and its summary."""

    @abstractmethod
    def load(self, path: Path) -> Found:
        """Read the result of a run that is finished already."""

    @abstractmethod
    def draw(self, found: Found, folder: Path) -> None:
        """Draw the figures into a folder."""

    def shared(self, batches: Sequence[Batch], loaded: LoadedModel, folder: RunFolder) -> Sequence[Batch]:
        """The batches of any model but the first. A probe may complete them with the rollouts of the first model."""
        return batches

    def helpers(self) -> contextlib.AbstractContextManager[Any]:
        """A context that lasts while the models run, such as a pool of verifying processes."""
        return contextlib.nullcontext()

    def versions(self) -> dict[str, str]:
        """Versions of the packages that the numbers depend on."""
        return versions()

    def run(self) -> Found:
        """Run, or continue, and sum up.

        Raises:
            AntiphaseError: a model cannot be loaded or measured, or memory runs out.
        """
        outputs = self.request.outputs
        with contextlib.ExitStack() as stack:
            path = outputs.out
            if path is None:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            begin = self.FOLDER.resume if outputs.resume else self.FOLDER.create
            folder = begin(path, self.request.stored)
            if folder.complete:
                found = self.load(path)
                if not (path / REPORT).exists():
                    self._report(found, path)
                return found
            self.moment = folder.kept_prompts().get("moment", self.moment)
            try:
                batches = [self._batches_of(name) for name in self.config.models]
                self._keep_prompts(folder, batches)
                with self.helpers():
                    self._run_models(folder, batches)
            except BaseException:
                folder.discard_if_unused()
                raise
            return self._finish(folder)

    def _batches_of(self, name: str) -> Sequence[Batch]:
        """The batches of a model. What can be refused without weights is refused here."""
        if self.in_memory is not None:
            model, tokenizer = self.in_memory.model, self.in_memory.tokenizer
        else:
            model, tokenizer = self.inspected(name)
        limits = Limits.of(unwrap(model))
        for spec in self.config.specs():
            chosen_layers(model, spec)
            check_alternatives(spec.num_alternatives, limits.vocabulary)
        self._reads_clock |= reads_clock(tokenizer)
        self._unused &= set(unused_variables(tokenizer, sorted(self._unused)))
        return self.batches(tokenizer, limits)

    def _keep_prompts(self, folder: RunFolder, batches: Sequence[Sequence[Batch]]) -> None:
        """Keep the digest of the prompts of each model, and the time that templates read, in the run folder."""
        if self._unused:
            raise InvalidInputError(
                f"chat_template_kwargs: no model's chat template reads {', '.join(sorted(self._unused))}, so this "
                "would have no effect. Correct the name, or leave it out."
            )
        ids = ([item.prompt_ids for batch in of_model for item in batch.items] for of_model in batches)
        digests = dict(zip(self.config.models, map(prompts_digest, ids), strict=True))
        folder.keep_prompts({"sha256": digests, **({"moment": self.moment} if self._reads_clock else {})})

    def inspected(self, name: str) -> Any:
        """A model without its weights, and its tokenizer."""
        return inspect_model(name, trust_remote_code=self.config.trust_remote_code, revision=self.config.revision)

    def _run_models(self, folder: RunFolder, batches: Sequence[Sequence[Batch]]) -> None:
        stages = len(self.config.specs()) + (1 if self.config.rollouts is None else 0)
        with Progress(stages * sum(len(b.items) for model in batches for b in model), shown=self.progress) as bar:
            for index, name in enumerate(self.config.models):
                of_model = batches[index]
                missing = [number for number in range(len(of_model)) if not folder.has_part(index, number)]
                there = sum(len(batch.items) for number, batch in enumerate(of_model) if number not in missing)
                bar.skip(f"{name}: resuming", stages * there)
                if missing:
                    bar.stage(f"{name}: loading", 0)
                    loaded = self.in_memory or self._load(name)
                    if index > 0:
                        of_model = self.shared(of_model, loaded, folder)
                    with Engines(self.config, loaded, name) as engines:
                        self._run_model(folder, index, missing, of_model, loaded, engines, bar)
                    del loaded

    def _run_model(
        self,
        folder: RunFolder,
        index: int,
        missing: Sequence[int],
        batches: Sequence[Batch],
        loaded: LoadedModel,
        engines: Engines,
        bar: Progress,
    ) -> None:
        """Complete, measure and write the missing batches of one model."""
        first = batches[missing[0]]
        facts = model_facts(loaded, first.items[0].prompt_ids, self.config.specs())
        engine = None if first.is_completed else engines.ending_at(first.end_ids).name
        given = _without_end(batches, loaded) if self.config.rollouts is not None else {}
        folder.write_model(index, {**facts, "engine": engine, **given})
        for number in missing:
            batch = batches[number]
            if not batch.is_completed:
                batch = _completed(batch, number, loaded, engines, bar)
            folder.write_part(index, number, self.tables(batch, loaded, bar))

    def _load(self, name: str) -> LoadedModel:
        return load_model(
            name,
            dtype=self.config.dtype,
            device=self.config.device,
            trust_remote_code=self.config.trust_remote_code,
            revision=self.config.revision,
        )

    def _finish(self, folder: RunFolder) -> Found:
        models = {name: folder.read_model(index) for index, name in enumerate(self.config.models)}
        folder.merge_parts()
        frames = Frames(*folder.read_frames(), folder.read_steps(), folder.read_alternatives())
        with Progress(1, shown=self.progress) as bar:
            bar.stage(f"resampling {self.RESAMPLED}", 1)
            results = self.results(frames, models, bar)
        summary = {
            "format": folder.KIND.format,
            "format_version": folder.KIND.version,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": self.versions(),
            "commit": self.commit,
            "seed": self.config.seed,
            "config": dict(self.request.stored),
            **results,
        }
        found = self.found(frames, summary)
        if self.request.outputs.figures:
            with Progress(1, shown=self.progress) as bar:
                bar.stage("drawing figures", 1)
                self.draw(found, folder.path / "figures")
        # The summary marks the run as complete, so it comes after all that the run is for, and the parts go after it.
        # The page can be made again at any time.
        folder.write_json("summary.json", summary)
        folder.drop_parts()
        self._report(found, folder.path)
        return found

    def _report(self, found: Found, path: Path) -> None:
        if self.request.outputs.report:
            add_page(lambda: found.document(path.resolve().name), path / REPORT)


def _without_end(batches: Sequence[Batch], loaded: LoadedModel) -> dict[str, int]:
    """How many given rollouts do not end with an end token, though they were not cut at a length limit."""
    ends = set(end_tokens(loaded, batches[0].end_ids))
    items = [item for batch in batches for item in batch.items if item.finish != "length" and item.completion_ids]
    return {"num_without_end": sum(item.completion_ids[-1] not in ends for item in items if item.completion_ids)}


def _completed(batch: Batch, number: int, loaded: LoadedModel, engines: Engines, bar: Progress) -> Batch:
    """The batch with its completions."""
    about = f" ({batch.label})" if batch.label else ""
    bar.stage(f"{short_name(loaded)}: generating{about}", len(batch.items))
    engine = engines.ending_at(batch.end_ids)
    drawn = engine.complete([item.prompt_ids for item in batch.items], batch.sampling, number, tick=bar.advance)
    bar.end_stage()
    pairs = zip(batch.items, drawn, strict=True)
    items = tuple(completed(item, one.ids, one.finish, loaded.tokenizer) for item, one in pairs)
    return dataclasses.replace(batch, items=items)
