"""What a user asks of a probe, checked as far as that is possible without a model.

`probe` and `probe_checkpoints` begin with these checks. They import no torch and no pandas, and the command line makes
them before it imports what measures. So a wrong option or a missing file is refused at once.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.models.saved import saved_digest
from antiphase.probing.checkpoints import Found, find_checkpoints
from antiphase.probing.probe_config import ProbeConfig
from antiphase.probing.source import Source, load_source
from antiphase.runs.folder_kinds import PROBE, SERIES
from antiphase.runs.run_config import config_from
from antiphase.runs.run_request import Outputs, RunRequest, with_rollouts

# Options of a probe that the list of checkpoints decides.
NOT_OF_A_SERIES = ("models", "revision")
_NOT_STORED = (*NOT_OF_A_SERIES, "weights_sha256")  # each checkpoint's weights stand in its own run


@dataclass(frozen=True)
class ProbeRequest(RunRequest):
    """What a user asks of a probe, checked.

    Args:
        config: the options.
        outputs: where the probe writes.
        source: the prompts, or the given rollouts.
    """

    config: ProbeConfig
    outputs: Outputs
    source: Source

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """What config.json holds. It is compared on resume."""
        weights = {name: saved_digest(name) for name in self.config.models}
        return {**self.config.to_dict(), "source_sha256": self.source.digest(), "weights_sha256": weights}


@dataclass(frozen=True)
class SeriesRequest:
    """What a user asks of a probe of checkpoints, checked.

    Args:
        found: the checkpoints.
        given: rollouts in memory, or None.
        options: the options as they were given, for the probe of each checkpoint.
        request: what the probes of all checkpoints share.
    """

    found: Found
    given: Any
    options: Mapping[str, Any]
    request: ProbeRequest

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """What config.json holds. It is compared on resume."""
        stored = {name: value for name, value in self.request.stored.items() if name not in _NOT_STORED}
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
    """Check the arguments of `probe`. Both functions take the same arguments.

    Raises:
        InvalidInputError: an option, the prompts, the rollouts or the folder cannot be used.
        MissingExtraError: figures or a hub data set need a package that is not installed.
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
    """Check the arguments of `probe_checkpoints`. Both functions take the same arguments.

    Raises:
        AntiphaseError: `probe_request` or `find_checkpoints` would refuse them, or `revision` is given.
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
