"""The loop of a run over models and batches, which a probe and an evaluation share.

Everything that can be checked without weights is checked before anything is loaded: architectures, layers, lengths,
token ids and the output folder. After a model is loaded, its weights are checked and one token is measured before its
first rollout is generated. Each batch is written when it is finished, so an interrupted run can be continued.
"""

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from antiphase.data.chat_template import reads_clock, unused_variables
from antiphase.data.prompt_rendering import prompts_digest
from antiphase.errors import InvalidInputError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel, inspect_model, load_model
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.html import add_page
from antiphase.progress import Progress
from antiphase.rollouts.sampling import end_tokens
from antiphase.runs.auto_targets import PLANNED, auto_names, planned
from antiphase.runs.engines import Engines, completed_batch
from antiphase.runs.folder_lock import only_writer
from antiphase.runs.items import Batch, Limits
from antiphase.runs.measuring import model_facts, short_name
from antiphase.runs.parts import Kind
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.run_request import RunRequest
from antiphase.runs.run_result import Frames, Result
from antiphase.runs.target_plan import plans
from antiphase.runs.versions import commit, versions
from antiphase.signal_spec import SignalSpec
from antiphase.signals.alternatives import check_alternatives
from antiphase.signals.measure import chosen_layers

Found = TypeVar("Found", bound=Result)
Wanted = TypeVar("Wanted", bound=RunRequest)


class Run(ABC, Generic[Wanted, Found]):
    """A run, from its checked request to its result. One subclass is a probe, and another one is an evaluation.

    Args:
        request: the checked request of the user.
        progress: whether a progress bar is shown.
        in_memory: a model that the user gives in memory; None loads the models by their names.
        moment: the time, in ISO format, that a chat template reads when it asks for the time; None is the present
            time. A continued run keeps the time of its beginning, so that its prompts stay the same.

    Attributes:
        FOLDER: the class of the folder that the run writes to.
        RESAMPLED: a word for the progress bar that names what the bootstrap draws, such as `prompts`.
    """

    FOLDER: type[RunFolder]
    RESAMPLED: str

    def __init__(
        self, request: Wanted, *, progress: bool, in_memory: LoadedModel | None = None, moment: str | None = None
    ) -> None:
        self.request, self.config, self.progress, self.in_memory = request, request.config, progress, in_memory
        self.moment = datetime.now().isoformat(timespec="seconds") if moment is None else moment
        # The planned numbers of tokens of the estimators NAME:auto, for the model that is measured.
        self.planned: dict[str, int] = {}
        self._reads_clock, self._unused = False, set(self.config.chat_template_kwargs or ())
        # The commit is read now, since the sources may change during the run.
        self.commit = commit()

    @abstractmethod
    def batches(self, tokenizer: Any, limits: Limits) -> Sequence[Batch]:
        """Return all rollouts of one model, encoded by its tokenizer.

        Raises:
            InvalidInputError: the model cannot take a rollout.
        """

    @abstractmethod
    def tables(self, batch: Any, loaded: LoadedModel, bar: Progress) -> dict[Kind, pa.Table]:
        """Measure a batch whose rollouts have completions, and return its rows by the name of the table."""

    @abstractmethod
    def results(self, frames: Frames, models: dict[str, dict[str, Any]], bar: Progress) -> dict[str, Any]:
        """Return the part of the summary that only this kind of run has.

        Args:
            frames: the tables of the run.
            models: the facts about each model, by name; see `model_facts`.
            bar: the progress bar.
        """

    @abstractmethod
    def found(self, frames: Frames, summary: dict[str, Any]) -> Found:
        """Make the result of the run from its tables and its summary."""

    @abstractmethod
    def load(self, path: Path) -> Found:
        """Read the result of a finished run from its folder."""

    @abstractmethod
    def draw(self, found: Found, folder: Path) -> None:
        """Draw the figures into a folder."""

    def write_tables(self, found: Found, folder: Path) -> None:
        """Write tables that are made of the whole result into a folder."""

    def shared(self, batches: Sequence[Batch], loaded: LoadedModel, folder: RunFolder) -> Sequence[Batch]:
        """Return the batches of a model after the first one. A probe may put the first model's completions into them.

        Args:
            batches: the batches of this model.
            loaded: this model.
            folder: the run folder, which holds the finished batches of the first model.
        """
        return batches

    def helpers(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that is open while the models run, such as a pool of verifying processes."""
        return contextlib.nullcontext()

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that the numbers depend on."""
        return versions()

    def run(self) -> Found:
        """Begin or continue the run, and return its result.

        Raises:
            AntiphaseError: the folder is in use, a model cannot be loaded or measured, or memory runs out.
        """
        outputs = self.request.outputs
        with contextlib.ExitStack() as stack:
            path = outputs.out
            if path is None:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            stack.enter_context(only_writer(path))
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
        """Return the batches of a model, after all checks that need no weights."""
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
        """Write the digest of each model's prompts to the run folder.

        If a chat template asks for the current time, the time that it is given is written too.

        Raises:
            InvalidInputError: no model's template reads an option of `chat_template_kwargs`.
        """
        if self._unused:
            raise InvalidInputError(
                f"chat_template_kwargs: no model's chat template reads {', '.join(sorted(self._unused))}, so this "
                "would have no effect. Correct the name, or leave it out."
            )
        ids = ([item.prompt_ids for batch in of_model for item in batch.items] for of_model in batches)
        digests = dict(zip(self.config.models, map(prompts_digest, ids), strict=True))
        folder.keep_prompts({"sha256": digests, **({"moment": self.moment} if self._reads_clock else {})})

    def inspected(self, name: str) -> Any:
        """Return a model without its weights, and its tokenizer."""
        return inspect_model(
            name,
            trust_remote_code=self.config.trust_remote_code,
            revision=self.config.revision,
            adapter=self.config.adapter,
        )

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
        """Generate, measure and write the missing batches of one model."""
        first = batches[missing[0]]
        facts = model_facts(loaded, first.items[0].prompt_ids, self.config.specs())
        engine = None if first.is_completed else engines.ending_at(first.end_ids).name
        given = _without_end(batches, loaded) if self.config.rollouts is not None else {}
        self.planned = folder.planned_targets(index)
        facts = {**facts, "engine": engine, **given}
        folder.write_model(index, {**facts, PLANNED: self.planned} if self.planned else facts)
        for number in missing:
            batch = batches[number]
            if not batch.is_completed:
                batch = completed_batch(batch, loaded, engines, bar)
            some = any(item.completion_ids for item in batch.items)
            if some and not self.planned and auto_names(self.config.estimators):
                bar.stage(f"{short_name(loaded)}: planning", 0)
                self.planned = plans(loaded, batch.items, sum(len(one.items) for one in batches), self.config)
                folder.write_model(index, {**facts, PLANNED: self.planned})
            folder.write_part(index, number, self.tables(batch, loaded, bar))

    def specs(self) -> tuple[SignalSpec, ...]:
        """Return one spec for each estimator, with the planned numbers of tokens of the model that is measured."""
        return planned(self.config.specs(), self.planned)

    def _load(self, name: str) -> LoadedModel:
        return load_model(
            name,
            dtype=self.config.dtype,
            device=self.config.device,
            trust_remote_code=self.config.trust_remote_code,
            revision=self.config.revision,
            adapter=self.config.adapter,
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
        self.write_tables(found, folder.path)
        if self.request.outputs.figures:
            with Progress(1, shown=self.progress) as bar:
                bar.stage("drawing figures", 1)
                self.draw(found, folder.path / "figures")
        # The summary marks the run as complete, so it is written after the tables and figures. The parts are deleted
        # after it. The page comes last, since it can be made again at any time.
        folder.write_json("summary.json", summary)
        folder.drop_parts()
        self._report(found, folder.path)
        return found

    def _report(self, found: Found, path: Path) -> None:
        if self.request.outputs.report:
            add_page(lambda: found.document(path.resolve().name), path / REPORT)


def _without_end(batches: Sequence[Batch], loaded: LoadedModel) -> dict[str, int]:
    """Return `num_without_end`: the number of given rollouts that have no end token and were not cut at a limit."""
    ends = set(end_tokens(loaded, batches[0].end_ids))
    items = [item for batch in batches for item in batch.items if item.finish != "length" and item.completion_ids]
    return {"num_without_end": sum(item.completion_ids[-1] not in ends for item in items if item.completion_ids)}
