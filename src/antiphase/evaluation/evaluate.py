"""`evaluate`: sample, verify and measure, batch by batch, resumable, and sum it up.

What can be refused without weights is refused before anything starts: tasks, data, architectures, layers, lengths and
the output folder. Batches are written as they finish.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.evaluation.evaluation_config import GIVEN_ROWS, EvalConfig
from antiphase.evaluation.evaluation_folder import FORMAT, FORMAT_VERSION, EvalFolder
from antiphase.evaluation.evaluation_summary import summarize_evaluation
from antiphase.evaluation.matched_rollouts import GivenCompletion, given_batches, given_digest, load_given
from antiphase.evaluation.plan import Batch, TaskPlan, batches_of, check_distinct, plan_tasks
from antiphase.evaluation.result import Evaluation
from antiphase.evaluation.scoring import complete_batch, score_batch
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel, inspect_model, load_model, saved_digest
from antiphase.page.html import FILE as REPORT
from antiphase.page.html import add_page
from antiphase.probing.batches import model_facts
from antiphase.probing.items import Limits
from antiphase.probing.probe_config import config_from
from antiphase.probing.probe_summary import commit, versions
from antiphase.probing.run_folder import RunFolder
from antiphase.progress import Progress
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Generator
from antiphase.rollouts.vllm_engine import VllmOptions
from antiphase.signals.measure import chosen_layers
from antiphase.tasks.own_task import code_digests, recorded_code
from antiphase.tasks.pool import VerifierPool


def evaluate(
    model: str | Path | Sequence[str | Path],
    *,
    rollouts: str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    figures: bool | None = None,
    report: bool = True,
    progress: bool = True,
    **options: Any,
) -> Evaluation:
    """Accuracy and inversion of a model on the same rollouts.

    Args:
        model: a hub id, a local directory, `demo`, or several of these.
        rollouts: given rollouts: a file, or rows (see `load_given`). By default completions are generated.
        out: folder for rollouts.parquet, tokens.parquet, summary.json and figures; None keeps nothing on disk.
        resume: continue the interrupted evaluation in `out` (of the same options and model), or begin one.
        figures: draw them into `out`; by default if `out` is given and matplotlib is installed.
        report: write the interactive page `report.html` into `out`.
        progress: show a bar with the time left on anything over two seconds.
        options: fields of `EvalConfig`, such as `tasks=("gsm8k",)`, `samples=8`, `num_problems=100`.

    Returns:
        the evaluation: `.result(model, task)`, `.rollouts`, `str()` for the table.

    Raises:
        AntiphaseError: the input is wrong, a model or data set cannot be had, or memory runs out; each message says
            how to mend it.
    """
    given: Any = None
    if isinstance(rollouts, str | Path):
        options["rollouts"] = given = str(rollouts)
    elif rollouts is not None:
        options["rollouts"], given = GIVEN_ROWS, rollouts
    config: EvalConfig = config_from(model, options, EvalConfig)
    if resume and out is None:
        raise InvalidInputError("resume needs out, the folder of the interrupted evaluation.")
    can_draw = importlib.util.find_spec("matplotlib") is not None
    if figures and not can_draw:
        raise MissingExtraError("matplotlib", "report", "drawing figures (--no-figures does without)")
    plans = plan_tasks(config)
    check_distinct(plans)
    matched = None if given is None else load_given(given, plans)
    if matched is not None:
        plans = [plan for plan, _ in matched]
    with contextlib.ExitStack() as stack:
        path = Path(out) if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        run = _Run(config, plans, matched, progress)
        drawn = out is not None and (can_draw if figures is None else figures)
        return run.run(path, resume=resume, figures=drawn, report=report and out is not None)


class _Run:
    def __init__(
        self,
        config: EvalConfig,
        plans: list[TaskPlan],
        matched: list[tuple[TaskPlan, list[GivenCompletion]]] | None,
        progress: bool,
    ) -> None:
        self.config, self.plans, self.matched, self.progress = config, plans, matched, progress
        self.commit = commit()
        self.identities = [plan.identity(config) for plan in plans]
        self.stored = {
            **config.to_dict(),
            **recorded_code(code_digests(plan.task for plan in plans)),
            "identities": self.identities,
            "weights_sha256": {name: saved_digest(name) for name in config.models},
            "given_sha256": None if matched is None else given_digest(matched),
        }

    def run(self, path: Path, *, resume: bool, figures: bool, report: bool) -> Evaluation:
        folder = EvalFolder.resume(path, self.stored) if resume else EvalFolder.create(path, self.stored)
        if folder.complete:
            found = Evaluation.load(path)
            if report and not (path / REPORT).exists():
                add_page(lambda: found.document(path.resolve().name), path / REPORT)
            return found
        try:
            batches = self._check_models()
            with VerifierPool() as pool:
                self._run_models(folder, batches, pool)
        except BaseException:
            folder.discard_if_unused()
            raise
        return self._finish(folder, figures, report)

    def _check_models(self) -> list[list[Batch]]:
        """Every model's batches; refuses what can be refused without weights."""
        batches = []
        for name in self.config.models:
            model, tokenizer = inspect_model(
                name, trust_remote_code=self.config.trust_remote_code, revision=self.config.revision
            )
            for spec in self.config.specs():
                chosen_layers(model, spec)
            limits = Limits.of(unwrap(model))
            if self.matched is None:
                batches.append(batches_of(self.plans, tokenizer, limits, self.config))
            else:
                batches.append(given_batches(self.matched, tokenizer, limits, self.config))
        return batches

    def _run_models(self, folder: RunFolder, batches: list[list[Batch]], pool: VerifierPool) -> None:
        stages = len(self.config.specs()) + (1 if self.matched is None else 0)
        total = stages * sum(len(batch.items) for model in batches for batch in model)
        with Progress(total, shown=self.progress) as bar:
            for index, name in enumerate(self.config.models):
                missing = [number for number in range(len(batches[index])) if not folder.has_part(index, number)]
                done = set(range(len(batches[index]))) - set(missing)
                bar.skip(f"{name}: resuming", stages * sum(len(batches[index][number].items) for number in done))
                if not missing:
                    continue
                bar.stage(f"{name}: loading", 0)
                loaded = self._load(name)
                with _Engines(self.config, loaded, name) as engines:
                    first = batches[index][0]
                    facts = model_facts(loaded, first.items[0].prompt_ids, self.config.specs())
                    engine = None if self.matched is not None else engines.of(first).name
                    folder.write_model(index, {**facts, "engine": engine})
                    for number in missing:
                        batch = batches[index][number]
                        items = batch.items
                        if self.matched is None:
                            items = complete_batch(batch, number, engines.of(batch), loaded, bar)
                        tables = score_batch(
                            batch,
                            items,
                            loaded,
                            self.config.specs(),
                            pool,
                            bar,
                            units=self.config.units(),
                            timeout=self.config.timeout,
                            by_projection=self.config.by_projection,
                        )
                        folder.write_part(index, number, tables)
                del loaded

    def _load(self, name: str) -> LoadedModel:
        return load_model(
            name,
            dtype=self.config.dtype,
            device=self.config.device,
            trust_remote_code=self.config.trust_remote_code,
            revision=self.config.revision,
        )

    def _finish(self, folder: RunFolder, figures: bool, report: bool) -> Evaluation:
        models = {name: folder.read_model(index) for index, name in enumerate(self.config.models)}
        folder.merge_parts()
        tokens, rollouts = folder.read_frames()
        steps = folder.read_steps()
        with Progress(1, shown=self.progress) as bar:
            bar.stage("resampling problems", 1)
            results = summarize_evaluation(
                tokens, rollouts, steps, models, self.config, self.identities, tick=bar.advance
            )
        summary = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions() | verifier_versions(),
            "commit": self.commit,
            "seed": self.config.seed,
            "config": dict(self.stored),
            **results,
        }
        found = Evaluation(tokens, rollouts, summary, steps)
        if figures:
            with Progress(1, shown=self.progress) as bar:
                bar.stage("drawing figures", 1)
                found.save_figures(folder.path / "figures")
        # The summary marks the run as complete, so it comes after all that the run is for, and the parts go after it.
        # The page can be made again at any time.
        folder.write_json("summary.json", summary)
        folder.drop_parts()
        if report:
            add_page(lambda: found.document(folder.path.resolve().name), folder.path / REPORT)
        return found


class _Engines(contextlib.AbstractContextManager["_Engines"]):
    """The engines of one model, one for each set of end tokens; closed at the end."""

    def __init__(self, config: EvalConfig, loaded: LoadedModel, name: str) -> None:
        self._config, self._loaded, self._name = config, loaded, name
        self._made: dict[tuple[int, ...], Generator] = {}

    def of(self, batch: Batch) -> Generator:
        """The engine that ends completions at the batch's end tokens."""
        if batch.end_ids not in self._made:
            for engine in self._made.values():  # vLLM holds most of a GPU
                engine.close()
            self._made = {
                batch.end_ids: make_generator(
                    self._config.engine,
                    self._loaded,
                    end_ids=batch.end_ids,
                    vllm=self._vllm() if self._config.engine == "vllm" else None,
                )
            }
        return self._made[batch.end_ids]

    def _vllm(self) -> VllmOptions:
        return VllmOptions(
            self._name,
            dtype=self._config.dtype,
            revision=self._config.revision,
            trust_remote_code=self._config.trust_remote_code,
            memory_share=self._config.vllm_memory,
        )

    def __exit__(self, *exception: object) -> None:
        for engine in self._made.values():
            engine.close()


def verifier_versions() -> dict[str, str]:
    """Versions of the packages that decide what is right."""
    found = {}
    for package in ("math-verify", "reasoning-gym"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
