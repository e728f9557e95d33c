"""Check the options of a run that concern the engine `openai`, which asks a server. This module imports no torch."""

from collections.abc import Mapping
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.rollouts.server_options import DEFAULT_KEY, Retries, ServerOptions, check_url
from antiphase.runs.launch import launch

# The options of the engine `openai`, and the values that they have in a run that is older than this engine.
SERVER_DEFAULTS: Mapping[str, Any] = {
    "base_url": None, "served_model": None, "concurrency": 16, "request_timeout": 600.0, "deadline": None,
    "api_key_env": DEFAULT_KEY,
}  # fmt: skip
# A server may move or be restarted while a run is interrupted. Only the name of its model must stay the same.
FREE_SERVER_OPTIONS = tuple(name for name in SERVER_DEFAULTS if name != "served_model")
RETRIES = Retries()
_BUILT_IN = ("auto", "transformers", "vllm")


def check_server_choice(config: Any) -> None:
    """Raise InvalidInputError if the options of the engine `openai` are wrong, or are given for another engine.

    Args:
        config: the options of the run, a `RunConfig`.
    """
    if config.engine != "openai":
        given = [name for name in ("base_url", "served_model") if getattr(config, name) is not None]
        if given and config.engine in _BUILT_IN:
            raise InvalidInputError(
                f"{given[0]} goes with the engine 'openai', but the engine is {config.engine!r}. Add --engine openai."
            )
        return
    if config.base_url is None:
        raise InvalidInputError(
            "the engine 'openai' needs the address of a server: --base-url http://localhost:8000/v1, for example."
        )
    check_url(config.base_url)
    server_options(config, config.models[0])
    shared = getattr(config, "share_rollouts", False)
    if config.served_model is not None and len(config.models) > 1 and not shared:
        raise InvalidInputError(
            f"served_model {config.served_model!r} names one model, but {len(config.models)} models are measured. Run "
            "each of them separately."
        )
    if config.adapter is not None and config.served_model is None:
        raise InvalidInputError(
            "with an adapter, the engine 'openai' needs served_model: the name under which the server offers the "
            "model with this adapter."
        )


def server_options(config: Any, name: str) -> ServerOptions:
    """Return the options of the server for one model of the run.

    `config.concurrency` is the number of requests that are allowed at the same time. If a launcher started several
    processes, each of them gets an equal part of this number, at least 1.

    Args:
        config: the options of the run, a `RunConfig` with a `base_url`.
        name: the name of the model in the run.
    """
    share = max(1, config.concurrency // launch().size)
    return ServerOptions(
        config.base_url,
        name if config.served_model is None else config.served_model,
        concurrency=min(config.concurrency, share),  # A number below 1 stays as it is, and is refused.
        request_timeout=config.request_timeout,
        deadline=config.deadline,
        api_key_env=config.api_key_env,
        retries=RETRIES,
    )
