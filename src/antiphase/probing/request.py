"""What a probe is asked for, checked as far as that is possible without a model: no torch and no pandas is imported.

`probe` and `probe_checkpoints` begin with these; the command line calls them before it imports what measures, so that
a wrong option or a missing file is refused at once.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.probing.checkpoints import Found, find_checkpoints
from antiphase.probing.probe_config import ProbeConfig
from antiphase.probing.source import Source, load_source
from antiphase.runs.folder_kinds import PROBE, SERIES
from antiphase.runs.run_config import config_from
from antiphase.runs.run_request import Outputs, RunRequest, with_rollouts

# Of the options of a probe, those that a trajectory settles itself.
NOT_OF_A_SERIES = ("models", "revision")


@dataclass(frozen=True)
class ProbeRequest(RunRequest):
    """A probe that only a model can still refuse.

    Args:
        config: every option.
        outputs: where it writes.
        source: the prompts, or the given rollouts.
    """

    config: ProbeConfig
    outputs: Outputs
    source: Source

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
    request: ProbeRequest

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
) -> ProbeRequest:
    """Check the arguments of `probe`; see there.

    Raises:
        InvalidInputError: an option, a source or the folder cannot be taken.
        MissingExtraError: figures or a hub data set are asked for without the package that they need.
    """
    options, given = with_rollouts(options, rollouts)
    config = config_from(models, options, ProbeConfig)
    outputs = Outputs.of(out, resume=resume, figures=figures, report=report)
    request = ProbeRequest(config, outputs, load_source(config, given))
    outputs.check(PROBE, request.stored)
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
    of_each = {key: value for key, value in options.items() if key not in NOT_OF_A_SERIES}
    config = config_from("checkpoints", of_each, ProbeConfig)
    outputs = Outputs.of(out, resume=resume, figures=figures, report=report)
    found = find_checkpoints(checkpoints)
    request = SeriesRequest(found, given, options, ProbeRequest(config, outputs, load_source(config, given)))
    outputs.check(SERIES, request.stored)
    return request
