from collections.abc import Iterator

import pytest

from rag.adapters.providers import RetryPolicy
from tests.fakes.cohere import FakeCohere
from tests.fakes.openai import FakeOpenAI
from tests.fakes.serving import serving


@pytest.fixture
def waits() -> list[float]:
    """Return the seconds that the caller of a provider would have slept."""
    return []


@pytest.fixture
def retry(waits: list[float]) -> RetryPolicy:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return RetryPolicy(attempts=3, sleep=sleep)


@pytest.fixture
def openai() -> FakeOpenAI:
    return FakeOpenAI()


@pytest.fixture
def openai_url(openai: FakeOpenAI) -> Iterator[str]:
    with serving(openai.app()) as url:
        yield f"{url}/v1"


@pytest.fixture
def cohere() -> FakeCohere:
    return FakeCohere()


@pytest.fixture
def cohere_url(cohere: FakeCohere) -> Iterator[str]:
    with serving(cohere.app()) as url:
        yield url
