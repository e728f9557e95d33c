"""Evaluate one model or several: measure accuracy and inversion on the same rollouts."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from antiphase.errors import InvalidInputError
from antiphase.evaluation.disagreements import FILE, disagreements_csv
from antiphase.evaluation.evaluation_folder import EvalFolder
from antiphase.evaluation.evaluation_summary import summarize_evaluation
from antiphase.evaluation.matched_rollouts import given_batches
from antiphase.evaluation.plan import ProblemBatch, batches_of
from antiphase.evaluation.request import EvalRequest, eval_request
from antiphase.evaluation.result import Evaluation
from antiphase.evaluation.scoring import score_batch
from antiphase.models.loading import LoadedModel
from antiphase.progress import Progress
from antiphase.runs.items import Limits
from antiphase.runs.launch import Launch
from antiphase.runs.parts import Kind
from antiphase.runs.run import Run
from antiphase.runs.run_result import Frames
from antiphase.runs.versions import versions
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.verdict import VERDICT_RULES


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
    """Measure the accuracy and the inversion of a model on the same rollouts.

    The inversion ι is minus the correlation of token entropy with gradient strength.

    Args:
        model: a hub id, a local directory, `demo`, or several of these.
        rollouts: rollouts that another program generated, as a file or as rows. Each row names its problem and has a
            completion; `load_given` lists the columns. None generates the completions.
        out: the folder for rollouts.parquet, tokens.parquet, summary.json and figures; None writes no files.
        resume: whether to continue an interrupted evaluation in `out`, with the same options and models. If `out` has
            no evaluation, a new one begins.
        figures: whether to draw figures into `out`; None draws them if `out` is given and matplotlib is installed.
        report: whether to write the interactive page `report.html` into `out`.
        progress: whether to show a progress bar with the time left, if the evaluation takes more than two seconds.
        options: fields of `EvalConfig`, such as `tasks=("gsm8k",)`, `samples=8`, `num_problems=100`.

    Returns:
        The evaluation. `.result(model, task)` has the numbers, `.rollouts` has the rollouts, and `str()` gives the
        table of results.

    Raises:
        AntiphaseError: the input is wrong, a model or data set cannot be loaded, or memory runs out. The message says
            what to do.
    """
    request = eval_request(model, rollouts=rollouts, out=out, resume=resume, figures=figures, report=report, **options)
    return run_evaluation(request, progress=progress)


def run_evaluation(request: EvalRequest, *, progress: bool = True) -> Evaluation:
    """Run an evaluation whose arguments were checked before.

    Args:
        request: the checked arguments that `eval_request` returned.
        progress: whether to show a progress bar with the time left.

    Raises:
        AntiphaseError: a model or a given rollout cannot be used, or memory runs out. The message says what to do.
    """
    return _EvaluationRun(request, progress=progress).run()


def share_evaluation(request: EvalRequest, *, progress: bool = True) -> Evaluation | None:
    """Run an evaluation as `run_evaluation` does. If a launcher started several processes, they share it.

    Process 0 returns the evaluation, and every other process returns None.

    Args:
        request: the checked arguments that `eval_request` returned.
        progress: whether to show a progress bar with the time left.

    Raises:
        AntiphaseError: the errors of `run_evaluation`.
    """
    return _EvaluationRun(request, progress=progress).take_part()


class _EvaluationRun(Run[EvalRequest, Evaluation]):
    """A run that is an evaluation. The methods are explained in `Run`."""

    FOLDER = EvalFolder
    RESAMPLED = "problems"

    @contextlib.contextmanager
    def helpers(self) -> Iterator[None]:
        with VerifierPool(num_verifiers(self.team.launch), think_tags=self.config.think_tags) as self.pool:
            yield

    def batches(self, tokenizer: Any, limits: Limits) -> list[ProblemBatch]:
        if self.request.matched is None:
            return batches_of(self.request.plans, tokenizer, limits, self.config, self.moment)
        return given_batches(self.request.matched, tokenizer, limits, self.config, self.moment)

    def tables(self, batch: ProblemBatch, loaded: LoadedModel, bar: Progress) -> dict[Kind, pa.Table]:
        return score_batch(
            batch,
            loaded,
            self.specs(),
            self.pool,
            bar,
            units=self.config.units(),
            timeout=self.config.timeout,
            by_projection=self.config.by_projection,
        )

    def results(self, frames: Frames, models: dict[str, dict[str, Any]], bar: Progress) -> dict[str, Any]:
        return summarize_evaluation(
            frames.tokens,
            frames.rollouts,
            frames.steps,
            models,
            self.config,
            self.request.identities,
            tick=bar.advance,
        )

    def found(self, frames: Frames, summary: dict[str, Any]) -> Evaluation:
        return Evaluation(frames.tokens, frames.rollouts, summary, frames.steps)

    def load(self, path: Path) -> Evaluation:
        return Evaluation.load(path)

    def draw(self, found: Evaluation, folder: Path) -> None:
        found.save_figures(folder)

    def write_tables(self, found: Evaluation, folder: Path) -> None:
        disagreements = found.disagreements()
        if disagreements:
            try:
                (folder / FILE).write_text(disagreements_csv(disagreements), encoding="utf-8")
            except OSError as error:
                raise InvalidInputError(f"cannot write to {str(folder)!r} ({error.strerror or error}).") from error

    def versions(self) -> dict[str, str]:
        return versions() | verifier_versions()


def num_verifiers(launched: Launch) -> int | None:
    """Return how many processes this process may start to verify completions; None lets `VerifierPool` choose.

    If a launcher started several processes on one machine, they share its cores, so each may start only a few.
    """
    if not launched.several:
        return None
    return max(1, min(2, (os.cpu_count() or 1) // launched.local_size))


def verifier_versions() -> dict[str, str]:
    """Return a mapping from a package that decides which answers are right to its installed version."""
    found = {"verdicts": VERDICT_RULES}
    for package in ("math-verify", "reasoning-gym"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
