"""What a probe is asked for, checked as far as that is possible without a model: no torch and no pandas is imported.

`probe` and `probe_checkpoints` begin with these; the command line calls them before it imports what measures, so that
a wrong option or a missing file is refused at once.
"""

import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, MissingExtraError
from antiphase.probing.checkpoints import Found, find_checkpoints
from antiphase.probing.folder_kinds import PROBE, SERIES, check_out
from antiphase.probing.items import Source, load_source
from antiphase.probing.probe_config import GIVEN_ROWS, ProbeConfig, config_from

# Of the options of a probe, those that a trajectory settles itself.
NOT_OF_A_SERIES = ("models", "revision")


@dataclass(frozen=True)
class Request:
    """A probe that only a model can still refuse.

    Args:
        config: every option.
        source: the prompts, or the given rollouts.
        out: folder to write to; None keeps nothing on disk.
        resume: continue the run in `out`.
        figures, report: whether they are wanted.
    """

    config: ProbeConfig
    source: Source
    out: Path | None
    resume: bool
    figures: bool
    report: bool

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """What config.json holds, and what is compared on resume."""
        return {**self.config.to_dict(), "source_sha256": self.source.digest()}


@dataclass(frozen=True)
class SeriesRequest:
    """A probe of checkpoints that only their configurations can still refuse.

    Args:
        found: the checkpoints.
        given: rollouts in memory, or None.
        options: as they were given, for the probe of each checkpoint.
        request: what they share.
    """

    found: Found
    given: Any
    options: Mapping[str, Any]
    request: Request

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """What config.json holds, and what is compared on resume."""
        stored = {name: value for name, value in self.request.stored.items() if name not in NOT_OF_A_SERIES}
        return stored | {"numbered": self.found.numbered}


def probe_request(
    models: str | Path | Sequence[str | Path],
    *,
    rollouts: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    figures: bool | None = None,
    report: bool = True,
    **options: Any,
) -> Request:
    """Check the arguments of `probe`; see there.

    Raises:
        InvalidInputError: an option, a source or the folder cannot be taken.
        MissingExtraError: figures or a hub data set are asked for without the package that they need.
    """
    options, given = with_rollouts(options, rollouts)
    config: ProbeConfig = config_from(models, options)
    drawn = check_outputs(out, resume=resume, figures=figures)
    place = None if out is None else Path(out)
    request = Request(config, load_source(config, given), place, resume, drawn, report and place is not None)
    if place is not None:
        check_out(place, PROBE, request.stored, resume=resume)
    return request


def series_request(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    rollouts: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    figures: bool | None = None,
    report: bool = True,
    **options: Any,
) -> SeriesRequest:
    """Check the arguments of `probe_checkpoints`; see there.

    Raises:
        AntiphaseError: as `probe_request`, and what `find_checkpoints` refuses.
    """
    options, given = with_rollouts(options, rollouts)
    if options.get("revision") is not None:
        raise InvalidInputError(
            "revision does not go with checkpoints: write it after each one, as in HUB-ID@step1000,HUB-ID@step2000."
        )
    config: ProbeConfig = config_from(
        "checkpoints", {key: value for key, value in options.items() if key not in NOT_OF_A_SERIES}
    )
    drawn = check_outputs(out, resume=resume, figures=figures)
    place = None if out is None else Path(out)
    found = find_checkpoints(checkpoints)
    shared = Request(config, load_source(config, given), place, resume, drawn, report and place is not None)
    request = SeriesRequest(found, given, options, shared)
    if place is not None:
        check_out(place, SERIES, request.stored, resume=resume)
    return request


def with_rollouts(options: Mapping[str, Any], rollouts: Any) -> tuple[dict[str, Any], Any]:
    """The options with where given rollouts come from, and those that are in memory (else None)."""
    if isinstance(rollouts, str | Path):
        return {**options, "rollouts": str(rollouts)}, None
    if rollouts is None:
        return dict(options), None
    return {**options, "rollouts": GIVEN_ROWS}, rollouts


def check_outputs(out: str | Path | None, *, resume: bool, figures: bool | None) -> bool:
    """Whether figures are to be drawn: as asked, else wherever there is a folder and matplotlib.

    Raises:
        InvalidInputError: there is nothing to resume in.
        MissingExtraError: figures are asked for, and matplotlib is absent.
    """
    if resume and out is None:
        raise InvalidInputError("resume needs out, the folder of the interrupted run.")
    can_draw = importlib.util.find_spec("matplotlib") is not None
    if figures and not can_draw:
        raise MissingExtraError("matplotlib", "report", "drawing figures (--no-figures does without)")
    return out is not None and (can_draw if figures is None else figures)
