"""Check the arguments of a probe, as far as this is possible without a model.

`probe` and `probe_checkpoints` begin with these checks. The command line makes them before it imports torch and
pandas, which this module does not import. So a user learns of a wrong option or a missing file at once.
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
from antiphase.runs.launch import launch
from antiphase.runs.model_choice import weights_digests
from antiphase.runs.run_config import config_from
from antiphase.runs.run_request import Outputs, RunRequest, stored_draws, with_rollouts

# Options of a probe that a probe of checkpoints takes from the list of checkpoints.
NOT_OF_A_SERIES = ("models", "revision")
# The run of each checkpoint stores the digest of its weights, and how its seeds are made.
_NOT_STORED = (*NOT_OF_A_SERIES, "weights_sha256", "draws")


@dataclass(frozen=True)
class ProbeRequest(RunRequest):
    """A user's request for a probe, after the checks.

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
        """The values that config.json holds. A run can be continued only with the same values."""
        weights = weights_digests(self.config.models, self.config.adapter)
        stored = {**self.config.to_dict(), "source_sha256": self.source.digest(), "weights_sha256": weights}
        return stored | stored_draws(self.config)


@dataclass(frozen=True)
class SeriesRequest:
    """A user's request for a probe of checkpoints, after the checks.

    Args:
        found: the checkpoints.
        given: the given rollouts if they are in memory, else None.
        options: the options that the user gave. The probe of each checkpoint gets the same options.
        request: the part of the request that is the same for all checkpoints: options, outputs and prompts.
    """

    found: Found
    given: Any
    options: Mapping[str, Any]
    request: ProbeRequest

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """The values that config.json holds. A run can be continued only with the same values."""
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
    """Check the arguments of `probe`, and return them as a request for `run_probe`.

    Args:
        models: a hub id or a local directory, or several of these.
        rollouts: given rollouts, as a file or as rows; None if the completions are to be generated.
        out: the folder of the run; None writes no files.
        resume: whether to continue an interrupted run in `out`.
        figures: whether to draw figures; None draws them if `out` is given and matplotlib is installed.
        report: whether to write the interactive page.
        options: fields of `ProbeConfig`.

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
    """Check the arguments of `probe_checkpoints`, and return them as a request for `run_series`.

    Args:
        checkpoints: a trainer's output folder, or several checkpoints.
        rollouts: given rollouts, as a file or as rows; None if every checkpoint generates its completions.
        out: the folder of the run; None writes no files.
        resume: whether to continue the run in `out` with the checkpoints that exist now.
        figures: whether to draw the figure; None draws it if `out` is given and matplotlib is installed.
        report: whether to write the interactive page.
        options: fields of `ProbeConfig` except `models` and `revision`.

    Raises:
        AntiphaseError: a launcher started several processes, `revision` or `adapter` is given, `find_checkpoints`
            refuses the checkpoints, or an option, the prompts, the rollouts or the folder cannot be used.
    """
    launch().refuse(
        "a probe of checkpoints",
        "Start it without the launcher; or name the checkpoints as models, as in antiphase probe CHECKPOINT "
        "CHECKPOINT, which several processes can share.",
    )
    options, given = with_rollouts(options, rollouts)
    if options.get("revision") is not None:
        raise InvalidInputError(
            "revision does not go with checkpoints: write it after each one, as in HUB-ID@step1000,HUB-ID@step2000."
        )
    if options.get("adapter") is not None:
        raise InvalidInputError(
            "adapter does not go with checkpoints: name the directories of the adapters themselves as the checkpoints."
        )
    if options.get("engine") == "openai":
        raise InvalidInputError(
            "the engine 'openai' does not go with checkpoints: a server has one model, not each checkpoint. Use "
            "--engine transformers, or probe each checkpoint separately with a server of its own."
        )
    of_each = {key: value for key, value in options.items() if key not in NOT_OF_A_SERIES}
    config = config_from("checkpoints", of_each, ProbeConfig)
    outputs = Outputs.of(out, resume=resume, figures=figures, report=report)
    found = find_checkpoints(checkpoints)
    request = SeriesRequest(found, given, options, ProbeRequest(config, outputs, load_source(config, given)))
    outputs.check(SERIES, request.stored)
    return request
