from evals.abstention import Measured, at
from rag.adapters.llms.extractive import Evidence


def measured(answerable: bool, *cosines: float) -> list[Measured]:
    return [Measured(answerable, Evidence(0.0, cosine, 0.0, unknown_name=False)) for cosine in cosines]


def test_a_threshold_refuses_what_has_less_evidence_and_nothing_at_it() -> None:
    both = measured(False, 0.1, 0.2, 0.5, 0.9) + measured(True, 0.4, 0.5, 0.8, 0.9)
    choice = at(both, 0.5)
    assert (choice.refused, choice.lost) == (0.5, 0.25)


def test_a_set_without_unanswerable_questions_can_be_measured() -> None:
    choice = at(measured(True, 0.4, 0.6), 0.5)
    assert (choice.refused, choice.lost) == (0.0, 0.5)


def test_evidence_grows_with_what_a_chunk_has_and_falls_with_what_no_hit_names() -> None:
    plain = Evidence(0.5, 0.5, 0.5, unknown_name=False)
    assert Evidence(0.5, 0.5, 0.9, unknown_name=False).score > plain.score
    assert Evidence(0.5, 0.5, 0.5, unknown_name=True).score < plain.score
