"""The options of the engine `openai`, which asks an inference server. This module imports no torch and no httpx."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from antiphase.errors import InvalidInputError

DEFAULT_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Retries:
    """How often and after which pause a failed request is repeated.

    The pause before repetition n is a random number between half of p and p. Here p is `first` · 2^(n − 1), but at
    most `longest`. If the server names a time in the header Retry-After, the pause is at least this time, but at most
    `longest_named`.

    Args:
        attempts: the greatest number of attempts.
        attempts_without_answer: the greatest number of attempts that end with no answer within the request timeout.
        first: the pause before the first repetition, in seconds.
        longest: the longest pause that antiphase chooses, in seconds.
        longest_named: the longest pause that the server can name, in seconds.
        grace: after one rollout has failed for good, the seconds that the requests under way may still take.
    """

    attempts: int = 8
    attempts_without_answer: int = 2
    first: float = 0.5
    longest: float = 30.0
    longest_named: float = 300.0
    grace: float = 30.0


@dataclass(frozen=True)
class ServerOptions:
    """The server that completes the prompts, and how it is asked.

    Args:
        base_url: the address of the server's API. It usually ends in `/v1`.
        model: the name under which the server offers the model.
        concurrency: the greatest number of requests under way at the same time.
        request_timeout: the seconds that one request may take.
        deadline: the seconds that a batch may take, with all repetitions; None sets no limit.
        api_key_env: the name of the environment variable that contains the key of the server.
        retries: how failed requests are repeated.

    Raises:
        InvalidInputError: an option is out of its range, or the address is not one of a server.
    """

    base_url: str
    model: str
    concurrency: int = 16
    request_timeout: float = 600.0
    deadline: float | None = None
    api_key_env: str = DEFAULT_KEY
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        check_url(self.base_url)
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        if not self.model:
            raise InvalidInputError("served_model is empty: name the model as the server lists it.")
        if self.concurrency < 1:
            raise InvalidInputError(f"concurrency must be at least 1; got {self.concurrency}.")
        if not 0 < self.request_timeout < float("inf"):
            raise InvalidInputError(
                f"request_timeout must be a positive number of seconds; got {self.request_timeout}."
            )
        if self.deadline is not None and not 0 < self.deadline < float("inf"):
            raise InvalidInputError(f"deadline must be a positive number of seconds; got {self.deadline}.")

    @property
    def root(self) -> str:
        """The address without `/v1` at its end. Servers offer `/tokenize` there."""
        return self.base_url.removesuffix("/v1")

    def key(self) -> str | None:
        """Return the key of the server; None if the environment variable is not set.

        Raises:
            InvalidInputError: the environment variable is not set, and it is not the default one.
        """
        found = os.environ.get(self.api_key_env, "").strip()
        if not found and self.api_key_env != DEFAULT_KEY:
            raise InvalidInputError(
                f"the environment variable {self.api_key_env}, which api_key_env names, is not set."
            )
        return found or None


def check_url(url: str) -> None:
    """Raise InvalidInputError if this is not the address of a server, or if it contains a user name or a password."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise InvalidInputError(f"base_url must be an address such as http://localhost:8000/v1; got {url!r}.")
    if "@" in parts.netloc:
        raise InvalidInputError(
            "base_url must not contain a user name or a password, since it is stored with the run. Put the server's "
            "key into an environment variable, and name the variable with api_key_env."
        )
