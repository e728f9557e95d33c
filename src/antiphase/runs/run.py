"""The loop of a run over models and batches, which a probe and an evaluation share.

Everything that can be checked without weights is checked before anything is loaded: architectures, layers, lengths,
token ids and the output folder. After a model is loaded, its weights are checked and one token is measured before its
first rollout is generated. Each batch is written when it is finished, so an interrupted run can be continued.
"""

import contextlib
import json
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, TypeVar

from antiphase.data.chat_template import reads_clock, unused_variables
from antiphase.data.prompt_rendering import prompts_digest
from antiphase.errors import InvalidInputError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel, inspect_model
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.html import add_page
from antiphase.progress import Progress
from antiphase.runs.folder_lock import only_writer
from antiphase.runs.items import Batch, Limits
from antiphase.runs.model_work import ModelWork
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.run_request import RunRequest
from antiphase.runs.run_result import Frames, Result
from antiphase.runs.team import team_of
from antiphase.runs.versions import commit, versions
from antiphase.signals.alternatives import check_alternatives
from antiphase.signals.measure import chosen_layers

Found = TypeVar("Found", bound=Result)
Wanted = TypeVar("Wanted", bound=RunRequest)


class Run(ModelWork, Generic[Wanted, Found]):
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
        super().__init__(request.config, progress=progress, in_memory=in_memory)
        self.request = request
        self.moment = datetime.now().isoformat(timespec="seconds") if moment is None else moment
        self._reads_clock, self._unused = False, set(self.config.chat_template_kwargs or ())
        # The commit is read now, since the sources may change during the run.
        self.commit = commit()

    @abstractmethod
    def batches(self, tokenizer: Any, limits: Limits) -> Sequence[Batch]:
        """Return all rollouts of one model in batches, encoded by its tokenizer.

        Raises:
            InvalidInputError: a rollout is too long for the model, or has token ids that the model does not know.
        """

    @abstractmethod
    def results(self, frames: Frames, models: dict[str, dict[str, Any]], bar: Progress) -> dict[str, Any]:
        """Return the part of the summary that only this kind of run (a probe or an evaluation) has.

        Args:
            frames: the tables of the run.
            models: a mapping from the name of each model to the facts about it; see `model_facts`.
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
        """Draw the figures of the run, and write them to a folder."""

    def write_tables(self, found: Found, folder: Path) -> None:
        """Write to a folder the tables that can be made only from the result of the whole run."""

    def helpers(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that is open while the models run, such as a pool of verifying processes."""
        return contextlib.nullcontext()

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that the numbers depend on."""
        return versions()

    def run(self) -> Found:
        """Begin or continue the run, and return its result. Several processes of a launcher share the work.

        Raises:
            AntiphaseError: the folder is in use, a model cannot be loaded or measured, memory runs out, or another
                process of the run has ended.
        """
        found, out = self.take_part(), self.request.outputs.out
        if found is None:
            assert out is not None
            return self.load(out)
        return found

    def take_part(self) -> Found | None:
        """Begin or continue the run as `run` does. Only process 0 returns the result; the others return None."""
        with team_of(self.request.outputs.out) as self.team:
            if self.config.engine == "vllm":
                self.team.launch.refuse("the engine 'vllm'", "Start it without the launcher.")
            if self.config.device_map is not None and self.team.launch.local_size > 1:
                self.team.launch.refuse(
                    "a device map", "Start one process on each machine: its model takes all GPUs of the machine."
                )
            if self.team.launch.first:
                return self._lead()
            self._follow()
            return None

    def _lead(self) -> Found:
        """Run as process 0 or as the only process: make the folder, work on batches, and make the result."""
        outputs, team = self.request.outputs, self.team
        with contextlib.ExitStack() as stack:
            path = outputs.out
            if path is None:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            stack.enter_context(only_writer(path))
            begin = self.FOLDER.resume if outputs.resume else self.FOLDER.create
            folder = begin(path, self.request.stored)
            if folder.complete:
                team.publish("begun", {"identity": self._identity(), "complete": True})
                found = self.load(path)
                if not (path / REPORT).exists():
                    self._report(found, path)
                team.publish("finished", True)
                return found
            self.moment = folder.kept_prompts().get("moment", self.moment)
            others_write = False
            try:
                batches = [self._batches_of(name) for name in self.config.models]
                prompts = self._prompts(batches)
                folder.keep_prompts(prompts)
                numbered = list(enumerate(batches))
                self.missing = [[n for n in range(len(own)) if not folder.has_part(i, n)] for i, own in numbered]
                self.plans_before = [folder.planned_targets(i) for i, _ in numbered]
                begun: dict[str, Any] = {"moment": self.moment, "missing": self.missing, "plans": self.plans_before}
                begun |= {"identity": self._identity(), "prompts": prompts["sha256"], "complete": False}
                begun["marker"] = folder.read_json("config.json")
                others_write = team.launch.several
                team.publish("begun", begun)
                with self.helpers():
                    self.run_models(folder, batches)
            except BaseException:
                if not others_write:
                    folder.discard_if_unused()
                raise
            found = self._finish(folder)
            team.publish("finished", True)
            return found

    def _follow(self) -> None:
        """Run as a process other than 0: work on batches, and wait until process 0 has made the result."""
        begun, out = self.team.wait_for("begun"), self.request.outputs.out
        self._check_same(begun["identity"], self._identity(), "options or packages")
        if not begun["complete"]:
            assert out is not None
            folder = self.FOLDER(out)
            self.wait_for_folder(folder, begun["marker"])
            self.moment, self.missing, self.plans_before = begun["moment"], begun["missing"], begun["plans"]
            batches = [self._batches_of(name) for name in self.config.models]
            self._check_same(begun["prompts"], self._prompts(batches)["sha256"], "token ids of the prompts")
            with self.helpers():
                self.run_models(folder, batches)
        self.team.wait_for("finished")

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same in all processes of a run: its folder, options and packages."""
        known = {"out": str(self.request.outputs.out), **self.request.stored, "versions": self.versions()}
        return dict(json.loads(json.dumps(known)))

    def _check_same(self, first: Mapping[str, Any], own: Mapping[str, Any], what: str) -> None:
        """Raise InvalidInputError if a value differs between process 0 (`first`) and this process (`own`)."""
        differing = [key for key in {**first, **own} if first.get(key) != own.get(key)]
        if differing:
            shown = "; ".join(f"{key}: {first.get(key)!r} and {own.get(key)!r}" for key in differing[:3])
            raise InvalidInputError(
                f"process 0 and process {self.team.launch.rank} have different {what}: {shown}. All processes must "
                "get the same command, the same files and the same packages."
            )

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

    def _prompts(self, batches: Sequence[Sequence[Batch]]) -> dict[str, Any]:
        """Return the digest of each model's prompts, in the form that `RunFolder.keep_prompts` takes.

        If a chat template asks for the current time, the result also has the time that the template gets from the run.

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
        return {"sha256": digests, **({"moment": self.moment} if self._reads_clock else {})}

    def inspected(self, name: str) -> Any:
        """Return (the model without its weights, its tokenizer) for one model of the run."""
        return inspect_model(
            name,
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
