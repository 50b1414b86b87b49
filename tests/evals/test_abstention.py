from evals.abstention import Measurement, outcome
from rag.adapters.llms.extractive import Evidence


def measurements(answerable: bool, *cosines: float) -> list[Measurement]:
    return [Measurement(answerable, Evidence(0.0, cosine, 0.0, unknown_name=False)) for cosine in cosines]


def test_a_question_is_refused_below_the_threshold_and_answered_at_it() -> None:
    effect = outcome(measurements(False, 0.1, 0.2, 0.5, 0.9) + measurements(True, 0.4, 0.5, 0.8, 0.9), 0.5)
    assert (effect.refused, effect.lost) == (0.5, 0.25)


def test_a_set_without_unanswerable_questions_can_be_measured() -> None:
    effect = outcome(measurements(True, 0.4, 0.6), 0.5)
    assert (effect.refused, effect.lost) == (0.0, 0.5)


def test_evidence_grows_with_covered_terms_and_falls_with_an_unknown_name() -> None:
    plain = Evidence(0.5, 0.5, 0.5, unknown_name=False)
    assert Evidence(0.5, 0.5, 0.9, unknown_name=False).score > plain.score
    assert Evidence(0.5, 0.5, 0.5, unknown_name=True).score < plain.score
