from __future__ import annotations

from evals.generated_texts import BYTES, questions, texts


def test_the_documents_are_the_same_in_every_run_and_as_long_as_said() -> None:
    first, again = texts(7), texts(7)
    assert first == again
    assert len(set(first)) == 7
    assert all(BYTES <= len(each.encode()) < 1.2 * BYTES for each in first)


def test_another_seed_gives_other_texts_and_a_longer_list_begins_with_the_shorter() -> None:
    assert not set(texts(3, seed=1)) & set(texts(3, seed=2))
    assert texts(5)[:3] == texts(3)
    assert questions(4)[:2] == questions(2)
