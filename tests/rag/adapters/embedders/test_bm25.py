import numpy as np
import pytest

from rag.adapters.embedders.bm25 import Bm25Encoder


def score(question: str, text: str) -> float:
    encoder = Bm25Encoder()
    query, (document,) = encoder.encode_query(question), encoder.encode([text])
    weights = dict(zip(document.indices.tolist(), document.values.tolist(), strict=True))
    return sum(weights.get(index, 0.0) for index in query.indices.tolist())


def test_stems_case_and_accents_meet() -> None:
    assert score("INVOICES", "the invoice") > 0
    assert score("cafe", "Café hours") > 0
    assert score("invoice", "the holiday") == 0


def test_stop_words_weigh_nothing() -> None:
    assert score("the of and", "the house of cards and roses") == 0
    assert len(Bm25Encoder().encode([""])[0].indices) == 0


def test_a_repeated_term_weighs_more_and_a_long_text_less() -> None:
    assert score("pump", "pump pump valve") > score("pump", "pump valve seal")
    assert score("pump", "pump valve") > score("pump", "pump " + "valve seal pressure " * 50)


def test_weights_depend_on_the_text_alone() -> None:
    encoder = Bm25Encoder()
    alone, together = encoder.encode(["pump valve"])[0], encoder.encode(["other text", "pump valve"])[1]
    assert alone.indices.tolist() == together.indices.tolist() == sorted(alone.indices.tolist())
    assert alone.values.tolist() == together.values.tolist()


def test_an_upgrade_that_moves_weights_is_noticed() -> None:
    """Golden: when this fails, the encoder's fingerprint must change too."""
    (vector,) = Bm25Encoder().encode(["Invoices were paid; invoice 77"])
    assert vector.indices.dtype == np.uint32
    assert vector.indices.tolist() == [481716713, 1435640861, 1563803460]
    assert vector.values.tolist() == pytest.approx([1.8835616, 1.6467066, 1.6467066], abs=1e-5)


def test_settings_are_in_the_fingerprint() -> None:
    assert Bm25Encoder().fingerprint == Bm25Encoder().fingerprint
    assert (
        len(
            {
                Bm25Encoder().fingerprint,
                Bm25Encoder(language="german").fingerprint,
                Bm25Encoder(average_terms=50).fingerprint,
            }
        )
        == 3
    )
