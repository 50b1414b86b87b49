"""Through LlamaIndex's real OpenAILike class, over HTTP."""

from collections.abc import Callable

import pytest
from llama_index.llms.openai_like import OpenAILike

from rag.adapters.llms.hosted import HostedGenerator
from rag.adapters.providers import RetryPolicy
from rag.answer.generation import answer, stream
from rag.errors import Unavailable
from rag.models import Answer
from tests.fakes.hits import hit
from tests.fakes.openai import FakeOpenAI, Scripted

HITS = [
    hit("Employees get 25 days of leave. Unused days lapse.", start=10),
    hit("The pump is serviced yearly.", start=90),
]
Make = Callable[..., HostedGenerator]


@pytest.fixture
def make(openai: FakeOpenAI, openai_url: str, retry: RetryPolicy) -> Make:
    def made(*, key: str = "sk-test", timeout: float = 5.0, url: str = openai_url) -> HostedGenerator:
        llm = OpenAILike(
            model="any-model",
            api_base=url,
            api_key=key,
            is_chat_model=True,
            max_retries=0,
            timeout=timeout,
            context_window=8192,
        )
        return HostedGenerator(llm, retry=retry)

    return made


async def test_a_models_answer_comes_with_checked_citations_and_usage(openai: FakeOpenAI, make: Make) -> None:
    openai.reply = "You get 25 days of leave [1]. The moon is cheese [5]."
    made = await answer("How many days?", HITS, make())
    assert made.text == "You get 25 days of leave [1]. The moon is cheese."
    assert [(each.marker, each.quote, each.start, each.end) for each in made.citations] == [
        (1, "Employees get 25 days of leave.", 10, 41)
    ]
    assert (made.generator, made.usage) == ("any-model", {"input_tokens": 321, "output_tokens": 12})


async def test_the_model_sees_the_numbered_sources_and_the_question(openai: FakeOpenAI, make: Make) -> None:
    await answer("How many days?", HITS, make())
    (request,) = openai.requests
    assert request["model"] == "any-model"
    assert '"source": 2' in request["messages"][1]["content"]
    assert '"How many days?"' in request["messages"][1]["content"]


async def test_a_model_that_has_no_answer_abstains(make: Make) -> None:
    made = await answer("How many moons?", HITS, make())
    assert made.abstained
    assert made.usage["output_tokens"] == 12


async def test_a_made_up_quotation_does_not_get_through(openai: FakeOpenAI, make: Make) -> None:
    openai.reply = 'It says "employees get ninety days" [1].'
    assert (await answer("How many days?", HITS, make())).abstained


async def test_an_answer_can_be_watched_while_it_is_written(openai: FakeOpenAI, make: Make) -> None:
    openai.reply = "You get 25 days of leave [1]. The moon [17] is cheese."
    *pieces, made = [piece async for piece in stream("How many days?", HITS, make())]
    assert len(pieces) > 5
    assert "".join(map(str, pieces)) == "You get 25 days of leave [1]. The moon  is cheese."
    assert isinstance(made, Answer)
    assert made.text == "You get 25 days of leave [1]. The moon is cheese."
    assert [each.quote for each in made.citations] == ["Employees get 25 days of leave."]
    assert made.usage == {"input_tokens": 321, "output_tokens": 12}


async def test_a_stream_is_retried_before_its_first_text(openai: FakeOpenAI, make: Make, waits: list[float]) -> None:
    openai.reply = "25 days of leave [1]."
    openai.script.append(Scripted(429, {"Retry-After": "3"}))
    *_, made = [piece async for piece in stream("How many days?", HITS, make())]
    assert isinstance(made, Answer)
    assert not made.abstained
    assert waits == [3]


async def test_a_stream_that_breaks_off_is_unavailable(openai: FakeOpenAI, make: Make) -> None:
    openai.reply, openai.break_off = "You get 25 days of leave [1].", True
    with pytest.raises(Unavailable, match="model any-model does not answer"):
        async for _ in stream("How many days?", HITS, make()):
            pass


@pytest.mark.parametrize("status", [429, 500, 529])
async def test_a_model_that_stays_down_is_unavailable(openai: FakeOpenAI, make: Make, status: int) -> None:
    openai.script.extend([Scripted(status)] * 9)
    with pytest.raises(Unavailable, match=f"model any-model answers {status} after 3 tries"):
        await answer("How many days?", HITS, make())
    assert len(openai.requests) == 3


async def test_a_wrong_key_or_a_hang_is_unavailable(openai: FakeOpenAI, make: Make) -> None:
    with pytest.raises(Unavailable, match="401 after 1 tries"):
        await answer("How many days?", HITS, make(key="sk-wrong"))
    openai.script.extend([Scripted(hang=2)] * 3)
    with pytest.raises(Unavailable, match="does not answer"):
        await answer("How many days?", HITS, make(timeout=0.2))
