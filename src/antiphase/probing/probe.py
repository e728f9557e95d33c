"""`probe`: rollouts of one or several models, their signals, and how these are correlated."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from torch import nn

from antiphase import figures as drawing
from antiphase.data.prompt_rendering import end_token_ids
from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel, check_finite
from antiphase.probing.fingerprint import Fingerprint
from antiphase.probing.probe_summary import summarize
from antiphase.probing.request import ProbeRequest, probe_request
from antiphase.probing.source import items_for, shared_items
from antiphase.progress import Progress
from antiphase.runs.items import Batch, Limits
from antiphase.runs.measuring import measure_items
from antiphase.runs.parts import Kind
from antiphase.runs.run import Frames, Run
from antiphase.runs.run_folder import RunFolder


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
        tokenizer: the tokenizer of a model in memory.
        name: what the tables call a model in memory.
        rollouts: given rollouts: a file, or rows with `prompt`/`completion` or `prompt_ids`/`completion_ids`. By
            default completions are generated.
        out: folder for the tables, summary.json and figures (see docs/files.md); None keeps nothing on disk.
        resume: continue the interrupted run in `out`, of the same options and model; if there is none, begin one.
        figures: draw figures into `out`; by default if `out` is given and matplotlib is installed.
        report: write the interactive page `report.html` into `out`.
        progress: show a bar with the time left for anything that takes more than two seconds.
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


def run_probe(
    request: ProbeRequest,
    in_memory: LoadedModel | None = None,
    *,
    progress: bool = True,
    moment: str | None = None,
) -> Fingerprint:
    """Run a probe whose arguments are checked.

    Args:
        request: what `probe_request` returns.
        in_memory: the model, if it is in memory.
        progress: show a progress bar.
        moment: the time in ISO format that chat templates read; None is the present time.

    Raises:
        AntiphaseError: as `probe`.
    """
    if in_memory is not None and request.config.engine == "vllm":
        raise InvalidInputError(
            "the engine 'vllm' loads a model by its name, and this model is in memory. Leave the engine out, or save "
            "the model and name its folder."
        )
    return _ProbeRun(request, progress=progress, in_memory=in_memory, moment=moment).run()


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


class _ProbeRun(Run[ProbeRequest, Fingerprint]):
    """The parts of a run that only a probe has."""

    FOLDER = RunFolder
    RESAMPLED = "prompts"

    def batches(self, tokenizer: Any, limits: Limits) -> list[Batch]:
        items = items_for(self.request.source, tokenizer, limits, self.config, self.moment)
        ends = tuple(end_token_ids(self.config.end_tokens or (), tokenizer))
        size = self.config.batch_size
        parts = (tuple(items[start : start + size]) for start in range(0, len(items), size))
        return [Batch(part, self.config.sampling(), ends) for part in parts]

    def shared(self, batches: Sequence[Batch], loaded: LoadedModel, folder: RunFolder) -> Sequence[Batch]:
        if not self.config.share_rollouts:
            return batches
        _, first = self.inspected(self.config.models[0])
        estimator = self.config.specs()[0].estimator
        found = []
        for number, batch in enumerate(batches):
            rows = folder.read_part(0, number, "rollouts").to_pylist()
            rows = [row for row in rows if row["estimator"] == estimator]
            items = shared_items(rows, batch.items, loaded.tokenizer, first)
            found.append(dataclasses.replace(batch, items=tuple(items)))
        return found

    def tables(self, batch: Batch, loaded: LoadedModel, bar: Progress) -> dict[Kind, pa.Table]:
        return measure_items(loaded, batch.items, self.config.specs(), self.config.units(), bar).tables()

    def results(self, frames: Frames, models: dict[str, dict[str, Any]], bar: Progress) -> dict[str, Any]:
        step = 1 / (len(models) * len(self.config.specs()))
        return summarize(
            frames.tokens, frames.rollouts, frames.steps, models, self.config, tick=lambda: bar.advance(step)
        )

    def found(self, frames: Frames, summary: dict[str, Any]) -> Fingerprint:
        return Fingerprint(frames.tokens, frames.rollouts, summary, frames.alternatives, frames.steps)

    def load(self, path: Path) -> Fingerprint:
        return Fingerprint.load(path)

    def draw(self, found: Fingerprint, folder: Path) -> None:
        drawing.save_figures(found.tokens, found.summary["results"], folder)
