"""`probe`: generate or read rollouts of one or several models, measure their signals and correlate them."""

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
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.models.quantization import quantization_of
from antiphase.models.weights import check_finite
from antiphase.probing.fingerprint import Fingerprint
from antiphase.probing.probe_summary import summarize
from antiphase.probing.request import ProbeRequest, probe_request
from antiphase.probing.source import items_for, shared_items
from antiphase.progress import Progress
from antiphase.rollouts.sampling_spec import rollout_seeds
from antiphase.runs.items import Batch, Limits
from antiphase.runs.measuring import measure_items
from antiphase.runs.parts import Kind
from antiphase.runs.run import Run
from antiphase.runs.run_folder import RunFolder
from antiphase.runs.run_result import Frames


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
        model: a hub id, a local directory, a GGUF file, `demo`, a list of these, or a model in memory (with
            `tokenizer`).
        tokenizer: the tokenizer of a model in memory.
        name: the name of a model in memory in the tables.
        rollouts: rollouts that another program generated, as a file or as rows with `prompt` and `completion`, or with
            `prompt_ids` and `completion_ids`. None generates completions of prompts.
        out: the folder for the tables, summary.json and figures (see docs/files.md); None writes no files.
        resume: whether to continue an interrupted run in `out`, with the same options and models. If `out` has no run,
            a new one begins.
        figures: whether to draw figures into `out`; None draws them if `out` is given and matplotlib is installed.
        report: whether to write the interactive page `report.html` into `out`.
        progress: whether to show a progress bar with the time left, for anything that takes more than two seconds.
        options: fields of `ProbeConfig`, such as `estimators=("own", "full:16")`, `num_prompts=32`, `samples=2`.

    Returns:
        The fingerprint, with `.spearman`, `.interval`, `.to_frame()`, `.plot()` and `.save()`.

    Raises:
        AntiphaseError: the input is wrong, a model cannot be loaded or measured, or memory runs out. The message says
            what to do.
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
    """Run a probe whose arguments were checked before.

    Args:
        request: the request that `probe_request` returned.
        in_memory: the model, if it is in memory; None loads the models by their names.
        progress: whether to show a progress bar.
        moment: the time, in ISO format, that a chat template reads when it asks for the time; None is the present
            time.

    Raises:
        AntiphaseError: a model cannot be loaded or measured, memory runs out, or another process of the run has ended.
    """
    return _checked_run(request, in_memory, progress=progress, moment=moment).run()


def share_probe(request: ProbeRequest, *, progress: bool = True) -> Fingerprint | None:
    """Run a probe as `run_probe` does. If a launcher started several processes, they share it.

    Process 0 returns the fingerprint, and every other process returns None.

    Args:
        request: the request that `probe_request` returned.
        progress: whether to show a progress bar.

    Raises:
        AntiphaseError: the errors of `run_probe`.
    """
    return _checked_run(request, None, progress=progress, moment=None).take_part()


def _checked_run(
    request: ProbeRequest, in_memory: LoadedModel | None, *, progress: bool, moment: str | None
) -> "_ProbeRun":
    if in_memory is not None and request.config.engine == "vllm":
        raise InvalidInputError(
            "the engine 'vllm' loads a model by its name, and this model is in memory. Leave the engine out, or save "
            "the model and name its folder."
        )
    if in_memory is not None and request.config.adapter is not None:
        raise InvalidInputError(
            "adapter does not go with a model in memory: put the adapter on it with peft before you pass the model."
        )
    return _ProbeRun(request, progress=progress, in_memory=in_memory, moment=moment)


def _in_memory(model: str | Path | Sequence[str | Path] | nn.Module, tokenizer: Any, name: str) -> LoadedModel | None:
    if not isinstance(model, nn.Module):
        if tokenizer is not None:
            raise InvalidInputError(
                "a tokenizer can only be given with a model in memory; a model named by a string brings its own."
            )
        return None
    if tokenizer is None:
        raise InvalidInputError("a model in memory needs its tokenizer: probe(model, tokenizer=tokenizer).")
    from transformers import PreTrainedModel

    check_finite(model, name)
    inner = unwrap(model)
    found = quantization_of(inner.config) if isinstance(inner, PreTrainedModel) else None
    return LoadedModel(name, model, tokenizer, None, found)


class _ProbeRun(Run[ProbeRequest, Fingerprint]):
    """A run that is a probe. The methods are explained in `Run`."""

    FOLDER = RunFolder
    RESAMPLED = "prompts"

    def batches(self, tokenizer: Any, limits: Limits) -> list[Batch]:
        items = items_for(self.request.source, tokenizer, limits, self.config, self.moment)
        ends = tuple(end_token_ids(self.config.end_tokens or (), tokenizer))
        seeds = tuple(rollout_seeds(self.config.seed, [item.prompt_ids for item in items]))
        parts = (
            slice(start, start + self.config.batch_size) for start in range(0, len(items), self.config.batch_size)
        )
        return [Batch(tuple(items[part]), self.config.sampling(), ends, seeds=seeds[part]) for part in parts]

    def shared(self, batches: Sequence[Batch], loaded: LoadedModel, folder: RunFolder) -> Sequence[Batch]:
        if not self.config.share_rollouts:
            return batches
        self.wait_for_parts(folder, 0)
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
        return measure_items(loaded, batch.items, self.specs(), self.config.units(), bar).tables()

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
