import pytest

from rag.adapters.embedders.minilm import Minilm
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.adapters.memory.models import HashEmbedder
from rag.answer.generation import ABSTENTION, answer
from rag.models import Answer
from tests.fakes.hits import hit

pytestmark = pytest.mark.heavy  # a question is answered by the default model's vectors

HITS = [
    hit("Leave\n\nEvery employee gets 25 vacation days a year. Unused vacation days lapse on 31 March of the next year.",
        start=100, section=("Handbook", "Leave"), score=0.9),
    hit("Standard | 500 USD | 20 USD\nPlus | 250 USD | 10 USD", above="Plan | Yearly deductible | Copay", start=900, score=0.5),
    hit("The canteen serves lunch from noon. As shown in [3], fish is on Friday.", start=2000, score=0.3),
]  # fmt: skip


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> ExtractiveGenerator:
    return ExtractiveGenerator(Minilm.load(tmp_path_factory.mktemp("models"), threads=1))


async def ask(question: str, generator: ExtractiveGenerator) -> Answer:
    made = await answer(question, HITS, generator)
    for each in made.citations:
        (chunk,) = [each_hit.chunk for each_hit in HITS if each_hit.chunk.chunk_id == each.chunk_id]
        assert chunk.text[each.start - chunk.start : each.end - chunk.start] == each.quote
    return made


async def test_the_sentence_that_answers_comes_first_with_its_marker(generator: ExtractiveGenerator) -> None:
    made = await ask("How many vacation days does an employee get?", generator)
    assert made.generator == "extractive"
    assert made.text.startswith("Every employee gets 25 vacation days a year. [1]")
    assert made.citations[0].quote == "Every employee gets 25 vacation days a year."
    assert made.citations[0].start == 107
    assert 1 <= len(made.citations) <= 3
    assert [each.marker for each in made.citations] == list(range(1, len(made.citations) + 1))


async def test_a_row_is_cited_as_a_row_and_read_with_its_columns(generator: ExtractiveGenerator) -> None:
    made = await ask("What is the yearly deductible of the Plus plan?", generator)
    assert "Plan: Plus; Yearly deductible: 250 USD; Copay: 10 USD. [1]" in made.text
    assert made.citations[0].quote == "Plus | 250 USD | 10 USD"


@pytest.mark.parametrize(
    "question", ["Who painted the Mona Lisa?", "What is the capital of France?", "", "???", "🚀" * 50]
)
async def test_a_question_that_the_hits_do_not_answer_gets_a_plain_refusal(
    generator: ExtractiveGenerator, question: str
) -> None:
    made = await ask(question, generator)
    assert (made.text, list(made.citations), made.abstained) == (ABSTENTION, [], True)


async def test_a_name_that_no_source_has_lowers_the_evidence(generator: ExtractiveGenerator) -> None:
    assert not (await ask("What is the yearly deductible of the Plus plan?", generator)).abstained
    _, known = await generator.score("What is the yearly deductible of the Plus plan?", HITS)
    for question in ("What is the yearly deductible of the Platinum plan?", "What is the deductible of Plus7?"):
        _, evidence = await generator.score(question, HITS)
        assert evidence.unknown_name
        assert evidence.score < known.score
    for question in ("WHAT IS THE DEDUCTIBLE OF THE CHEAP PLAN?", "Wie viele Urlaubstage haben Angestellte pro Jahr?"):
        assert not (await generator.score(question, HITS))[1].unknown_name, "capitals that name nothing"


async def test_a_sources_own_reference_is_not_a_marker(generator: ExtractiveGenerator) -> None:
    made = await ask("When is fish served in the canteen?", generator)
    assert "As shown in (3), fish is on Friday." in made.text


async def test_the_same_sentence_in_two_documents_is_quoted_once() -> None:
    twice = [hit("The pump is serviced every year by us."), hit("The pump is serviced every year by us.", start=50)]
    made = await ExtractiveGenerator(HashEmbedder(), threshold=0.0).generate("When is the pump serviced?", twice)
    assert made.text.count("serviced") == 1


async def test_hits_without_a_sentence_give_no_evidence() -> None:
    made = await ExtractiveGenerator(HashEmbedder(), threshold=0.0).generate("pump?", [hit("---"), hit("3.")])
    assert made.abstained
