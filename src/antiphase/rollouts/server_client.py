"""Sends one request to an inference server, and repeats it if it fails for a reason that may pass.

A request is repeated after the statuses 408, 429, 500, 502, 503 and 504, after a refused or broken connection, and
after an answer that is not whole, such as half-written JSON. Any other status is final: the error quotes the server's
own words. The server's key never appears in a message.
"""

import asyncio
import contextlib
import email.utils
import json
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from antiphase.errors import InvalidInputError, ServerError, first_line
from antiphase.rollouts.server_options import ServerOptions

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_QUOTE = 400
_CONNECT_SECONDS = 10.0

Read = TypeVar("Read")


class RefusedError(InvalidInputError):
    """The server refused a request for good.

    Args:
        message: the message, with the server's own words.
        status: the HTTP status of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ExhaustedError(ServerError):
    """All attempts of a request failed.

    Args:
        message: the message, with the reason of the last failure.
        status: the HTTP status of the last answer; None if there was no whole answer.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class MalformedError(Exception):
    """An answer of the server is not whole or not of the expected form. The request is repeated."""


class StoppedError(Exception):
    """The batch was stopped, so a failed request is not repeated."""


class _PassingError(Exception):
    """A request failed for a reason that may pass.

    Args:
        message: what happened.
        pause: the seconds that the server asks to wait before the next request; None if it names no time.
        answered: whether the server answered, or refused the connection, before the request timeout.
        status: the HTTP status of the answer; None if there was no whole answer.
    """

    def __init__(
        self, message: str, pause: float | None = None, *, answered: bool = True, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.pause, self.answered, self.status = pause, answered, status


class Client(contextlib.AbstractAsyncContextManager["Client"]):
    """Client that sends requests to one server, inside an `async with` block.

    Args:
        options: the server, and how it is asked.
        stop: when this event is set, no failed request is repeated.

    Raises:
        InvalidInputError: the environment variable that should contain the key is not set.
    """

    def __init__(self, options: ServerOptions, stop: asyncio.Event) -> None:
        self._options, self._stop, self._key = options, stop, options.key()
        # A generator of its own, so that the caller's random state does not change.
        self._random = random.SystemRandom()
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=min(_CONNECT_SECONDS, options.request_timeout)),
            limits=httpx.Limits(max_connections=options.concurrency, max_keepalive_connections=options.concurrency),
        )

    async def __aexit__(self, *exception: Any) -> None:
        await self._http.aclose()

    async def ask(
        self, url: str, body: Mapping[str, Any] | None, read: Callable[[Any], Read], *, attempts: int | None = None
    ) -> Read:
        """Send a request, and return what `read` makes of the answer.

        The request is repeated if it fails for a reason that may pass.

        Args:
            url: the address.
            body: the JSON object to send by POST; None sends a GET.
            read: function that gets the JSON value of the answer. If it raises MalformedError, the request is
                repeated.
            attempts: the greatest number of attempts; None takes the number in the options.

        Raises:
            RefusedError: the server refused the request for good.
            ExhaustedError: all attempts failed.
            StoppedError: the batch was stopped before another attempt.
        """
        retries, unanswered = self._options.retries, 0
        most = attempts or retries.attempts
        for attempt in range(1, most + 1):
            try:
                return await self._once(url, body, read)
            except _PassingError as failure:
                unanswered += not failure.answered
                if attempt == most or unanswered == retries.attempts_without_answer:
                    times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    message = f"{url} failed in {times}. The last time: {failure}"
                    raise ExhaustedError(message, failure.status) from failure
                pause = min(retries.longest, retries.first * 2 ** (attempt - 1)) * self._random.uniform(0.5, 1)
                await self._pause(max(pause, failure.pause or 0.0))
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, url: str, body: Mapping[str, Any] | None, read: Callable[[Any], Read]) -> Read:
        seconds = self._options.request_timeout
        method = "GET" if body is None else "POST"
        try:
            response = await asyncio.wait_for(self._http.request(method, url, json=body), seconds)
        except asyncio.TimeoutError:
            raise _PassingError(f"no whole answer within {seconds:g} seconds.", answered=False) from None
        except httpx.TimeoutException:
            raise _PassingError(f"no connection within {min(_CONNECT_SECONDS, seconds):g} seconds.") from None
        except httpx.RequestError as error:
            raise _PassingError(f"the connection failed ({first_line(error)}).") from error
        if not response.is_success:
            raise self._failure(response, url)
        try:
            return read(response.json())
        except ValueError as error:
            if isinstance(error, InvalidInputError):
                raise
            raise _PassingError("the answer is not whole JSON.") from None
        except MalformedError as error:
            raise _PassingError(str(error)) from None

    def _failure(self, response: httpx.Response, url: str) -> Exception:
        """Return the error for an answer whose HTTP status says that the request failed."""
        said, status = self._hidden(words(response.text)), response.status_code
        quote = f"status {status}" + (f": {said}" if said else "")
        if status in RETRIED:
            longest = self._options.retries.longest_named
            pause = named_pause(response.headers.get("retry-after"), longest)
            return _PassingError(quote, pause, status=status)
        hint = {
            401: f" Put the server's key into the environment variable {self._options.api_key_env}, or name another "
            "variable with --api-key-env.",
            403: f" Does the key in {self._options.api_key_env} allow this?",
            404: " Check --base-url, which usually ends in /v1, and --served-model.",
        }.get(status, "")
        return RefusedError(f"{url} refused the request with {quote.rstrip('.')}.{hint}", status)

    def _hidden(self, text: str) -> str:
        """Return the text with `***` in place of the server's key."""
        return text if self._key is None else text.replace(self._key, "***")

    async def _pause(self, seconds: float) -> None:
        """Wait for some seconds. The wait ends early if the batch is stopped.

        Raises:
            StoppedError: the batch was stopped.
        """
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            raise StoppedError


def words(text: str) -> str:
    r"""Return the message in the body of a server's error, on one line and shortened.

    >>> words('{"error": {"message": "model x does not exist", "code": 404}}'), words("Bad\nGateway")
    ('model x does not exist', 'Bad Gateway')
    """
    said: Any = text
    with contextlib.suppress(ValueError):
        said = json.loads(text)
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    if not isinstance(said, str):
        said = json.dumps(said, ensure_ascii=False)
    line = " ".join(said.split())
    return line if len(line) <= _LONGEST_QUOTE else line[:_LONGEST_QUOTE] + "…"


def named_pause(header: str | None, longest: float) -> float | None:
    """Return how many seconds the header Retry-After asks to wait, at most `longest`; None if it is not valid.

    >>> named_pause("7", 300.0), named_pause("soon", 300.0), named_pause("9000", 300.0)
    (7.0, None, 300.0)
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), longest)
