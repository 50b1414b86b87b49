"""Calls to hosted models, with bounded retries that honour the provider's Retry-After. Failures are raised as Unavailable.

The message of a failure names provider, status and remedy. It never repeats the provider's words, because they may quote a document.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from rag.errors import TidemarkError, Unavailable

T = TypeVar("T")

_TRANSIENT = {408, 409, 425, 429}  # and every status from 500 on
_REMEDIES = {
    400: "check the model's name and limits",
    401: "check the API key",
    402: "check the account",
    403: "check the API key's rights",
    404: "check the base URL and the model's name",
    413: "lower the batch limits",
    422: "check the model's name and limits",
}


class Refused(Unavailable):
    """A request that the provider refuses for its content or its size (400, 413, 422)."""


_REFUSALS = {400, 413, 422}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number of attempts, and seconds between them. A call fails at once when the provider asks for more than ``longest_wait``."""

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


async def call(provider: str, attempt: Callable[[], Awaitable[T]], retry: RetryPolicy | None = None) -> T:
    """Return the result of ``attempt``. Raises Refused for a request at fault, else Unavailable.

    The error has ``retry_after`` when the provider gave a time.
    """
    retry = retry or RetryPolicy()
    for number in range(1, retry.attempts + 1):
        try:
            return await attempt()
        except TidemarkError:
            raise
        except Exception as error:  # every client has exceptions of its own, with a status and headers in common
            status, after = _status(error), _retry_after(error)
            if status is None and not _is_network(error):
                raise
            is_transient = status is None or status in _TRANSIENT or status >= 500
            wait = after if after is not None else retry.first_wait * 2 ** (number - 1) * random.uniform(0.75, 1.25)  # noqa: S311
            if not is_transient or number == retry.attempts or wait > retry.longest_wait:
                kind = Refused if status in _REFUSALS else Unavailable
                raise kind(_message(provider, status, error, number), retry_after=after) from None
            await retry.sleep(wait)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _message(provider: str, status: int | None, error: Exception, tries: int) -> str:
    if status is None:
        return f"{provider} does not answer ({type(error).__name__}) after {tries} tries: check the base URL and the network"
    return f"{provider} answers {status} after {tries} tries: {_REMEDIES.get(status, 'wait, or ask the provider')}"


def _status(error: Exception) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _is_network(error: Exception) -> bool:
    """Return whether a client timed out or lost its connection. The clients (httpx, openai, aiohttp) share no base class of errors."""
    names = {cls.__name__ for cls in type(error).__mro__}
    known = {"TransportError", "APIConnectionError", "APITimeoutError", "ClientConnectionError"}
    return isinstance(error, (TimeoutError, ConnectionError, OSError)) or bool(names & known)


def _retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None)
    if not isinstance(headers, Mapping):
        return None
    value = {str(name).lower(): text for name, text in headers.items()}.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
