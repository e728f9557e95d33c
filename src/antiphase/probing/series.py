"""`probe_checkpoints`: measure ρ for each checkpoint of a training, one after the other, on the same prompts.

    OUT/config.json                  the options; also says which kind of run the folder holds
    OUT/checkpoints.json             the checkpoints whose measurement has begun, and the digests of their weights
    OUT/checkpoints/NAME/            the run folder of each checkpoint's probe
    OUT/trajectory.json, trajectory.csv, figures/trajectory.png and .svg, report.html

Each checkpoint is measured by its own run of `probe`. So only one model at a time is in memory, and an interrupted run
can be continued. A continued run also measures new checkpoints. It does not measure a checkpoint again, and it keeps
the results of a checkpoint that the trainer has deleted.
"""

import contextlib
import gc
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from antiphase.data.published import published_curves
from antiphase.errors import InvalidInputError
from antiphase.figures.saving import save_run_figures
from antiphase.models.saved import saved_digest
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.html import add_page
from antiphase.probing.checkpoints import Checkpoint
from antiphase.probing.family import check_family
from antiphase.probing.probe import run_probe
from antiphase.probing.request import SeriesRequest, probe_request, series_request
from antiphase.probing.series_folder import MEMBERS, TRAJECTORY, SeriesFolder
from antiphase.probing.series_summary import CheckpointSeries, summarize_series
from antiphase.runs.folder_kinds import SERIES
from antiphase.runs.folder_lock import only_writer
from antiphase.runs.versions import commit, versions


def probe_checkpoints(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    rollouts: str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    figures: bool | None = None,
    references: bool = True,
    report: bool = True,
    progress: bool = True,
    **options: Any,
) -> CheckpointSeries:
    """Measure ρ over tokens, types and steps for every checkpoint of a training, on the same prompts.

    ρ is the correlation of token entropy and gradient strength. By default every checkpoint completes the prompts
    itself, as in the published curves. If `share_rollouts` is true, every checkpoint is measured on the rollouts of
    the first checkpoint. If `rollouts` is given, every checkpoint is measured on these.

    Args:
        checkpoints: a trainer's output folder, or several checkpoints; see `find_checkpoints`.
        rollouts: given rollouts, as a file or as rows; see `probe`.
        out: the folder to write to; None writes no files.
        resume: whether to continue the run in `out` with the checkpoints that exist now. The options must be the same.
        figures: whether to draw ρ against the training step; None draws it if `out` is given and matplotlib is
            installed.
        references: whether the figure also shows the published curves (see `published_curves`).
        report: whether to write the interactive page `report.html`.
        progress: whether to show a progress bar with the time left.
        options: fields of `ProbeConfig` except `models` and `revision`.

    Returns:
        The curve of ρ along the training, with `.to_frame()`, `.plot()` and `.summary`.

    Raises:
        AntiphaseError: `find_checkpoints` or `check_family` refuses the checkpoints, before a model is loaded; or
            `probe` fails for a checkpoint.
    """
    request = series_request(
        checkpoints, rollouts=rollouts, out=out, resume=resume, figures=figures, report=report, **options
    )
    return run_series(request, references=references, progress=progress)


def run_series(request: SeriesRequest, *, references: bool = True, progress: bool = True) -> CheckpointSeries:
    """Run a probe of checkpoints whose arguments were checked before.

    Args:
        request: the request that `series_request` returned.
        references: whether the figure also shows the published curves.
        progress: whether to show a progress bar.

    Raises:
        AntiphaseError: `check_family` refuses the checkpoints, or `probe` fails for a checkpoint.
    """
    commit()  # The commit is read now, so that the summary records the commit at the beginning.
    shared, stored = request.request, request.stored
    check_family(request.found.checkpoints, trust_remote_code=shared.config.trust_remote_code)
    with contextlib.ExitStack() as stack:
        outputs = shared.outputs
        path = outputs.out
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        stack.enter_context(only_writer(path))
        folder = SeriesFolder.resume(path, stored) if outputs.resume else SeriesFolder.create(path, stored)
        try:
            left = _Measuring(folder, request, progress).measure()
        except BaseException:
            folder.discard_if_unused()
            raise
        made = _finish(folder, stored, (*request.found.notes, *left))
        if outputs.out is None:
            return CheckpointSeries(made.summary)
        if outputs.figures:
            curves = published_curves() if references else ()
            save_run_figures("checkpoints", path / "figures", trajectory=made.summary, references=curves)
        if outputs.report:
            add_page(lambda: made.document(path.resolve().name), path / REPORT)
        return made


@dataclass
class _Measuring:
    """Measures the checkpoints whose probe is not finished yet."""

    folder: SeriesFolder
    request: SeriesRequest
    progress: bool

    def measure(self) -> list[str]:
        """Measure the checkpoints that are not finished, and return notes about those that were left out.

        A checkpoint is left out if it no longer exists.
        """
        members = self.folder.members()
        self._check_known(members["checkpoints"])
        for checkpoint in self.request.found.checkpoints:
            member = self._member(members, checkpoint)
            if not self.folder.run_of(member).complete:
                self._measure(member, members)
                # This frees the model before the next one is loaded, even if it contains a reference cycle.
                gc.collect()
        lost = [m for m in members["checkpoints"] if not self.folder.run_of(m).complete]
        return [f"{m['label']} is left out: it is gone, and was not measured to its end." for m in lost]

    def _check_known(self, known: Sequence[Mapping[str, Any]]) -> None:
        """Check that the user's list of checkpoints begins with the checkpoints of the folder, in the same order.

        This is checked only if the checkpoints have no training steps. They are then numbered by their order in the
        list, so the order must not change.

        Args:
            known: the checkpoints of the folder, as entries of checkpoints.json.

        Raises:
            InvalidInputError: the list does not begin with the checkpoints of the folder.
        """
        if not self.request.found.numbered:
            names = [(c.name, c.revision) for c in self.request.found.checkpoints]
            before = [(m["name"], m["revision"]) for m in known]
            if names[: len(before)] != before:
                raise InvalidInputError(
                    f"the run in {str(self.folder.path)!r} has the checkpoints "
                    f"{', '.join(str(m['label']) for m in known)} in this order. To continue the run, name them in "
                    "this order, and new ones after them."
                )

    def _member(self, members: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the entry of a checkpoint in the list `members`. A new checkpoint gets a new entry there.

        Raises:
            InvalidInputError: `members` has an entry for the same training step, but with other weights.
        """
        weights = saved_digest(checkpoint.name) if checkpoint.revision is None else None
        known: dict[str, Any] | None = next((m for m in members["checkpoints"] if m["step"] == checkpoint.step), None)
        if known is not None:
            same = known["weights"] == weights
            if same and weights is None:
                same = (known["name"], known["revision"]) == (checkpoint.name, checkpoint.revision)
            if not same:
                raise InvalidInputError(
                    f"the run in {str(self.folder.path)!r} has already measured step {checkpoint.step}, with other "
                    f"weights ({known['label']}) than those of {checkpoint.label}. Start a new run in another --out."
                )
            return known
        taken = {m["folder"] for m in members["checkpoints"]}
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.label).strip("-.")[-60:] or "checkpoint"
        name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        member = {
            "folder": name,
            "label": checkpoint.label,
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "step": checkpoint.step,
            "weights": weights,
        }
        members["checkpoints"].append(member)
        members["checkpoints"].sort(key=lambda m: m["step"])
        return member

    def _measure(self, member: Mapping[str, Any], members: dict[str, Any]) -> None:
        options: dict[str, Any] = {**self.request.options, "revision": member["revision"]}
        options.pop("share_rollouts", None)
        rollouts = self.request.given
        if self.request.request.config.share_rollouts:
            members["rollouts_of"] = members["rollouts_of"] or member["folder"]
            if members["rollouts_of"] != member["folder"]:
                rollouts = self._shared(members)
                options |= {"num_prompts": "all", "allow_short": True}
        # The prompts must be the same for all checkpoints, even if some are measured on a later day.
        moment = members.setdefault("moment", datetime.now().isoformat(timespec="seconds"))
        self.folder.write_json(MEMBERS, members)
        if rollouts is not None:
            options["rollouts"] = rollouts
        path = self.folder.run_of(member).path
        request = probe_request(str(member["name"]), out=path, resume=True, figures=False, report=False, **options)
        run_probe(request, progress=self.progress, moment=moment)

    def _shared(self, members: Mapping[str, Any]) -> pd.DataFrame:
        """Return the rollouts of the first checkpoint as token ids. All other checkpoints are measured on them.

        Raises:
            InvalidInputError: the first checkpoint was deleted before its probe was finished.
        """
        owner = next(m for m in members["checkpoints"] if m["folder"] == members["rollouts_of"])
        run = self.folder.run_of(owner)
        if not run.complete:
            raise InvalidInputError(
                f"all checkpoints are measured on the rollouts of {owner['label']}, but this checkpoint is gone and "
                "was not measured to its end. Start a new run in another --out."
            )
        rows = run.read_frame("rollouts")
        first: pd.DataFrame = rows[rows.estimator == rows.estimator.iloc[0]]
        return first[["prompt_id", "rollout_id", "prompt_ids", "completion_ids"]].reset_index(drop=True)


def _finish(folder: SeriesFolder, stored: Mapping[str, Any], notes: Sequence[str]) -> CheckpointSeries:
    """Make the summary of all checkpoints, and write trajectory.json and trajectory.csv."""
    summary = {
        "format": SERIES.format,
        "format_version": SERIES.version,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
        "seed": stored["seed"],
        "config": dict(stored),
        **summarize_series(folder),
        "notes": list(notes),
    }
    folder.write_json(TRAJECTORY, summary)
    found = CheckpointSeries(summary, folder.path)
    folder.write_text("trajectory.csv", found.to_frame().to_csv(index=False, lineterminator="\n"))
    return found
