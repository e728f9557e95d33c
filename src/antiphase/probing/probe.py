"""`probe`: run a whole probe, batch by batch, resumable, and sum it up.

What can be refused without weights is refused before anything starts: sources, architectures, layers, lengths,
token ids and the output folder. Each model's weights, and one tiny measurement, are checked before its first
rollout. Batches are written as they finish.
"""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from antiphase import figures as drawing
from antiphase.errors import InvalidInputError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel, check_finite, inspect_model, load_model
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.html import add_page
from antiphase.probing.batches import model_facts, run_batch
from antiphase.probing.fingerprint import Fingerprint
from antiphase.probing.folder_kinds import PROBE
from antiphase.probing.items import Item, Limits, items_for, shared_items
from antiphase.probing.probe_summary import commit, summarize, versions
from antiphase.probing.request import Request, probe_request
from antiphase.probing.run_folder import RunFolder
from antiphase.progress import Progress
from antiphase.signals.alternatives import check_alternatives
from antiphase.signals.measure import chosen_layers


def probe(
    model: str | Path | Sequence[str | Path] | nn.Module,
    *,
    tokenizer: Any = None,
    name: str = "model",
    rollouts: str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    figures: bool | None = None,
    report: bool = True,
    progress: bool = True,
    **options: Any,
) -> Fingerprint:
    """Measure how token entropy and gradient strength are correlated over a model's rollouts.

    Args:
        model: a hub id, a local directory, `demo`, several of these, or a model in memory (with `tokenizer`).
        tokenizer: of a model in memory.
        name: of a model in memory, in the tables.
        rollouts: given rollouts: a file, or rows with `prompt`/`completion` or `prompt_ids`/`completion_ids`. By
            default completions are generated.
        out: folder for the tables, summary.json and figures (see docs/files.md); None keeps nothing on disk.
        resume: continue the interrupted run in `out` (the options and the model must be the same), or begin one.
        figures: draw them into `out`; by default if `out` is given and matplotlib is installed.
        report: write the interactive page `report.html` into `out`.
        progress: show a bar with the time left on anything over two seconds.
        options: fields of `ProbeConfig`, such as `estimators=("own", "full:16")`, `num_prompts=32`, `samples=2`.

    Returns:
        the fingerprint: `.spearman`, `.interval`, `.to_frame()`, `.plot()`, `.save()`.

    Raises:
        AntiphaseError: the input is wrong, a model cannot be loaded or measured, or memory runs out; each message
            says how to mend it.
    """
    in_memory = _in_memory(model, tokenizer, name)
    models: Any = model if in_memory is None else name
    request = probe_request(
        models, rollouts=rollouts, out=out, resume=resume, figures=figures, report=report, **options
    )
    return run_probe(request, in_memory, progress=progress)


def run_probe(request: Request, in_memory: LoadedModel | None = None, *, progress: bool = True) -> Fingerprint:
    """Run a probe whose arguments are checked.

    Args:
        request: see `probe_request`.
        in_memory: its model, if it is in memory.
        progress: show a bar.

    Raises:
        AntiphaseError: as `probe`.
    """
    with contextlib.ExitStack() as stack:
        path = request.out
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        return _Run(request, in_memory, progress).run(path)


def _in_memory(model: str | Path | Sequence[str | Path] | nn.Module, tokenizer: Any, name: str) -> LoadedModel | None:
    if not isinstance(model, nn.Module):
        if tokenizer is not None:
            raise InvalidInputError(
                "a tokenizer goes with a model in memory; a model named by a string brings its own."
            )
        return None
    if tokenizer is None:
        raise InvalidInputError("a model in memory needs its tokenizer: probe(model, tokenizer=tokenizer).")
    check_finite(model, name)
    return LoadedModel(name, model, tokenizer, None)


class _Run:
    def __init__(self, request: Request, in_memory: LoadedModel | None, progress: bool) -> None:
        self.request, self.config, self.source = request, request.config, request.source
        self.stored = request.stored
        self.in_memory, self.progress = in_memory, progress
        self.commit = commit()

    def run(self, path: Path) -> Fingerprint:
        resume, report = self.request.resume, self.request.report
        folder = RunFolder.resume(path, self.stored) if resume else RunFolder.create(path, self.stored)
        if folder.complete:
            found = Fingerprint.load(path)
            if report and not (path / REPORT).exists():
                add_page(lambda: found.document(path.resolve().name), path / REPORT)
            return found
        try:
            items = self._check_models()
            self._run_models(folder, items)
        except BaseException:
            folder.discard_if_unused()
            raise
        return self._finish(folder, self.request.figures, report)

    def _check_models(self) -> list[list[Item]]:
        """Every model's items; refuses what can be refused without weights."""
        items = []
        for name in self.config.models:
            if self.in_memory is not None:
                model, tokenizer = self.in_memory.model, self.in_memory.tokenizer
            else:
                model, tokenizer = inspect_model(
                    name, trust_remote_code=self.config.trust_remote_code, revision=self.config.revision
                )
            for spec in self.config.specs():
                chosen_layers(model, spec)
            limits = Limits.of(unwrap(model))
            check_alternatives(self.config.alternatives, limits.vocabulary)
            items.append(items_for(self.source, tokenizer, limits, self.config))
        return items

    def _run_models(self, folder: RunFolder, items: list[list[Item]]) -> None:
        stages = len(self.config.specs()) + (0 if self.source.rollouts else 1)
        with Progress(stages * sum(map(len, items)), shown=self.progress) as bar:
            for index, name in enumerate(self.config.models):
                size = self.config.batch_size
                batches = [items[index][i : i + size] for i in range(0, len(items[index]), size)]
                missing = [number for number in range(len(batches)) if not folder.has_part(index, number)]
                bar.skip(f"{name}: resuming", stages * sum(len(b) for n, b in enumerate(batches) if n not in missing))
                if not missing:
                    continue
                bar.stage(f"{name}: loading", 0)
                loaded = self.in_memory or self._load(name)
                if index > 0 and self.config.share_rollouts:
                    batches = self._shared(folder, batches, loaded)
                folder.write_model(index, model_facts(loaded, items[index][0].prompt_ids, self.config.specs()))
                for number in missing:
                    folder.write_part(index, number, run_batch(loaded, batches[number], number, self.config, bar))
                del loaded

    def _load(self, name: str) -> LoadedModel:
        return load_model(
            name,
            dtype=self.config.dtype,
            device=self.config.device,
            trust_remote_code=self.config.trust_remote_code,
            revision=self.config.revision,
        )

    def _shared(self, folder: RunFolder, batches: list[list[Item]], loaded: LoadedModel) -> list[list[Item]]:
        first = self._tokenizer_of_first()
        estimator = self.config.specs()[0].estimator
        completed = []
        for number, batch in enumerate(batches):
            rows = folder.read_part(0, number, "rollouts").to_pylist()
            rows = [row for row in rows if row["estimator"] == estimator]
            completed.append(shared_items(rows, batch, loaded.tokenizer, first))
        return completed

    def _tokenizer_of_first(self) -> Any:
        return inspect_model(
            self.config.models[0], trust_remote_code=self.config.trust_remote_code, revision=self.config.revision
        )[1]

    def _finish(self, folder: RunFolder, figures: bool, report: bool) -> Fingerprint:
        models = {name: folder.read_model(index) for index, name in enumerate(self.config.models)}
        folder.merge_parts()
        tokens, rollouts = folder.read_frames()
        steps = folder.read_steps()
        with Progress(len(models) * len(self.config.specs()), shown=self.progress) as bar:
            bar.stage("resampling prompts", len(models) * len(self.config.specs()))
            step = 1 / (len(models) * len(self.config.specs()))
            results = summarize(tokens, rollouts, steps, models, self.config, tick=lambda: bar.advance(step))
        summary = {
            "format": PROBE.format,
            "format_version": PROBE.version,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "commit": self.commit,
            "seed": self.config.seed,
            "config": dict(self.stored),
            **results,
        }
        if figures:
            with Progress(1, shown=self.progress) as bar:
                bar.stage("drawing figures", 1)
                drawing.save_figures(tokens, summary["results"], folder.path / "figures")
        found = Fingerprint(tokens, rollouts, summary, folder.read_alternatives(), steps)
        # The summary marks the run as complete, so it comes after all that the run is for, and the parts go after it.
        # The page can be made again at any time.
        folder.write_json("summary.json", summary)
        folder.drop_parts()
        if report:
            add_page(lambda: found.document(folder.path.resolve().name), folder.path / REPORT)
        return found
