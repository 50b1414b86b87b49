from email.utils import formatdate
from time import time

import httpx
import pytest

from rag.adapters.providers import RetryPolicy, call
from rag.errors import Unavailable


class Failure(Exception):
    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__("the words of the provider")
        self.status_code, self.headers = status, headers


async def attempts(*failures: Exception | None, retry: RetryPolicy) -> int:
    left = list(failures)

    async def attempt() -> int:
        if failure := left.pop(0):
            raise failure
        return len(failures) - len(left)

    return await call("provider", attempt, retry)


async def test_passing_failures_are_tried_again_with_growing_waits(retry: RetryPolicy, waits: list[float]) -> None:
    assert await attempts(Failure(500), httpx.ReadTimeout("slow"), None, retry=retry) == 3
    assert waits[0] < waits[1]


async def test_a_date_in_retry_after_is_understood(retry: RetryPolicy, waits: list[float]) -> None:
    date = formatdate(time() + 10, usegmt=True)
    assert await attempts(Failure(429, {"retry-after": date}), None, retry=retry) == 2
    assert 5 < waits[0] <= 10


@pytest.mark.parametrize("header", ["soon", "", "inf", "nan", "-3"])
async def test_a_senseless_retry_after_does_no_harm(retry: RetryPolicy, waits: list[float], header: str) -> None:
    assert await attempts(Failure(429, {"Retry-After": header}), None, retry=retry) == 2
    assert 0 <= waits[0] < 2


async def test_a_refusal_is_final(retry: RetryPolicy, waits: list[float]) -> None:
    with pytest.raises(Unavailable, match=r"provider answers 404 after 1 tries: check the base URL") as raised:
        await attempts(Failure(404), None, retry=retry)
    assert waits == []
    assert "words" not in str(raised.value)


async def test_a_bug_stays_a_bug(retry: RetryPolicy) -> None:
    with pytest.raises(KeyError):
        await attempts(KeyError("bug"), None, retry=retry)
